"""How many fewer steps RS-Prune needs to a competitor's best distance (Figures 1c and 3)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from eval.paper.numbers import CORPUS_NAMES
from eval.plots.read import OWN, Curve, Point, is_baseline, labels


@dataclass(frozen=True)
class Factor:
    """RS-Prune against one competitor of its corpus, on one hold-out.

    Attributes:
        own, rival: the two curves.
        target: the competitor's best distance, and `target_step` the step of it.
        final: its distance at its last step.
        reached: the first step at which RS-Prune is as good, linearly interpolated; None if never.
        at_first: whether that is its first checkpoint, so that the factor is at least what it says.
    """

    own: Curve
    rival: Curve
    target: float
    target_step: int
    final: float
    reached: float | None
    at_first: bool

    @property
    def factor(self) -> float | None:
        """Steps of the competitor's best / steps of RS-Prune to the same distance."""
        return self.target_step / self.reached if self.reached else None

    def record(self, names: dict[str, str]) -> dict[str, Any]:
        """As figures.json has it."""
        measure = self.own.measure
        return {
            "corpus": self.own.cell.corpus,
            "own": names[self.own.cell.name],
            "baseline": names[self.rival.cell.name],
            "metric": measure.words(),
            "holdout": measure.holdout,
            "n": measure.n,
            "weights": measure.weights,
            "baseline_best": self.target,
            "baseline_best_step": self.target_step,
            "baseline_final": self.final,
            "reached_at_step": self.reached,
            "at_first_checkpoint": self.at_first,
            "factor": self.factor,
            "finished": self.own.finished and self.rival.finished,
        }


def mean_over_seeds(curve: Curve) -> list[Point]:
    """One point a step: the mean over the seeds that all have it; intervals over images averaged.

    Steps that not all seeds have are left out: a mean over other seeds would be another curve.
    """
    by_step: dict[int, list[Point]] = {}
    for points in curve.points.values():
        for point in points:
            by_step.setdefault(point.step, []).append(point)

    def mean(values: list[float | None]) -> float | None:
        there = [value for value in values if value is not None]
        return sum(there) / len(there) if len(there) == len(values) else None

    return [
        Point(
            step,
            sum(point.value for point in points) / len(points),
            mean([point.low for point in points]),
            mean([point.high for point in points]),
        )
        for step, points in sorted(by_step.items())
        if len(points) == len(curve.points)
    ]


def first_reached(points: list[Point], target: float) -> float | None:
    """The first step at which a curve is at or below `target`, between its points linearly."""
    before: Point | None = None
    for point in points:
        if point.value <= target:
            if before is None:
                return float(point.step)
            share = (before.value - target) / (before.value - point.value)
            return before.step + share * (point.step - before.step)
        before = point
    return None


def factors(curves: list[Curve]) -> list[Factor]:
    """RS-Prune at each ratio against each competitor of its corpus.

    Those of its own ratio, and the full data; where none was trained at that ratio, those of all
    ratios, as the paper holds several ratios of RS-Prune against one best competitor.
    """
    found = []
    for own in curves:
        if own.cell.method != OWN:
            continue
        mine = mean_over_seeds(own)
        rivals = [
            curve
            for curve in curves
            if is_baseline(curve.cell)
            and (curve.measure, curve.cell.corpus) == (own.measure, own.cell.corpus)
        ]
        alike = [c for c in rivals if c.cell.method != "full" and c.cell.ratio == own.cell.ratio]
        full = [curve for curve in rivals if curve.cell.method == "full"]
        for rival in [*alike, *full] if alike else rivals:
            points = mean_over_seeds(rival)
            if not (mine and points):
                continue
            best = min(points, key=lambda point: point.value)
            reached = first_reached(mine, best.value)
            at_first = reached == mine[0].step
            final = points[-1].value
            found.append(Factor(own, rival, best.value, best.step, final, reached, at_first))
    return found


def against_best(found: list[Factor]) -> list[Factor]:
    """Of each RS-Prune curve its comparison with the best competitor."""
    best: dict[tuple[str, str], Factor] = {}
    for one in found:
        key = one.own.cell.name, one.own.measure.holdout
        if key not in best or one.target < best[key].target:
            best[key] = one
    return list(best.values())


def describe(one: Factor) -> str:
    """One line for the terminal."""
    names = labels([one.own.cell, one.rival.cell])
    own, rival = names[one.own.cell.name], names[one.rival.cell.name]
    goal = f"{one.target:.4g} ({rival}'s best, step {one.target_step:,})"
    corpus = CORPUS_NAMES.get(one.own.cell.corpus, one.own.cell.corpus)
    where = f"{corpus}, {one.own.measure.holdout}: {own} "
    if one.reached is None:
        return f"{where}has not reached {goal}"
    factor = "not defined" if one.factor is None else f"{one.factor:.2f}"
    if one.at_first:
        factor = f"at least {factor}, for this is its first checkpoint"
    return f"{where}reaches {goal} at step {one.reached:,.0f}: factor {factor}"
