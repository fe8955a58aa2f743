"""What the paper says of its figures in a line of text, beside what the tracks of ours say."""

from __future__ import annotations

from typing import Any

from eval.paper.numbers import paper_cells
from eval.plots.factors import against_best, factors
from eval.plots.read import OWN, Curve, tracked
from eval.programme.plan import Plan
from eval.report.compare import FIGURES

CLAIMS = ("Figure 1c", "Figure 3")


def claims(plan: Plan) -> list[dict[str, Any]]:
    """One entry for each claim and RS-Prune family: figure, corpus, label, metric, paper, ours,
    and `text`. `ours` is None where it cannot be said yet.

    Figure 3: the step at which RS-Prune is first as near to the hold-out as its best competitor
    ever is. Figure 1c: that competitor's step by ours. Both as eval.figures has them
    (eval.plots.factors), of the informative hold-out where there is one.

    Raises UserError for a damaged track.
    """
    figure = FIGURES.get(plan.experiment)
    tables = [one for one in CLAIMS if one in plan.paper_tables or one == figure]
    found = []
    for table, curves in [(table, _curves(plan)) for table in tables]:
        best = {one.own.cell.name: one for one in against_best(factors(curves))}
        for cell in plan.cells:
            if cell.method != OWN:
                continue
            (claim,) = paper_cells(table)
            said = {
                "figure": table, "corpus": cell.corpus, "label": cell.label,
                "metric": claim["metric"], "paper": claim["value"], "ours": None,
                "text": "not run: needs the tracks of RS-Prune and of another method",
            }  # fmt: skip
            if (one := best.get(cell.name)) is not None:
                goal = f"{one.rival.cell.label}'s best ({one.target:.4g}, step {one.target_step:,})"
                said["text"] = f"not as near as {goal} yet"
                if one.reached is not None:
                    said["ours"] = one.reached if table == "Figure 3" else one.factor
                    said["text"] = f"as near as {goal} at step {one.reached:,.0f}"
                if one.at_first:
                    said["text"] += ", its first checkpoint: it may have been before"
            found.append(said)
    return found


def _curves(plan: Plan) -> list[Curve]:
    curves = list(tracked(plan))
    holdouts = {curve.measure.holdout for curve in curves}
    chosen = "informative" if "informative" in holdouts else next(iter(sorted(holdouts)), "")
    return [curve for curve in curves if curve.measure.holdout == chosen]
