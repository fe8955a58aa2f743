"""An experiment's table: the paper's cells beside ours, orderings, states, and what is refused."""

from __future__ import annotations

import csv
import io
import json
import re
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from core.errors import UserError
from eval.programme.labels import labelled
from eval.programme.plan import read_plan
from eval.report.latex import escape
from eval.tables import main
from tests.eval.plans import PlanMaker, small_plan
from tests.vouch import vouch


def make(maker: PlanMaker, *flags: str) -> dict[str, Any]:
    """Write the plan, run the command; table.json."""
    maker.write()
    arguments = [maker.experiment, "--profile", maker.profile, "--runs", str(maker.runs)]
    assert main([*arguments, *flags]) == 0
    return json.loads((folder(maker) / "table.json").read_text())


def folder(maker: PlanMaker) -> Path:
    return maker.runs / maker.profile / maker.experiment


def lines_of(table: dict[str, Any], **wanted: Any) -> list[dict[str, Any]]:
    """The lines with these fields, of all sections."""
    lines = [line for section in table["sections"] for line in section["lines"]]
    return [line for line in lines if wanted.items() <= line.items()]


def rewrite(path: Path, change: Any) -> None:
    """Change a metrics file as its command might have written it."""
    result = json.loads(path.read_text())
    path.write_text(json.dumps(change(result)))
    vouch(path)


GENERATION = {"tasks": ("generation",)}


def test_the_paper_profile_compares_and_cells_not_run_say_so(tmp_path: Path, capsys) -> None:
    maker = PlanMaker(tmp_path, profile="paper")
    maker.family("git10m/rsprune-70", "rsprune", label="Ours", value=30.0, judge="FID")
    maker.family("git10m/random-70", "random", label="Random", stop={"train": "failed"})
    maker.family("git10m/within-70", "random", label="Within", paper=None, **GENERATION,
                 value=33.0, judge="FID")  # fmt: skip
    table = make(maker)
    (ours,) = lines_of(table, label="Ours", task="generation")
    assert (ours["paper"], ours["ours"]) == (28.46, 30.0)
    assert ours["difference"] == pytest.approx(30.0 - 28.46)
    assert (ours["low"], ours["high"]) == pytest.approx((29.9, 30.1))
    budget = ("n", "steps", "sampler", "sampling_steps", "weights", "seeds", "holdout", "measure")
    assert [ours[name] for name in budget] == [
        200, 2000, "ddim", 25, "ema", [0], "informative", "FID",
    ]  # fmt: skip
    assert ours["training_images"] == 390 and ours["paper_checkpoint"] == "best during training"
    (lpips,) = lines_of(table, label="Ours", task="sis", metric="LPIPS")
    assert lpips["difference"] == pytest.approx(0.30 - 0.5967) and lpips["steps"] == 200
    (random,) = lines_of(table, label="Random", task="generation")
    assert random["value"] is None and random["state"] == "failed" and random["paper"] == 43.87
    (within,) = lines_of(table, label="Within")
    assert within["ours"] == 33.0 and within["paper"] is None and within["difference"] is None
    assert (table["filled"], table["planned"]) == (6, 11)
    assert table["sections"][0]["absent"] == 70 / 2 - 2 * 5

    text = (folder(maker) / "table.md").read_text()
    assert "| Ours         | 28.46 / 30.00 " in text and "43.87 / failed" in text
    assert re.search(r"FID \| Ours +\| 28.46 +\| 30.00 \| \+1.54 +\| \[29.90, 30.10\] ", text)
    assert "not in the paper" in text and "mini" not in text.lower()
    assert "- Random (git10m): 5 failed: `PROFILE=paper bash experiments/table1.sh --only " in text
    assert "dit.train/git10m-random-70-train: error: CUDA out of memory" in text
    assert text in capsys.readouterr().out
    rows = list(csv.DictReader(io.StringIO((folder(maker) / "table.csv").read_text())))
    assert len(rows) == table["planned"] and rows[0]["ours"] == "30.0"
    assert rows[0]["files"].endswith("git10m-rsprune-70-generation/metrics.json")


def test_mini_values_never_stand_in_the_compared_column(tmp_path: Path) -> None:
    maker = PlanMaker(tmp_path, profile="small")
    maker.family("git10m/rsprune-70", "rsprune", value=12.5, judge="FID")
    table = make(maker)
    lines = lines_of(table)
    assert len(lines) == 5 and all(line["comparable"] for line in lines)
    assert all(line["value"] is not None for line in lines)
    assert all(line["ours"] is None and line["difference"] is None for line in lines)
    text = (folder(maker) / "table.md").read_text()
    assert "28.46 / 12.50 (small)" in text and "| ours" not in text
    assert "| cell            | row     | paper  | small " in text


def test_what_is_no_fid_is_not_held_against_the_papers(tmp_path: Path) -> None:
    maker = PlanMaker(tmp_path, profile="paper")
    maker.family("git10m/rsprune-70", "rsprune", value=60.0, tasks=("generation", "sis"))
    table = make(maker)
    assert [line["difference"] for line in lines_of(table, state="done")] == [None] * 3
    text = (folder(maker) / "table.md").read_text()
    assert "28.46 / 60.00 (another measure)" in text
    assert "KD-EfficientNetLite0 x 1,000 and PD-EfficientNetLite0 (uncalibrated): not the" in text
    (resolved, _) = lines_of(table, task="sr")  # which the paper has, and this plan has not
    assert resolved["state"] == "not planned" and "87.98 / not in the plan" in text


def test_which_orderings_hold(tmp_path: Path) -> None:
    """The paper: Ours 28.46 < DINOv2 39.34 < Random 43.87 < Moderate 44.07 < A2-MAE 45.96."""
    maker = PlanMaker(tmp_path)
    values = {"rsprune": 10.0, "dinov2": 12.0, "random": 11.0, "moderate": 12.1}
    for method, value in values.items():
        maker.family(f"git10m/{method}-70", method, value=value, **GENERATION)
    maker.family("git10m/a2mae-70", "a2mae", stop={"train": "missing"}, **GENERATION)
    maker.family("git10m/further", "random", paper=None, value=1.0, **GENERATION)
    (found,) = make(maker)["orderings"]
    assert found["counts"] == {
        "holds": 4, "reversed": 1, "undecided": 1, "not run": 4, "tied in the paper": 0,
    }  # fmt: skip
    verdicts = {(pair["a"], pair["b"]): pair["verdict"] for pair in found["pairs"]}
    assert verdicts["dinov2", "random"] == "reversed"
    assert verdicts["dinov2", "moderate"] == "undecided"  # [11.9, 12.1] and [12.0, 12.2]
    text = (folder(maker) / "table.md").read_text()
    assert "(profile mini): 4 of 10 hold, 1 is reversed, 1 undecided, 4 not run." in text
    assert "- Table 1, Generation, FID, last: dinov2 and random" in text


def test_orderings_of_several_seeds_are_paired(tmp_path: Path) -> None:
    maker = PlanMaker(tmp_path)  # 4, 5, 6 and 4.3, 5.3, 6.3: each pair says the same
    maker.family("git10m/rsprune-70", "rsprune", value=4.0, seeds=(0, 1, 2), **GENERATION)
    maker.family("git10m/random-70", "random", value=4.3, seeds=(0, 1, 2), **GENERATION)
    maker.family("git10m/dinov2-70", "dinov2", value=5.0, **GENERATION)
    table = make(maker)
    verdicts = {(p["a"], p["b"]): p["verdict"] for p in table["orderings"][0]["pairs"]}
    assert verdicts == {("rsprune", "random"): "holds", ("rsprune", "dinov2"): "undecided",
                        ("random", "dinov2"): "undecided"}  # fmt: skip
    (line,) = lines_of(table, label="rsprune", task="generation")
    assert line["seeds"] == [0, 1, 2] and line["value"] == pytest.approx(5.0)
    half = 4.302653 * 1.0 / 3**0.5
    assert (line["seeds_low"], line["seeds_high"]) == pytest.approx((5 - half, 5 + half), rel=1e-5)


def test_checkpoint_rules_are_rows_of_their_own(tmp_path: Path) -> None:
    maker = PlanMaker(tmp_path)
    tasks, rules = ("generation", "track", "sr"), ("best-test", "best-validation")
    maker.family("git10m/ours", "rsprune", label="Ours", value=4.0, tasks=tasks, rules=rules)
    table = make(maker)
    generation = {line["checkpoint"]: line for line in lines_of(table, task="generation")}
    assert {rule: line["value"] for rule, line in generation.items()} == pytest.approx(
        {"last": 4.0, "best on the hold-out": 0.9 * 4.0}  # of the track: at its last but one
    )
    assert generation["best on the hold-out"]["checkpoint_step"] == 1500
    resolved = {line["checkpoint"]: line for line in lines_of(table, task="sr", metric="FID")}
    assert list(resolved) == ["last", "best on validation", "best on the hold-out"]
    assert resolved["best on validation"]["value"] == pytest.approx(3.5)
    text = (folder(maker) / "table.md").read_text()
    assert "| Ours, best on the hold-out " in text and "best on the hold-out (step 1,500)" in text
    rows = list(csv.DictReader(io.StringIO((folder(maker) / "table.csv").read_text())))
    assert sum(row["checkpoint"] != "last" for row in rows) == 1 + 2 * 2


def test_table_4_has_the_clustering(tmp_path: Path) -> None:
    maker = PlanMaker(tmp_path, "table4", "paper", paper_tables=("Table 4",))
    keys = {"corpus": "git10m", "method": "rsprune", "reference": "single, 45 classes"}
    both = ("generation", "clustering")
    maker.family("git10m/45", "rsprune", ratio=0.85, tasks=both, paper=keys, clusters=200,
                 value=61.0, judge="FID", seconds=3.0)  # fmt: skip
    entropy = {"corpus": "git10m", "method": "entropy-set"}
    maker.family("git10m/entropy-set", "entropy-set", ratio=0.85, tasks=both, paper=entropy,
                 clusters=200, reduce=128, value=70.0, judge="FID", seconds=9.0)  # fmt: skip
    maker.family("git10m/21", "rsprune", ratio=0.85, tasks=both, stop={"centroids": "running"},
                 paper={**keys, "reference": "single, 21 classes"})  # fmt: skip
    table = make(maker)
    values = {line["metric"]: line for line in lines_of(table, cell="git10m/45")}
    assert {metric: line["value"] for metric, line in values.items()} == {
        "sample_size": 520, "cluster_numbers": 200, "feature_dimension": 502, "seconds": 6.0,
        "FID": 61.0,
    }  # fmt: skip
    assert values["sample_size"]["paper"] == "31,500"
    assert values["sample_size"]["difference"] == 520 - 31_500
    assert values["seconds"]["difference"] is None  # on which hardware, the paper does not say
    assert values["FID"]["difference"] == pytest.approx(61.0 - 60.14)
    reduced = {line["metric"]: line["value"] for line in lines_of(table, cell="git10m/entropy-set")}
    assert reduced["feature_dimension"] == 128 and reduced["seconds"] == 18.0
    assert {line["state"] for line in lines_of(table, cell="git10m/21")} == {"running"}
    counts = {one["metric"]: one["counts"]["holds"] for one in table["orderings"]}
    assert counts == {"seconds": 1, "FID": 1}


def test_figures_have_the_papers_claim_beside_ours(tmp_path: Path) -> None:
    tasks = ("generation", "track")
    maker = PlanMaker(tmp_path, "fig3", kind="figure", paper_tables=("Figure 3", "Figure 1c"))
    maker.family("git10m/rsprune-70", "rsprune", label="Ours", tasks=tasks, value=2.0, paper=None)
    maker.family("git10m/random-70", "random", label="Random", tasks=tasks, value=4.0, paper=None)
    table = make(maker)
    # Random's best is 3.6, at step 1,500; ours has 4.0 at step 500 and 2.8 at step 1,000: a third
    # of the way between them.
    claims = {claim["figure"]: claim for claim in table["claims"]}
    assert claims["Figure 3"]["ours"] == pytest.approx(500 + 500 / 3)
    assert claims["Figure 3"]["paper"] == "about 50000"
    assert claims["Figure 1c"]["ours"] == pytest.approx(2.25)
    assert claims["Figure 1c"]["paper"] == "1.9 to 2.1"
    text = (folder(maker) / "table.md").read_text()
    assert "| about 50000 | 666.67 (mini) | as near as Random's best (3.6, step 1,500) at" in text

    maker = PlanMaker(tmp_path, "fig4", "paper", kind="figure", paper_tables=())
    for method, ratio, value in (("full", 0.0, 70.0), ("entropy", 0.7, 40.0)):
        how = {"ratio": ratio, "value": value, "judge": "FID", **GENERATION}
        maker.family(f"git10m/{method}", method, **how)
    table = make(maker)
    values = [(line["paper"], line["ours"]) for line in lines_of(table)]
    assert values == [(61.69, 70.0), (32.86, 40.0)]
    assert table["orderings"][0]["counts"]["holds"] == 1


def test_an_experiment_that_the_paper_has_no_table_of(tmp_path: Path) -> None:
    maker = PlanMaker(tmp_path, "ksweep", kind="figure", paper_tables=())
    for k in (12, 48):
        maker.family(f"git10m/K{k}", "rsprune", clusters=k, paper=None, tasks=("clustering",))
    table = make(maker)
    (section,) = table["sections"]
    assert section["table"] == "" and (table["filled"], table["planned"]) == (8, 8)
    values = [line["value"] for line in lines_of(table, metric="cluster_numbers")]
    assert values == [12, 48] and not table["orderings"] and not table["claims"]


def test_each_corpus_and_each_table_has_its_section(tmp_path: Path) -> None:
    corpora = {"git10m": "a", "rs5m": "b"}
    maker = PlanMaker(tmp_path, "git10m_85", paper_tables=("Table 2", "Table 3"), corpora=corpora)
    for corpus in corpora:
        keys = {"corpus": corpus, "method": "rsprune", "ratio": 0.85, "subset": "D30"}
        how = {"corpus": corpus, "paper": keys, "tasks": ("generation", "sr")}
        maker.family(f"{corpus}/rsprune-85", "rsprune", **how)
        maker.family(f"{corpus}/random-85", "random", corpus=corpus, paper=None, **GENERATION)
    table = make(maker)
    sections = [(s["table"], s["corpus"], len({line["cell"] for line in s["lines"]}))
                for s in table["sections"]]  # fmt: skip
    assert sections == [("Table 2", "git10m", 2), ("Table 2", "rs5m", 2),
                        ("Table 3", "git10m", 1), ("Table 3", "rs5m", 1)]  # fmt: skip
    # In Table 3 only what the paper has there: neither SR nor Random again.
    assert table["planned"] == 2 * (3 + 1) + 2 * 1
    assert [part["corpus"] for part in table["measured"]] == ["git10m", "rs5m"]
    assert "## Measured, RS5M" in (folder(maker) / "table.md").read_text()


def test_rows_are_called_by_what_tells_them_apart(tmp_path: Path) -> None:
    maker = PlanMaker(tmp_path, "table4", paper_tables=("Table 4",))
    how = {"tasks": (), "stop": {"scores": "missing"}}
    for name, classes in (("ucm", "single, 21 classes"), ("nwpu", "single, 45 classes")):
        keys = {"corpus": "git10m", "method": "rsprune", "reference": classes}
        maker.family(f"git10m/{name}", "rsprune", label=name, paper=keys, **how)
    maker.family("git10m/a", "random", label="a", ratio=0.7, paper=None, **how)
    maker.family("git10m/b", "random", label="b", ratio=0.85, paper=None, **how)
    maker.family("git10m/full", "full", label="All of it", paper=None, **how)
    labels = [cell.label for cell in labelled(read_plan(maker.write()).cells)]
    assert labels == ["RS-Prune, single, 21 classes", "RS-Prune, single, 45 classes",
                      "Random, 70 %", "Random, 85 %", "All of it"]  # fmt: skip


def test_a_damaged_record_is_named_and_the_rest_of_the_table_made(tmp_path: Path, capsys) -> None:
    maker = PlanMaker(tmp_path)
    maker.family("git10m/rsprune-70", "rsprune", label="Ours", tasks=("generation", "sr", "track"))
    maker.family("git10m/random-70", "random", label="Random", **GENERATION)
    path = maker.out("git10m/rsprune-70", "sr")
    whole = path.read_text()
    other = maker.out("git10m/rsprune-70", "generation").read_text()
    for content, message, vouched in (
        ("{", "not what eval.evaluate writes", True),
        ("[]", "not what eval.evaluate writes", True),
        (other, "of 'generation', expected 'sr'", True),
        ('{"task": "sr", "distance": {}, "lpips": {}}', "of an earlier version", True),
        (whole.replace('"lead"', '"led"'), "not what eval.evaluate writes", True),
        (whole.replace("0.7", "0.8"), "damaged: its bytes", False),
    ):
        path.write_text(content)
        if vouched:
            vouch(path)
        table = make(maker)
        (resolved, _) = lines_of(table, task="sr", label="Ours")
        assert resolved["state"] == "damaged" and resolved["files"] == [str(path)]
        assert message in table["damaged"][str(path)]
        assert f"WARNING: DAMAGED RECORD LEFT OUT: {path}: " in capsys.readouterr().err
        assert lines_of(table, label="Random", task="generation")[0]["state"] == "done"
    text = (folder(maker) / "table.md").read_text()
    assert f"**Damaged record, left out:** `{path}`" in text and "87.98 / damaged record" in text
    assert "Ours (git10m): 2 damaged record: `PROFILE=mini bash experiments/table1.sh" in text
    path.write_text(whole)
    vouch(path)
    track = maker.out("git10m/rsprune-70", "track") / "track.jsonl"
    track.write_text("nonsense\n" + track.read_text())
    table = make(maker)
    assert list(table["damaged"]) == [str(track)]
    (best,) = lines_of(table, task="generation", checkpoint="best on the hold-out")
    assert best["state"] == "damaged"


def test_judges_must_be_one_and_must_not_have_chosen(tmp_path: Path) -> None:
    maker = PlanMaker(tmp_path)
    for method in ("rsprune", "random"):
        maker.family(f"git10m/{method}-70", method, **GENERATION)
    ours, random = (maker.out(f"git10m/{m}-70", "generation") for m in ("rsprune", "random"))
    make(maker)
    before = (folder(maker) / "table.md").read_text()
    rewrite(random, lambda result: result | {"extractor": {"name": "another"}})
    with pytest.raises(UserError, match=r"different judges \(efficientnet-lite0, another\)"):
        make(maker)
    own = {"extractor": {"name": "descriptor"}, "chosen_by": {"name": "descriptor"}}
    rewrite(ours, lambda result: result | own)
    # Random's own subset was chosen by none, but it stands beside one that the judge chose.
    rewrite(random, lambda result: result | {"extractor": own["extractor"]})
    with pytest.raises(UserError, match="its features chose the subset git10m/rsprune-70"):
        make(maker)
    assert (folder(maker) / "table.md").read_text() == before
    rewrite(ours, lambda result: result | {"remarks": ["judged by the encoder that chose it"]})
    table = make(maker)
    remarks = [line["remark"] for line in lines_of(table, task="generation")]
    assert remarks == ["the judge chose this subset", None]
    assert "(the judge chose this subset)" in (folder(maker) / "table.md").read_text()


def test_two_families_cannot_stand_for_one_cell(tmp_path: Path) -> None:
    maker = PlanMaker(tmp_path)
    maker.family("git10m/random-70", "random", **GENERATION)
    maker.family("git10m/random-70-again", "random", **GENERATION)
    with pytest.raises(UserError, match="git10m/random-70 and git10m/random-70-again: both stand"):
        make(maker)
    maker = PlanMaker(tmp_path, "table4", paper_tables=("Table 4",))
    several = {"corpus": "git10m", "method": "rsprune"}
    maker.family("git10m/45", "rsprune", paper=several, **GENERATION)
    with pytest.raises(UserError, match="fits 4 cells of Table 4"):
        make(maker)


def test_the_table_is_made_again_when_something_changed(tmp_path: Path, capsys) -> None:
    maker = PlanMaker(tmp_path)
    maker.family("git10m/random-70", "random", value=60.0, **GENERATION)
    make(maker)
    capsys.readouterr()
    make(maker)
    assert "already done" in capsys.readouterr().out
    path = maker.out("git10m/random-70", "generation")
    held = json.loads(path.read_text())["holdouts"]
    held["informative"]["distance"]["kernel_value"] = 0.061
    rewrite(path, lambda result: result | {"holdouts": held})
    make(maker)
    assert "43.87 / 61.00 (mini)" in (folder(maker) / "table.md").read_text()
    shutil.rmtree(path.parent)
    make(maker)
    assert "43.87 / not run" in (folder(maker) / "table.md").read_text()
    make(maker, "--out", str(tmp_path / "elsewhere"))
    names = {path.name for path in (tmp_path / "elsewhere").glob("table.*")}
    assert names == {"table.md", "table.tex", "table.csv", "table.json", "table.manifest.json"}
    with pytest.raises(UserError, match="name a folder"):
        make(maker, "--out", str(tmp_path / "table.md"))


def test_latex_is_well_formed(tmp_path: Path) -> None:
    maker = PlanMaker(tmp_path)
    maker.family("git10m/a_b", "random", label=r"100 % & _{x} #1 \y $ ~ ^", **GENERATION)
    make(maker)
    text = (folder(maker) / "table.tex").read_text()
    shown = r"100 \% \& \_\{x\} \#1 \textbackslash{}y \$ \textasciitilde{} \textasciicircum{} &"
    assert shown in text
    bare = re.sub(r"\\[\\{}&%$#_]", "", re.sub(r"(?m)(?<!\\)%.*$", "", text))
    depth = 0
    for character in bare:
        depth += (character == "{") - (character == "}")
        assert depth >= 0
    assert depth == 0 and not set("#_~^") & set(bare.replace("table*", ""))
    assert bare.count("$") % 2 == 0
    stack = []
    for kind, name in re.findall(r"\\(begin|end)\{([^}]*)\}", text):
        stack.append(name) if kind == "begin" else None
        assert kind == "begin" or stack.pop() == name
    assert not stack
    tabulars = re.findall(r"\\begin\{tabular\}\{(\w+)\}(.*?)\\end\{tabular\}", text, re.S)
    assert len(tabulars) == 2
    for columns, body in tabulars:
        rows = re.findall(r"(?m)^(.*)\\\\$", body)
        assert len(rows) >= 2
        for row in rows:
            spanned = sum(int(n) - 1 for n in re.findall(r"\\multicolumn\{(\d+)\}", row))
            assert len(re.findall(r"(?<!\\)&", row)) + 1 + spanned == len(columns)
    assert escape("a\nb") == "a\nb"


def test_status_says_how_far_and_writes_nothing(tmp_path: Path, capsys) -> None:
    plan = small_plan(tmp_path)
    before = sorted(path for path in tmp_path.rglob("*"))
    arguments = ["table1", "--profile", "mini", "--runs", str(tmp_path / "runs")]
    capsys.readouterr()
    assert main([*arguments, "--status"]) == 0
    text = capsys.readouterr().out
    states = dict(re.findall(r"(?m)^(git10m/\S+) +(\w+) ", text))
    assert states == {"git10m/rsprune-70": "done", "git10m/random-70": "done",
                      "git10m/full": "failed", "git10m/dinov2-70": "running",
                      "git10m/moderate-70": "missing"}  # fmt: skip
    counts = Counter(job.state() for job in plan.jobs.values())
    total = re.search(r"(?m)^all jobs +(\d+) +(\d+) +(\d+) +(\d+)$", text)
    assert total is not None
    assert [int(n) for n in total.groups()] == [
        counts[state] for state in ("done", "running", "failed", "missing")
    ]
    assert "2 done, 1 running, 1 failed, 1 missing, of 5." in text
    assert "failed: dit.train/git10m-full-train\n  last line: error: CUDA out of memory" in text
    assert "try again: PROFILE=mini bash experiments/table1.sh --only git10m/full\n" in text
    left = [job for job in plan.jobs.values() if job.state() != "done"]
    gpu = sum(job.gpu_hours for job in left)
    cpu = sum(job.cpu_hours for job in left if not job.gpus)
    assert f"Left, estimated: {gpu:.3g} GPU-hours, {cpu:.3g} CPU-hours" in text
    assert f"in {len(left)} jobs" in text
    # encode 0.5, train 8, sr-train 2, sr-images 0.5, sr 0.25, one after another
    assert "at least 11.2 side by side" in text or "at least 11.3 side by side" in text
    assert sorted(path for path in tmp_path.rglob("*")) == before


def test_status_of_a_plan_alone_and_of_none(tmp_path: Path, capsys) -> None:
    plan = small_plan(tmp_path)
    for name in ("stages", "logs"):
        shutil.rmtree(tmp_path / "runs" / "mini" / name)
    arguments = ["table1", "--runs", str(tmp_path / "runs")]
    assert main([*arguments, "--profile", "mini", "--status"]) == 0
    assert f"0 done, 0 running, 0 failed, {len(plan.cells)} missing" in capsys.readouterr().out
    assert main([*arguments, "--profile", "mini"]) == 0
    assert "[eval.tables] 0 of 31 cells filled" in capsys.readouterr().out
    with pytest.raises(UserError, match="no such plan; there is one with --profile mini"):
        main([*arguments, "--status"])
    with pytest.raises(UserError, match=r"bash experiments/table2.sh --dry-run writes it"):
        main(["table2", "--runs", str(tmp_path / "runs"), "--status"])
    assert read_plan(plan.file).jobs == plan.jobs


def test_a_corpus_of_four_bands_says_what_its_columns_are_of(tmp_path: Path) -> None:
    maker = PlanMaker(tmp_path, corpora={"git10m": "a", "usa1m": "b"})
    maker.family("git10m/random-70", "random", label="Random", **GENERATION)
    tasks = ("generation", "sr", "sis")
    how = {"corpus": "usa1m", "infrared": True, "tasks": tasks}
    maker.family("usa1m/rsprune-70", "rsprune", label="Ours", value=4.0, **how)
    maker.family("usa1m/random-70", "random", label="Random", value=5.0, **how)
    way = {"way": "predicted", "infrared": {"r2": {"linear": 0.4, "quadratic": 0.625}, "mean": 90}}
    rewrite(maker.out("usa1m/rsprune-70", "sr"), lambda found: {**found, "bands": way})
    table = make(maker)
    assert {line["bands"] for line in lines_of(table, corpus="usa1m")} == {"R,G,B"}
    assert {line["bands"] for line in lines_of(table, corpus="git10m")} == {None}
    (part,) = table["four_bands"]
    assert part["corpus"] == "usa1m" and part["labels"] == ["Ours", "Random"]
    rows = {row["what"]: row for row in part["rows"]}
    row = rows["Generation, pool hold-out"]
    assert row["cells"]["Random"]["value"] == pytest.approx(0.015)  # three times as far
    assert row["beside"]["VAE"] == pytest.approx(0.003)
    vae = {row["what"]: row["values"]["balanced"] for row in part["vae"]}
    assert [vae[f"PSNR, {band}, dB"] for band in ("red", "near infrared")] == [4.0, 7.0]
    assert vae["correlation of near infrared and red, real images"] == -0.25
    assert vae["NDVI, mean absolute error"] == 0.0625
    assert vae["KD-EfficientNetLite0 after the VAE, NIR,R,G"] == pytest.approx(0.009)
    assert part["ways"] == {"Ours": {"sr": "RGB data, near infrared predicted (r2 0.62)"}}
    text = (folder(maker) / "table.md").read_text()
    assert "## Four bands, USA-1m" in text and "RGB data, near infrared predicted" in text
    of = [line for line in text.splitlines() if "of R,G,B" in line]
    assert len(of) == 10 and not any("not run" in line for line in of)  # two rows, five columns

    record = maker.out("usa1m/random-70", "reconstruction")  # what both share
    rewrite(record, lambda found: {"holdouts": {"pool": {"quality": {}}}})
    (part,) = make(maker)["four_bands"]
    assert part["vae"] == [] and part["rows"]
