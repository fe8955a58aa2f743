"""What the paper says of its figures in a line of text, beside what the tracks of ours say."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from core.errors import UserError
from eval.paper.numbers import paper_cells
from eval.programme.plan import Cell, Plan
from eval.records.record import Line, newest, read_lines
from eval.report.compare import FIGURES
from eval.report.records import Records
from eval.report.value import value_of

CLAIMS = ("Figure 1c", "Figure 3")
Curve = dict[int, float]
"""Step -> distance to the hold-out, lower is better."""


def claims(plan: Plan, records: Records) -> list[dict[str, Any]]:
    """One entry for each claim and RS-Prune family: figure, corpus, label, metric, paper, ours,
    and `text`. `ours` is None where it cannot be said yet.

    Figure 3: the step at which RS-Prune is first as near as the others' best checkpoint. Figure 1c:
    that checkpoint's step by ours. Of several seeds it is the first one's track.
    """
    figure = FIGURES.get(plan.experiment)
    tables = set(plan.paper_tables) | ({figure} if figure else set())
    return [
        _claim(claim, family, plan.cells, records)
        for table in sorted(tables & set(CLAIMS))
        for claim in paper_cells(table)
        for family in plan.cells
        if family.method == "rsprune"
    ]


def _claim(
    claim: Mapping[str, Any], family: Cell, cells: Sequence[Cell], records: Records
) -> dict[str, Any]:
    said: dict[str, Any] = {
        "figure": claim["table"], "corpus": family.corpus, "label": family.label,
        "metric": claim["metric"], "paper": claim["value"], "ours": None,
    }  # fmt: skip
    others = {
        cell.label: curve
        for cell in cells
        if cell.corpus == family.corpus and cell.method != "rsprune"
        if (curve := _curve(cell, records))
    }
    curve = _curve(family, records)
    if not curve or not others:
        return said | {"text": "not run: needs the tracks of RS-Prune and of another method"}
    best = {label: min(other.items(), key=lambda at: at[1]) for label, other in others.items()}
    label = min(best, key=lambda name: best[name][1])
    step, value = best[label]
    reached = first_step(curve, value)
    if reached is None:
        text = f"not as near as {label}'s best (step {step:,}) within {max(curve):,} steps"
        return said | {"text": text}
    ours: float = reached if claim["table"] == "Figure 3" else step / reached
    text = f"as near as {label}'s best (step {step:,}) at step {reached:,}"
    return said | {"ours": ours, "text": f"{text}, {step / reached:.2g} times as fast"}


def first_step(curve: Curve, target: float) -> int | None:
    """The first checkpoint's step whose distance is at most the target; None: none is."""
    return next((step for step, value in sorted(curve.items()) if value <= target), None)


def _curve(cell: Cell, records: Records) -> Curve:
    """Distance by step of a family's first finished track; of averaged weights if it has them."""
    for run in cell.runs:
        job = records.plan.job(run, "track")
        if job is None or records.states[job.id] != "done":
            continue
        try:
            lines, _ = read_lines(job.out / "track.jsonl")
            by_weights: dict[str, list[Line]] = {}
            for (weights, _step), line in newest(lines).items():
                by_weights.setdefault(weights, []).append(line)
            chosen = by_weights.get("ema") or by_weights.get("raw") or []
            return {line["step"]: _distance(line) for line in chosen if line["distance"]}
        except (UserError, KeyError, TypeError) as error:
            records.note(job.out / "track.jsonl", UserError(f"{job.out / 'track.jsonl'}: {error}"))
    return {}


def _distance(line: Line) -> float:
    held = line.get("distances") or {"pool": line["distance"]}
    result = {"holdouts": {name: {"distance": distance} for name, distance in held.items()}}
    return float(value_of(result, "generation", "FID")["value"])
