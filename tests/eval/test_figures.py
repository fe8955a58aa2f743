"""Figures from a plan and its records: factors by hand, what is drawn, and what is said to lack."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
from PIL import Image

from core.errors import UserError
from eval.figures import main
from eval.plots.draw import families
from eval.plots.factors import Point, factors, first_reached
from eval.plots.read import cost, final, labels, tracked
from eval.programme.plan import read_plan
from tests.eval.plans import PlanMaker, small_plan

TRACKED = ("generation", "track")


def draw(maker: PlanMaker, *more: str) -> dict:
    """figures.json of the experiment."""
    folder = maker.write().parent
    arguments = [maker.experiment, "--profile", maker.profile, "--runs", str(maker.runs), *more]
    assert main(arguments) == 0
    return json.loads((folder / "figures" / "figures.json").read_text())


def point(step: int, value: float) -> Point:
    return Point(step, value, None, None)


def test_the_step_that_reaches_a_value_is_interpolated() -> None:
    points = [point(100, 9.0), point(200, 5.0), point(300, 1.0)]
    assert first_reached(points, 6.0) == pytest.approx(175)
    assert first_reached(points, 5.0) == 200
    assert first_reached(points, 10.0) == 100
    assert first_reached(points, 0.5) is None
    assert first_reached([], 1.0) is None


@pytest.fixture(scope="module")
def fig3(tmp_path_factory: pytest.TempPathFactory) -> tuple[PlanMaker, dict]:
    """Two ratios of RS-Prune with competitors. Tracks are value x (2.0, 1.4, 0.9, 1.0)."""
    maker = PlanMaker(tmp_path_factory.mktemp("fig3"), "fig3", kind="figure")
    maker.family("git10m/full", "full", ratio=0.0, keep=1.0, tasks=TRACKED, value=8.0)
    for ratio, value in ((0.7, 6.0), (0.85, 3.0)):
        name = f"git10m/rsprune-{100 * ratio:.0f}"
        maker.family(name, "rsprune", ratio=ratio, tasks=TRACKED, value=value, seconds=2.0)
    maker.family("git10m/random-70", "random", ratio=0.7, tasks=TRACKED, value=4.0)
    maker.family("git10m/random-85", "random", ratio=0.85, tasks=TRACKED, value=4.0)
    # The best of all, yet part of RS-Prune: a draw among Stage I's survivors is no competitor.
    maker.family("git10m/within-85", "random-survivors", ratio=0.85, paper=None, tasks=TRACKED,
                 value=2.0)  # fmt: skip
    return maker, draw(maker)


def test_factors_are_steps_of_the_best_competitor_over_those_to_it(fig3) -> None:
    _, record = fig3
    found = {one["own"]: one for one in record["against_best"] if one["holdout"] == "pool"}
    low, high = found["RS-Prune, 70% pruned"], found["RS-Prune, 85% pruned"]
    # Random's best is 0.9 x 4.0 at step 1,500. RS-Prune at 70 % never comes below 0.9 x 6.0.
    assert low["baseline"] == "Random, 70% pruned" and low["baseline_best"] == pytest.approx(3.6)
    assert low["reached_at_step"] is None and low["factor"] is None
    # At 85 % it passes 3.6 between 4.2 (step 1,000) and 2.7 (step 1,500): at step 1,200.
    assert high["reached_at_step"] == pytest.approx(1200)
    assert high["factor"] == pytest.approx(1500 / 1200)
    assert high["baseline_best_step"] == 1500 and high["baseline_final"] == pytest.approx(4.0)
    assert {one["baseline"] for one in record["factors"]} == {
        "Full", "Random, 70% pruned", "Random, 85% pruned"
    }  # fmt: skip
    assert {one["holdout"] for one in record["factors"]} == {"pool", "balanced", "informative"}


def test_pictures_are_png_and_vector_pdf(fig3) -> None:
    maker, record = fig3
    folder = maker.write().parent / "figures"
    assert set(record["figures"]) == {"steps", "factors", "ratios", "cost"}
    for name in record["figures"]:
        with Image.open(folder / f"{name}.png") as picture:
            assert picture.width == 1050  # a column of 3.5 inches at 300 dpi
        pdf = (folder / f"{name}.pdf").read_bytes()
        assert pdf.startswith(b"%PDF") and b"/Subtype /Image" not in pdf


def test_again_nothing_is_drawn_and_the_lines_are_said_all_the_same(fig3, capsys) -> None:
    maker, _ = fig3
    folder = maker.write().parent / "figures"
    before = {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}
    draw(maker)
    assert {path.name: path.stat().st_mtime_ns for path in folder.iterdir()} == before
    said = capsys.readouterr().out
    assert "already done" in said
    assert "RS-Prune, 70% pruned has not reached 3.6 (Random, 70% pruned's best" in said
    assert "at step 1,200: factor 1.25" in said


def test_what_has_no_records_is_named_and_old_files_of_it_go(tmp_path: Path, capsys) -> None:
    maker = PlanMaker(tmp_path, "fig3", kind="figure")
    stop = {"train": "failed"}
    maker.family("git10m/rsprune-70", "rsprune", tasks=TRACKED, stop=stop)
    maker.family("git10m/random-70", "random", tasks=TRACKED, stop=stop)
    old = maker.write().parent / "figures" / "steps.pdf"
    old.parent.mkdir()
    old.write_text("of an earlier run")
    record = draw(maker)
    assert record["figures"] == {} and not old.exists()
    said = capsys.readouterr().out
    for name in ("steps", "factors", "cost"):
        assert f"{name} not drawn: " in said and "experiments/fig3.sh makes them" in said
    assert "ratios not drawn" not in said and "clusters not drawn" not in said


def test_another_holdout_and_another_folder(tmp_path: Path) -> None:
    small_plan(tmp_path)
    out = tmp_path / "elsewhere"
    arguments = ["table1", "--profile", "mini", "--runs", str(tmp_path / "runs")]
    assert main([*arguments, "--out", str(out), "--holdout", "pool"]) == 0
    assert json.loads((out / "figures" / "figures.json").read_text())["holdout"] == "pool"


def test_shares_and_clusters_have_their_figures(tmp_path: Path, capsys) -> None:
    maker = PlanMaker(tmp_path, "fig4", kind="figure")
    only = ("generation",)
    maker.family("git10m/full", "full", ratio=0.0, keep=1.0, tasks=only, value=6.0)
    maker.family("git10m/entropy-30", "entropy", ratio=0.7, tasks=only, value=3.0)
    maker.family("git10m/entropy-50", "entropy", ratio=0.5, keep=0.5, tasks=only, judge="FID")
    for k in (24, 48):
        maker.family(f"git10m/K{k}", "rsprune", clusters=k, tasks=only, label=f"K = {k}")
    assert set(draw(maker)["figures"]) == {"share", "clusters", "cost"}
    assert "entropy left out: measured by another judge" in capsys.readouterr().out


def test_a_ratio_without_competitors_is_held_against_those_of_all_ratios(tmp_path: Path) -> None:
    maker = PlanMaker(tmp_path, "fig3", kind="figure")
    for ratio in (0.7, 0.9):
        name = f"git10m/rsprune-{ratio}"
        maker.family(name, "rsprune", ratio=ratio, tasks=("track",), value=3.0)
    maker.family("git10m/random-70", "random", ratio=0.7, tasks=("track",))
    maker.family("git10m/random-50", "random", ratio=0.5, tasks=("track",))
    curves = [c for c in tracked(read_plan(maker.write())) if c.measure.holdout == "pool"]
    pairs = [(f.own.cell.ratio, f.rival.cell.ratio) for f in factors(curves)]
    assert pairs == [(0.7, 0.7), (0.9, 0.7), (0.9, 0.5)]


def test_one_ratio_with_two_shares_of_stage_i_is_two_lines(tmp_path: Path) -> None:
    maker = PlanMaker(tmp_path)
    for ratio, keep in ((0.5, 0.7), (0.85, 0.3), (0.9, 0.3)):
        maker.family(f"git10m/{ratio}", "rsprune", ratio=ratio, keep=keep, tasks=("generation",))
    curves = [c for c in final(read_plan(maker.write())) if c.measure.holdout == "pool"]
    assert [len(line) for line in families(curves, "ratio")] == [3]
    twin = dataclasses.replace(curves[1], cell=dataclasses.replace(curves[1].cell, keep=0.5))
    assert sorted(len(line) for line in families([*curves, twin], "ratio")) == [1, 1, 2]


def test_cost_is_of_selection_latents_and_training_alone(tmp_path: Path) -> None:
    maker = PlanMaker(tmp_path)
    tasks = ("generation", "sr", "clustering")
    maker.family("git10m/rsprune-70", "rsprune", tasks=tasks, seconds=3.0)
    plan = read_plan(maker.write())
    run = plan.cells[0].runs[0]
    # scores, reference, embeddings, centroids, assignments, subset, encode and train
    assert cost(plan, run) == (8 * 3.0, "wall")
    store = plan.jobs[run.jobs["encode"]].target
    latents = json.loads(store.read_text())
    latents["summary"]["rows"] = 3 * 390  # for the subset's 390 images and those of other methods
    store.write_text(json.dumps(latents))
    assert cost(plan, run) == (7 * 3.0 + 1.0, "wall")
    manifest = plan.jobs[run.jobs["train"]].target
    found = json.loads(manifest.read_text())
    found["made"]["cost"]["gpu_hours"] = 2.0
    manifest.write_text(json.dumps(found))
    assert cost(plan, run) is None  # that of the other parts with a GPU is not known
    manifest.unlink()
    assert cost(plan, run) is None


def test_twins_of_method_and_ratio_are_told_apart_by_their_labels(tmp_path: Path) -> None:
    maker = PlanMaker(tmp_path)
    for k in (24, 48):
        maker.family(f"git10m/K{k}", "rsprune", clusters=k, label=f"K = {k}", tasks=())
    maker.family("rs5m/rsprune", "rsprune", corpus="rs5m", label="Ours", tasks=())
    names = labels(read_plan(maker.write()).cells)
    assert list(names.values()) == ["K = 24", "K = 48", "RS-Prune, 70% pruned"]


def test_damaged_metrics_are_refused_by_name(tmp_path: Path) -> None:
    maker = PlanMaker(tmp_path)
    maker.family("git10m/rsprune-70", "rsprune", tasks=("generation",))
    maker.write()
    maker.out("git10m/rsprune-70", "generation").write_text('{"task": "generation"}')
    with pytest.raises(UserError, match=r"metrics\.json: not what eval\.evaluate writes"):
        draw(maker)


def test_no_plan_says_what_writes_it(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"experiments/fig3\.sh --dry-run"):
        main(["fig3", "--runs", str(tmp_path)])
