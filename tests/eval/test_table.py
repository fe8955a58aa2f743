"""The table: paper's cells with their budgets, ours from files, mini values kept apart."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from core.errors import UserError
from eval.paper.numbers import load_experiment, paper_value
from eval.table import main


def write_metrics(
    run: Path, method: str, task: str, value: float, name: str = "FD-descriptor"
) -> None:
    result = {
        "task": task,
        "distance": {"name": name, "value": value, "n_generated": 256},
        "sampling": {"sampler": "ddim", "steps": 25, "weights": "ema"},
    }
    if task != "generation":
        result["perceptual"] = {"name": "LPIPS-random-backbone", "value": value / 100, "pairs": 9}
    (run / "metrics").mkdir(parents=True, exist_ok=True)
    (run / "metrics" / f"{method}-{task}.json").write_text(json.dumps(result))


def arguments(run: Path, profile: str) -> list[str]:
    names = ["--experiment", "git10m_85", "--run", str(run), "--profile", profile]
    return [*names, "--out", str(run / "table.md"), "--methods", "rsprune", "random"]


def test_paper_profile_compares_and_missing_cells_say_so(tmp_path: Path, capsys) -> None:
    write_metrics(tmp_path, "rsprune", "generation", 60.0, "FID")
    assert main(arguments(tmp_path, "paper")) == 0
    text = (tmp_path / "table.md").read_text()
    row = next(line for line in text.splitlines() if "Unconditional" in line)
    cells = [cell.strip() for cell in row.strip("|").split("|")]
    assert cells[1:4] == ["61.33", "60.00", "-1.327"]
    assert cells[4:7] == ["not transcribed", "not run", "-"]
    assert "mini" not in text
    assert "metrics/rsprune-generation.json" in text
    assert text in capsys.readouterr().out


def test_mini_values_never_stand_in_the_compared_column(tmp_path: Path) -> None:
    for method in ("rsprune", "random"):
        for task in ("generation", "sr", "sis"):
            write_metrics(tmp_path, method, task, 12.5)
    main(arguments(tmp_path, "mini"))
    for line in (tmp_path / "table.md").read_text().splitlines():
        if "FID" in line and line.startswith("| ") and "metric" not in line.split("|")[1]:
            cells = [cell.strip() for cell in line.strip("|").split("|")]
            assert cells[2] == cells[5] == "not run" and cells[3] == cells[6] == "-"
            assert cells[7] == cells[8] == "12.50"
            assert cells[9] == "FD-descriptor, n 256"
    table = json.loads((tmp_path / "table.json").read_text())
    assert all(cell["ours"] is not None for row in table["rows"] for cell in row["cells"])


def test_the_former_name_of_a_flag_is_read_with_a_note(tmp_path: Path, capsys) -> None:
    write_metrics(tmp_path, "full", "generation", 60.0)
    flags = arguments(tmp_path, "paper")
    at = flags.index("--methods")
    assert main([*flags[:at], "--arms", "full"]) == 0
    assert "note: --arms is now called --methods" in capsys.readouterr().err
    assert json.loads((tmp_path / "table.json").read_text())["methods"] == ["full"]


def test_a_typing_error_leaves_the_table_as_it_is(tmp_path: Path, capsys) -> None:
    write_metrics(tmp_path, "rsprune", "generation", 60.0)
    main(arguments(tmp_path, "paper"))
    with pytest.raises(UserError, match="unknown experiment"):
        main([*arguments(tmp_path, "paper"), "--experiment", "git10m"])
    capsys.readouterr()
    main(arguments(tmp_path, "paper"))
    assert "already done" in capsys.readouterr().out


def test_new_metrics_make_the_table_again(tmp_path: Path) -> None:
    write_metrics(tmp_path, "rsprune", "generation", 60.0)
    main(arguments(tmp_path, "paper"))
    write_metrics(tmp_path, "rsprune", "generation", 61.0)
    main(arguments(tmp_path, "paper"))
    assert "61.00" in (tmp_path / "table.md").read_text()


def test_every_paper_cell_carries_its_budget_and_unknown_names_are_refused() -> None:
    experiment = load_experiment("git10m_85")
    for cell in experiment["cells"]:
        assert {"table", "corpus", "method", "ratio", "task", "metric", "value"} <= set(cell)
        assert {"steps", "checkpoint"} <= set(cell)
        assert experiment["defaults"]["sampler"] == "not stated"
    row = experiment["rows"][0]
    found = paper_value(experiment, row, "rsprune")
    assert found is not None and found["value"] == 61.3269
    assert paper_value(experiment, row, "random") is None
    with pytest.raises(UserError, match="git10m_85"):
        load_experiment("nonsense")


def test_what_is_no_fid_is_not_held_against_the_papers(tmp_path: Path) -> None:
    write_metrics(tmp_path, "rsprune", "generation", 60.0)
    write_metrics(tmp_path, "rsprune", "sr", 60.0, "FID")
    assert main(arguments(tmp_path, "paper")) == 0
    text = (tmp_path / "table.md").read_text()
    row = next(line for line in text.splitlines() if "Unconditional" in line)
    cells = [cell.strip() for cell in row.strip("|").split("|")]
    assert cells[1:4] == ["61.33", "60.00 (see below)", "-"]
    assert "Unconditional generation, FID, RS-Prune: ours is FD-descriptor, which does not" in text
    assert "SR), LPIPS, RS-Prune: ours is LPIPS-random-backbone" in text
    assert "SR), FID, RS-Prune: ours" not in text


def test_places_that_cannot_be_are_refused(tmp_path: Path) -> None:
    run, name = ["--run", str(tmp_path)], ["--experiment", "git10m_85"]
    with pytest.raises(UserError, match="no such folder"):
        main([*name, "--run", str(tmp_path / "absent"), "--out", str(tmp_path / "t.md")])
    for out in ("t", "t.json"):
        with pytest.raises(UserError, match="name a Markdown file"):
            main([*name, *run, "--out", str(tmp_path / out)])
    with pytest.raises(SystemExit):  # "Mini" would have stood in the paper's column
        main([*name, *run, "--out", str(tmp_path / "t.md"), "--profile", "Mini"])
    path = tmp_path / "metrics" / "rsprune-sr.json"
    write_metrics(tmp_path, "rsprune", "generation", 1.0)
    for content, message in (
        ("{", "not what eval.evaluate writes"),
        ("[]", "not what eval.evaluate writes"),
        ((path.parent / "rsprune-generation.json").read_text(), "of 'generation', expected 'sr'"),
    ):
        path.write_text(content)
        with pytest.raises(UserError, match=f"rsprune-sr.json: .*{message}"):
            main(arguments(tmp_path, "paper"))
