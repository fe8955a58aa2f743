"""The table: paper's cells with their budgets, ours from files, mini values kept apart."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest

from core.errors import UserError
from eval.paper.numbers import load_experiment, paper_value
from eval.table import main


def distance(value: float, name: str = "FD-judge", spread: float = 0.1) -> dict:
    return {
        "name": name, "value": value, "interval_95": [value - spread, value + spread],
        "kernel_name": "KD-judge", "kernel_value": value / 1000,
        "kernel_interval_95": [(value - spread) / 1000, (value + spread) / 1000],
        "n_generated": 256, "n_real": 256, "lead": "kernel",
    }  # fmt: skip


def share(value: float, **more: object) -> dict:
    return {"value": value, "interval_95": [value - 0.02, value + 0.02], **more}


def write_metrics(
    run: Path,
    method: str,
    task: str,
    value: float,
    name: str = "FD-judge",
    after: float | None = None,
    **changes: object,
) -> Path:
    """A metrics file as eval.evaluate and eval.loss write it; every distance is `value`.

    `after`: that with both sides after the VAE.
    """
    result: dict = {
        "task": task,
        "extractor": {"name": "judge"},
        "sampling": {"sampler": "ddim", "steps": 25, "weights": "ema"},
    }
    if task == "generation":
        held = {
            "distance": distance(value, name), "subset_floor": distance(value / 2, name),
            "vae_floor": distance(value / 4, name),
        }  # fmt: skip
        if after is not None:
            held["after_vae"] = {"distance": distance(after, name, 0.01)}
        classes = {label: {"recall": recall} for label, recall in (("sea", 0.9), ("port", 0.1))}
        result["holdouts"] = {
            "pool": held, "balanced": {**held, "classes": classes}, "informative": held,
        }  # fmt: skip
        result["authenticity"] = {"pixels": {"nearer_to_training": share(0.5, real=0.48)}}
    elif task == "loss":
        result["ema"] = {kind: {"mse": share(value)} for kind in ("pool", "balanced", "subset")}
    else:
        paired = {
            "distance": distance(value, name),
            "perceptual": {"name": "PD-judge", "pairs": 9, **share(value / 100)},
            "psnr": {"name": "PSNR (dB)", "pairs": 9, **share(value)},
            "ssim": {"name": "SSIM", "pairs": 9, **share(0.7)},
        }
        result |= paired
        if task == "sr":
            result["bicubic"] = {**paired, "psnr": {"name": "PSNR (dB)", "value": 20.0}}
        else:
            result["adherence"] = {
                "miou": share(0.4), "accuracy": share(0.6),
                "real": {"miou": {"value": 0.7}, "accuracy": {"value": 0.8}},
                "shuffled": {"miou": {"value": 0.1}, "accuracy": {"value": 0.2}},
            }  # fmt: skip
    (run / "metrics").mkdir(parents=True, exist_ok=True)
    path = run / "metrics" / f"{method}-{task}.json"
    path.write_text(json.dumps({**result, **changes}))
    return path


def lines_of(text: str, head: str) -> list[list[str]]:
    """The cells of the rows that begin with `head`."""
    rows = (line.strip("| ").split(" | ") for line in text.splitlines() if line.startswith("| "))
    return [[cell.strip() for cell in row] for row in rows if row[0].startswith(head)]


def arguments(run: Path, profile: str) -> list[str]:
    names = ["--experiment", "git10m_85", "--run", str(run), "--profile", profile]
    return [*names, "--out", str(run / "table.md"), "--methods", "rsprune", "random"]


def test_paper_profile_compares_and_missing_cells_say_so(tmp_path: Path, capsys) -> None:
    write_metrics(tmp_path, "rsprune", "generation", 60.0, "FID")
    assert main(arguments(tmp_path, "paper")) == 0
    text = (tmp_path / "table.md").read_text()
    (cells,) = lines_of(text, "Unconditional")
    assert cells[1:4] == ["61.3269", "60.00", "-1.327"]
    assert cells[4:7] == ["not in the paper", "not run", "-"]
    assert "mini" not in text.lower() and "against the informative hold-out" in text
    assert "metrics/rsprune-generation.json" in text
    assert text in capsys.readouterr().out


def test_mini_values_never_stand_in_the_compared_column(tmp_path: Path) -> None:
    for method in ("rsprune", "random"):
        for task in ("generation", "sr", "sis", "loss"):
            write_metrics(tmp_path, method, task, 12.5, "FID")
    main(arguments(tmp_path, "mini"))
    text = (tmp_path / "table.md").read_text()
    for head in ("Unconditional", "Super-resolution (SECOND", "Semantic image synthesis (Open"):
        for cells in lines_of(text, head):
            assert cells[2] == cells[5] == "not run" and cells[3] == cells[6] == "-"
    table = json.loads((tmp_path / "table.json").read_text())
    assert all(cell["ours"] is not None for row in table["rows"] for cell in row["cells"])


def test_measured_rows_have_floors_and_intervals(tmp_path: Path, capsys) -> None:
    for method, value in (("rsprune", 4.0), ("random", 5.0)):
        for task in ("generation", "sr", "sis", "loss"):
            write_metrics(tmp_path, method, task, value, after=value / 5)
    main(arguments(tmp_path, "mini"))
    text = (tmp_path / "table.md").read_text()
    for holdout in ("pool", "balanced", "informative"):
        (cells,) = lines_of(text, f"Generation, {holdout} hold-out")
        assert cells[1] == "KD-judge x 1,000, n 256"
        assert cells[3:5] == ["**4.000** [3.900, 4.100]", "5.000 [4.900, 5.100]"]
        floors = "real RS-Prune subset 2.000; real Random subset 2.500; VAE 1.000"
        assert cells[5] == floors
        (cells,) = lines_of(text, f"Both after the VAE, {holdout} hold-out")
        assert cells[3:] == ["**0.800** [0.790, 0.810]", "1.000 [0.990, 1.010]", "-"]
    (cells,) = lines_of(text, "Scene classes generated, of 2 (balanced")
    assert cells[3] == "0.500" and "RS-Prune's lowest, port 0.100" in cells[5]
    (cells,) = lines_of(text, "Copies, in pixels")
    assert cells[3] == "0.500 [0.480, 0.520]" and "real images for Random 0.480" in cells[5]
    losses = lines_of(text, "Held-out loss")
    assert len(losses) == 2 and "RS-Prune's training images 4.000" in losses[0][5]
    resolved = {cells[1]: cells for cells in lines_of(text, "Super-resolution")}
    assert resolved["PSNR (dB)"][5] == "bicubic input 20.00"
    assert resolved["PSNR (dB)"][4].startswith("**5.000**")  # higher is better there
    synthesis = {cells[1]: cells for cells in lines_of(text, "Semantic image synthesis")}
    assert synthesis["mIoU with the mask"][5] == "real images 0.700; masks of other images 0.100"
    assert "SSIM" not in synthesis
    assert "36 of 36 cells filled" in capsys.readouterr().out


def test_the_words_under_the_table_follow_its_numbers(tmp_path: Path) -> None:
    def words(*values: tuple[str, str, float]) -> str:
        for method, task, value in values:
            write_metrics(tmp_path, method, task, value)
        main(arguments(tmp_path, "mini"))
        return json.loads((tmp_path / "table.json").read_text())["conclusion"]

    both = [("rsprune", "generation", 4.0), ("random", "generation", 5.0)]
    text = words(*both)
    assert text.startswith("RS-Prune is nearest to the pool, balanced and informative hold-outs.")
    assert "decides" not in text and "over images, not over other trainings" in text
    text = words(("rsprune", "generation", 6.0), both[1])
    assert text.startswith("Random is nearest to the pool, balanced and informative hold-outs.")
    text = words(("rsprune", "generation", 5.1), both[1])
    assert text.startswith("The pool, balanced and informative hold-outs do not tell the methods")

    for method, value, after in (("rsprune", 5.0, 1.0), ("random", 4.0, 2.0)):
        write_metrics(tmp_path, method, "generation", value, after=after)
    assert words().startswith(
        "Random is nearest to the pool, balanced and informative hold-outs. With both sides after "
        "the VAE: RS-Prune is nearest to the pool, balanced and informative hold-outs."
    )
    result = json.loads((tmp_path / "metrics/rsprune-generation.json").read_text())
    held = {**result["holdouts"]["pool"], "vae_floor": distance(4.5)}
    write_metrics(tmp_path, "rsprune", "generation", 5.0, holdouts={"pool": held})
    assert "after the VAE, whose blur alone is up to 112 % as far: " in words()

    result = json.loads(write_metrics(tmp_path, "rsprune", "generation", 4.0).read_text())
    result["holdouts"]["pool"]["distance"] = distance(9.0)
    result["holdouts"]["balanced"]["distance"] = distance(5.05)
    text = words(both[1])
    write_metrics(tmp_path, "rsprune", "generation", 4.0, holdouts=result["holdouts"])
    text = words(("rsprune", "sr", 21.0), ("random", "sr", 22.0), ("rsprune", "sis", 1.0))
    assert text.startswith("Random is nearest to the pool hold-out; RS-Prune is nearest to the "
                           "informative hold-out; the balanced hold-out does not tell")  # fmt: skip
    assert "the choice of hold-out decides which method looks better" in text
    assert "nearer to the truth than its bicubic input (RS-Prune 21.0 and Random 22.0" in text
    assert "Synthesis follows its mask (mIoU RS-Prune 0.40; with other images' masks 0.10" in text
    text = words(("rsprune", "sr", 18.0), ("random", "sr", 19.0))
    assert "loses to its own bicubic input in PSNR (RS-Prune 18.0 and Random 19.0 against" in text
    assert "with some methods only" in words(("rsprune", "sr", 21.0))
    blind = json.loads((tmp_path / "metrics/rsprune-sis.json").read_text())["adherence"]
    blind["miou"] = share(0.11)
    write_metrics(tmp_path, "rsprune", "sis", 1.0, adherence=blind)
    assert "Synthesis does not follow its mask (mIoU RS-Prune 0.11" in words()


def test_several_trainings_are_compared_seed_by_seed(tmp_path: Path) -> None:
    values = {"rsprune": (4.0, 6.0, 8.0), "random": (4.9, 7.0, 9.1)}
    for method, trained in values.items():
        for seed, value in enumerate(trained):
            name = f"{method}-seed{seed}" if seed else method
            write_metrics(tmp_path, name, "generation", value)
    main([*arguments(tmp_path, "mini"), "--seeds", "0", "1", "2"])
    table = json.loads((tmp_path / "table.json").read_text())
    row = table["measured"][0]
    cell = row["cells"]["rsprune"]
    assert cell["value"] == pytest.approx(6.0 / 1000)
    assert cell["interval_95"] == pytest.approx([5.9 / 1000, 6.1 / 1000])  # over images
    # t_{0.975, 2} = 4.302653 times 2 / sqrt(3), over trainings
    bounds = [(6 - 4.96827) / 1000, (6 + 4.96827) / 1000]
    assert cell["over_seeds"]["interval_95"] == pytest.approx(bounds, rel=1e-4)
    paired = row["paired"]["random - rsprune"]
    half = 4.302653 * 0.1 / 3**0.5
    assert paired["interval_95"] == pytest.approx([(1 - half) / 1e3, (1 + half) / 1e3], rel=1e-5)
    # The trainings differ more than the methods do, and still each pair says the same.
    assert table["conclusion"].startswith("RS-Prune is nearest to the pool, balanced and")
    assert "3 trainings each, compared seed by seed" in table["conclusion"]
    (cells,) = lines_of((tmp_path / "table.md").read_text(), "Generation, pool hold-out")
    assert cells[3] == "**6.000** [5.900, 6.100]; 3 seeds [1.032, 10.97]"
    assert "Random - RS-Prune, 3 seeds: 1.000 [0.752, 1.248]" in cells[5]
    assert cells[5].startswith("real RS-Prune subset 2.000; real Random subset 2.450; VAE")
    write_metrics(tmp_path, "random-seed2", "generation", 7.0)
    main([*arguments(tmp_path, "mini"), "--seeds", "0", "1", "2"])
    table = json.loads((tmp_path / "table.json").read_text())
    assert "do not tell the methods apart" in table["conclusion"]


def test_judges_must_be_one_and_must_not_have_chosen(tmp_path: Path) -> None:
    write_metrics(tmp_path, "rsprune", "generation", 4.0, chosen_by={"name": "judge"})
    with pytest.raises(UserError, match="its features chose the subset rsprune"):
        main(arguments(tmp_path, "mini"))
    chosen = {"chosen_by": {"name": "descriptor"}}
    write_metrics(tmp_path, "rsprune", "generation", 4.0, **chosen)
    # Random's own subset was chosen by none, but it stands beside one that the judge chose.
    write_metrics(tmp_path, "random", "generation", 4.0, extractor={"name": "another"})
    with pytest.raises(UserError, match=r"measured by different judges \(judge, another\)"):
        main(arguments(tmp_path, "mini"))
    own = {"extractor": {"name": "descriptor"}, **chosen}
    for method in ("rsprune", "random"):
        write_metrics(tmp_path, method, "generation", 4.0, **own)
    with pytest.raises(UserError, match="--extractor descriptor: its features chose"):
        main(arguments(tmp_path, "mini"))
    labelled = {"remarks": ["judged by the encoder that chose it"], **own}
    write_metrics(tmp_path, "rsprune", "generation", 4.0, **labelled)
    main(arguments(tmp_path, "mini"))
    (cells,) = lines_of((tmp_path / "table.md").read_text(), "Generation, pool hold-out")
    assert "(the judge chose this subset)" in cells[3] and "chose" not in cells[4]


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


def test_the_papers_cells_are_all_there_and_carry_their_budget() -> None:
    experiment = load_experiment("git10m_85")
    counts = Counter(cell["table"] for cell in experiment["cells"])
    assert [counts[f"Table {n}"] for n in (1, 2, 3, 4)] == [70, 48, 36, 30]
    for cell in experiment["cells"]:
        if cell.get("metric") in ("FID", "LPIPS") and cell["table"].startswith("Table"):
            assert {"corpus", "method", "ratio", "task", "value", "steps"} <= set(cell)
    assert experiment["defaults"]["sampler"] == "not stated"

    def value(table: str, method: str, ratio: float | str, task: str, **more: str) -> list[float]:
        wanted = {"table": table, "corpus": "git10m", "method": method, "ratio": ratio,
                  "task": task, "metric": "FID", **more}  # fmt: skip
        return [cell["value"] for cell in experiment["cells"] if wanted.items() <= cell.items()]

    assert value("Table 1", "full", 0.0, "generation") == [45.30]
    assert value("Table 1", "random", 0.7, "sr") == [89.25]
    assert value("Table 3", "full", 0.0, "generation") == [127.8932]
    assert value("Table 3", "rsprune", 0.7, "generation") == [70.0361]
    assert value("Table 4", "rsprune", "not stated", "generation") == [61.69, 60.14, 62.28, 60.65]
    assert value("Table 4", "rsprune", 0.85, "generation") == []  # it states no ratio

    rows = {(row["task"], row["metric"]): row for row in experiment["rows"]}
    found = {key: paper_value(experiment, row, "rsprune") for key, row in rows.items()}
    assert {key: cell and cell["value"] for key, cell in found.items()} == {
        ("generation", "FID"): 61.3269, ("sr", "FID"): None, ("sr", "LPIPS"): None,
        ("sis", "FID"): 120.5167, ("sis", "LPIPS"): 0.5982,
    }  # fmt: skip
    assert paper_value(experiment, rows["generation", "FID"], "random") is None
    with pytest.raises(UserError, match="git10m_85"):
        load_experiment("nonsense")


def test_what_is_no_fid_is_not_held_against_the_papers(tmp_path: Path) -> None:
    write_metrics(tmp_path, "rsprune", "generation", 60.0)
    write_metrics(tmp_path, "rsprune", "sis", 60.0, "FID")
    assert main(arguments(tmp_path, "paper")) == 0
    text = (tmp_path / "table.md").read_text()
    (cells,) = lines_of(text, "Unconditional")
    assert cells[1:4] == ["61.3269", "60.00 (see below)", "-"]
    assert "Unconditional generation, FID, RS-Prune: ours is FD-judge, which does not" in text
    assert "Map), LPIPS, RS-Prune: ours is PD-judge" in text
    assert "Map), FID, RS-Prune: ours" not in text


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
        ('{"task": "sr", "distance": {}, "lpips": {}}', "of an earlier version"),
    ):
        path.write_text(content)
        with pytest.raises(UserError, match=f"rsprune-sr.json: .*{message}"):
            main(arguments(tmp_path, "paper"))
