"""eval.costs: what the finished jobs of a plan cost, by stage and by cell."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from core.errors import UserError
from core.stage import manifest_path
from eval.costs import main
from eval.programme.plan import Plan, read_plan
from eval.records.costs import clustering_seconds
from tests.eval.plans import PlanMaker

OURS, RANDOM, FULL = "git10m/rsprune-70", "git10m/random-70", "git10m/full"


def plan_of(root: Path) -> Plan:
    """Ours with two seeds, Random, and Full whose training failed. Jobs take 2, 3 and 5 s; those
    of the first family are shared: scores, reference, hold-out."""
    maker = PlanMaker(root)
    maker.family(OURS, "rsprune", seeds=(0, 1), tasks=("generation", "clustering"), seconds=2)
    maker.family(RANDOM, "random", tasks=("generation",), seconds=3)
    maker.family(FULL, "full", tasks=("generation",), seconds=5, stop={"train": "failed"})
    return read_plan(maker.write())


def add(plan: Plan, cell: str, part: str, **cost: Any) -> None:
    """Have the record of a cell's first run say what else it cost."""
    (run, *_) = next(one for one in plan.cells if one.name == cell).runs
    job = plan.job(run, part)
    assert job is not None
    path = manifest_path(job.out)
    record = json.loads(path.read_text())
    record["made"]["cost"] |= cost
    path.write_text(json.dumps(record))


def costs(plan: Plan) -> dict[str, Any]:
    runs = plan.file.parents[2]
    assert main([plan.experiment, "--profile", plan.profile, "--runs", str(runs)]) == 0
    return json.loads((plan.folder / "costs.json").read_text())


def test_own_shared_and_alone_add_up(tmp_path: Path) -> None:
    plan = plan_of(tmp_path)
    add(plan, OURS, "scores", gpu_hours=3.0, energy_kwh=0.3, images=1000)
    add(plan, OURS, "train", gpu_hours=8.0, energy_kwh=4.0, gpus=4, peak_gpu_memory_gb=41.5)
    found = costs(plan)
    cells = {one["cell"]: one for one in found["cells"]}
    # Ours: embeddings, centroids, assignments, subset, encode, train, samples, metrics; two seeds.
    assert [cells[OURS][part]["seconds"] for part in ("own", "shared")] == [2 * 8 * 2, 3 * 2 / 3]
    assert cells[OURS]["alone"]["seconds"] == 2 * 8 * 2 + 3 * 2
    assert cells[OURS]["own"]["gpu_hours"] == 8
    assert cells[OURS]["total"]["gpu_hours"] == cells[OURS]["shared"]["gpu_hours"] + 8 == 9
    assert cells[RANDOM]["total"]["gpu_hours"] == pytest.approx(1)
    assert cells[OURS]["total"]["energy_kwh"] == pytest.approx(4.1)
    totals = [one["total"]["seconds"] for one in cells.values()]
    assert sum(totals) == pytest.approx(found["total"]["seconds"])
    # Scores and reference once, then the four of each seed; and two trainings.
    assert cells[OURS]["pruning"]["seconds"] == 2 * 2 + 2 * 4 * 2
    assert cells[OURS]["training"] == {
        "seconds": 4, "cpu_seconds": 8, "gpu_hours": 8, "energy_kwh": 4
    }  # fmt: skip
    assert cells[RANDOM]["pruning"]["seconds"] == 2 + 3  # scores; subset
    assert cells[OURS]["clustering_seconds"] == 4
    assert cells[RANDOM]["clustering_seconds"] is None
    stages = {one["stage"]: one for one in found["stages"]}
    assert stages["prune.score"]["images_per_s"] == 1000 / 2
    assert stages["dit.train"]["jobs"] == {"done": 3, "all": 4}
    assert (stages["dit.train"]["gpus"], stages["dit.train"]["peak_gpu_memory_gb"]) == (4, 41.5)
    assert found["failed"] == ["dit.train/git10m-full-train"]
    page = (plan.folder / "costs.md").read_text()
    assert "Failed: dit.train/git10m-full-train" in page
    assert "| dit.train | 3 of 4 | 0.00194 |" in page  # 7 s
    for line in page.splitlines():  # every table is whole
        if line.startswith("|"):
            assert line.count("|") in (8, 12, 13)


def test_nothing_is_made_again_until_a_job_ends(tmp_path: Path, capsys: Any) -> None:
    plan = plan_of(tmp_path)
    costs(plan)
    before = (plan.folder / "costs.json").stat().st_mtime_ns
    capsys.readouterr()
    costs(plan)
    assert "nothing left to do" in capsys.readouterr().out
    assert (plan.folder / "costs.json").stat().st_mtime_ns == before
    add(plan, OURS, "train", seconds=100.0)
    assert costs(plan)["cells"][0]["training"]["seconds"] == 102
    (run, _) = plan.cells[0].runs
    job = plan.job(run, "train")
    assert job is not None
    job.target.unlink()
    assert costs(plan)["cells"][0]["jobs"] == {"done": 18, "all": 19}


def test_records_of_before_the_ledger_have_their_seconds(tmp_path: Path) -> None:
    plan = plan_of(tmp_path)
    (first, second) = plan.cells[0].runs
    job = plan.job(first, "assignments")
    assert job is not None
    path = manifest_path(job.out)
    record = json.loads(path.read_text())
    record["made"] = {"seconds": 7.5}
    path.write_text(json.dumps(record))
    assert clustering_seconds(plan, first) == 2 + 7.5
    assert clustering_seconds(plan, second) == 2 + 2
    job.target.unlink()
    assert clustering_seconds(plan, first) is None
    assert clustering_seconds(plan, plan.cells[1].runs[0]) is None
    assert costs(plan)["cells"][0]["clustering_seconds"] == 4


def test_what_is_not_there_or_damaged_is_said(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"table9/plan\.json: no such plan"):
        main(["table9", "--profile", "mini", "--runs", str(tmp_path)])
    plan = plan_of(tmp_path)
    job = plan.job(plan.cells[0].runs[0], "train")
    assert job is not None
    job.target.write_text("{")
    with pytest.raises(UserError, match=r"manifest\.json: unreadable record"):
        costs(plan)


def test_it_is_light_to_import() -> None:
    code = "import eval.costs, sys; print({'torch', 'numpy', 'pyarrow'} & {*sys.modules})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"


def test_a_store_that_several_jobs_fill_counts_once(tmp_path: Path) -> None:
    plan = plan_of(tmp_path)
    first = costs(plan)
    before = first["total"]["seconds"]
    stored = json.loads(plan.file.read_text())
    jobs = {job["id"]: job for job in stored["jobs"]}
    (ours, *_), (theirs, *_) = (
        next(one for one in plan.cells if one.name == name).runs for name in (OURS, RANDOM)
    )
    encode = plan.job(ours, "encode")
    assert encode is not None
    jobs[theirs.jobs["encode"]]["out"] = str(encode.out)
    plan.file.write_text(json.dumps(stored))
    for run, chosen in ((ours, 30), (theirs, 10)):
        subset = plan.record(run, "subset")
        assert subset is not None
        record = json.loads(manifest_path(subset).read_text())
        record["summary"]["counts"] = {"B": chosen}
        manifest_path(subset).write_text(json.dumps(record))
    found = costs(read_plan(plan.file))
    assert found["total"]["seconds"] == pytest.approx(before - 3)  # Random's own store took 3 s
    own = [
        next(one for one in costs_["cells"] if one["cell"] == RANDOM)["own"]["seconds"]
        for costs_ in (first, found)
    ]
    assert own[1] == pytest.approx(own[0] - 3 + 2 * 10 / 40)  # its part by images: 10 of 40
    row = next(one for one in found["stages"] if one["stage"] == "dit.encode")
    assert row["seconds"] == pytest.approx(2 + 2 + 5)  # ours with two seeds, Full's
