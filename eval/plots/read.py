"""What figures and pages show of an experiment, read from its plan and records."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from core.errors import UserError
from core.manifest import read_manifest
from eval.paper.numbers import METHOD_NAMES
from eval.programme.plan import Cell, Job, Plan, Run
from eval.records.costs import cost_of
from eval.records.record import newest, read_lines
from eval.report.value import lead

Unit = Literal["GPU", "wall"]
OWN = "rsprune"
BASELINES = ("full", "random", "moderate", "cluster-nearest", "dinov2", "a2mae")
"""The paper's competitors. Stage I alone, and a random draw among its survivors, are none."""


@dataclass(frozen=True)
class Point:
    """A leading distance, times the scale that it is shown with (kernel distances: 1,000).

    `low` and `high`: its 95 % interval over images, None where none is recorded.
    """

    step: int
    value: float
    low: float | None
    high: float | None


@dataclass(frozen=True)
class Measure:
    """What a distance is: only values of one measure may stand on one axis."""

    name: str
    scale: float
    holdout: str
    n: int
    weights: str

    def words(self) -> str:
        """For an axis: 'KD-descriptor x 1,000'."""
        return self.name + (f" x {self.scale:,.0f}" if self.scale != 1 else "")

    def detail(self) -> str:
        """What else is to be known of it."""
        return f"{self.holdout} hold-out, n = {self.n:,}, {self.weights} weights"


@dataclass(frozen=True)
class Curve:
    """A family's distance at one or more steps, by seed.

    Attributes:
        cell: the family.
        measure: what is measured.
        points: seed -> points by step.
        finished: whether all of its runs are measured to the end.
        paid: seed -> what its training cost with its selection (see cost); of final values only.
    """

    cell: Cell
    measure: Measure
    points: dict[int, list[Point]]
    finished: bool
    paid: dict[int, tuple[float, Unit]] | None = None


def method_name(method: str) -> str:
    """A method as tables call it."""
    return METHOD_NAMES.get(method, method)


def labels(cells: Sequence[Cell]) -> dict[str, str]:
    """Name of a cell -> what a legend calls it: method and ratio.

    The label of the table's row stands where another cell of the corpus has the same.
    """
    short = {
        cell.name: method_name(cell.method) + (f", {cell.ratio:.0%} pruned" if cell.ratio else "")
        for cell in cells
    }
    seen = [(cell.corpus, short[cell.name]) for cell in cells]
    return {
        c.name: c.label if seen.count((c.corpus, short[c.name])) > 1 else short[c.name]
        for c in cells
    }


def is_baseline(cell: Cell) -> bool:
    """Whether it is one of the paper's competitors."""
    return cell.method in BASELINES


def track_lines(job: Job) -> list[dict[str, Any]]:
    """The newest lines of a track, by weights and step; of one that still grows what is there."""
    lines, _ = read_lines(job.out / "track.jsonl")
    return list(newest(lines).values())


def tracked(plan: Plan) -> Iterator[Curve]:
    """The distance of each family against training steps, one curve a hold-out and measure.

    Of the averaged weights (ema), or of the raw ones where only those were measured.
    """
    for cell in plan.cells:
        found: dict[Measure, dict[int, list[Point]]] = {}
        finished = True
        for run in cell.runs:
            if (job := plan.job(run, "track")) is None:
                continue
            finished &= job.state() == "done"
            lines = track_lines(job)
            weights = "ema" if any(line["weights"] == "ema" for line in lines) else "raw"
            for line in lines:
                if line["weights"] == weights:
                    for holdout, distance in distances_of(line).items():
                        measure, point = _point(distance, line["step"], holdout, weights)
                        found.setdefault(measure, {}).setdefault(run.seed, []).append(point)
        for measure, points in found.items():
            yield Curve(cell, measure, points, finished)


def distances_of(line: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Hold-out -> distance of a track's line; of earlier versions the one, of the pool."""
    found: dict[str, dict[str, Any]] = line.get("distances") or {}
    return found or ({"pool": line["distance"]} if line["distance"] else {})


def final(plan: Plan) -> Iterator[Curve]:
    """The distance of each family at the end of its training, one curve (of one point) a hold-out.

    Raises UserError for a metrics file that eval.evaluate did not write.
    """
    for cell in plan.cells:
        found: dict[Measure, dict[int, list[Point]]] = {}
        costs: dict[int, tuple[float, Unit]] = {}
        finished = True
        for run in cell.runs:
            path = plan.record(run, "generation")
            finished &= path is not None
            if path is None:
                continue
            if (paid := cost(plan, run)) is not None:
                costs[run.seed] = paid
            result = _metrics(path)
            weights = result.get("sampling", {}).get("weights", "ema")
            for holdout, entry in result["holdouts"].items():
                measure, point = _point(entry["distance"], cell.steps, holdout, weights)
                found.setdefault(measure, {})[run.seed] = [point]
        for measure, points in found.items():
            yield Curve(cell, measure, points, finished, costs)


def _metrics(path: Path) -> dict[str, Any]:
    try:
        result: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        for entry in result["holdouts"].values():
            entry["distance"]["value"]
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise UserError(
            f"{path}: not what eval.evaluate writes of samples ({error}); delete it, run it again"
        ) from None
    return result


def _point(
    distance: dict[str, Any], step: int, holdout: str, weights: str
) -> tuple[Measure, Point]:
    known = {"lead": "frechet", "interval_95": None, "kernel_interval_95": None, **distance}
    name, cell, scale = lead(known)
    low, high = cell["interval_95"] or (None, None)
    return Measure(name, scale, holdout, cell["n"], weights), Point(
        step,
        cell["value"] * scale,
        None if low is None else low * scale,
        None if high is None else high * scale,
    )


def choose(curves: list[Curve], holdout: str) -> tuple[list[Curve], list[str]]:
    """The curves of one measure, and the labels of families that were measured otherwise only.

    Of the hold-out that is asked for; else of the informative one, or the first there is. Among
    several measures (other judge, other n) that of most families.
    """
    names = [curve.measure.holdout for curve in curves]
    if not holdout and names:
        holdout = "informative" if "informative" in names else names[0]
    mine = [curve for curve in curves if curve.measure.holdout == holdout]
    measures = [curve.measure for curve in mine]
    if not measures:
        return [], []
    most = max(dict.fromkeys(measures), key=measures.count)
    kept = [curve for curve in mine if curve.measure == most]
    there = {curve.cell.name for curve in kept}
    return kept, [curve.cell.label for curve in mine if curve.cell.name not in there]


def upstream(plan: Plan, job: Job) -> list[Job]:
    """The job and all that it needs, each once."""
    found: dict[str, Job] = {}
    left = [job]
    while left:
        one = left.pop()
        if one.id not in found:
            found[one.id] = one
            left += [plan.jobs[name] for name in one.needs if name in plan.jobs]
    return list(found.values())


def cost(plan: Plan, run: Run) -> tuple[float, Unit] | None:
    """(seconds, 'GPU' or 'wall') of a training with all that selected its images.

    Scores, embeddings, clusters, subset and the training, each in full also where other methods
    share it; of the latents, which one store holds for all, the share of its images. Wall time
    where no GPU took part. None where a part's cost is not recorded.
    """
    train = plan.job(run, "train")
    if train is None:
        return None
    gpu, seconds, unknown = 0.0, 0.0, False
    for job in upstream(plan, train):
        if not (job.stage.startswith("prune.") or job.stage in ("dit.encode", "dit.train")):
            continue
        found = cost_of(job)
        if found is None:
            return None
        times = share_of_store(plan, run, job) if job.stage == "dit.encode" else 1.0
        seconds += times * found["seconds"]
        gpu += times * (found.get("gpu_hours") or 0.0)
        unknown |= bool(job.gpus) and found.get("gpu_hours") is None
    if gpu:
        return None if unknown else (3600 * gpu, "GPU")
    return seconds, "wall"


def share_of_store(plan: Plan, run: Run, encode: Job) -> float:
    """The subset's images / the images of the store of latents; 1 where either is not recorded."""
    subset = plan.record(run, "subset")
    counts = read_manifest(subset)["summary"].get("counts", {}) if subset else {}
    store = read_manifest(encode.out)["summary"].get("rows")
    return min(1.0, counts["B"] / store) if store and counts.get("B") else 1.0
