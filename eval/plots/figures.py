"""Which figures an experiment has, and the stage that draws them."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from core.atomic import write_json
from core.manifest import digest_of, sha256_file
from core.settings import science
from core.stage import Result, Stage
from eval.paper.numbers import PAPER
from eval.plots.config import FiguresConfig
from eval.plots.factors import Factor, against_best, factors
from eval.plots.read import OWN, Curve, choose, final, is_baseline, labels, tracked
from eval.programme.plan import Cell, Plan

VERSION = 1  # of the drawing: figures are drawn again when it changes
KINDS = ("png", "pdf")
NAMES = ("steps", "factors", "share", "ratios", "clusters", "cost")


@dataclass(frozen=True)
class Data:
    """All that the figures of an experiment show.

    Attributes:
        curves: distances against steps, of the chosen measure.
        finals: distances at the end of the training, of the chosen measure.
        factors: of all hold-outs.
        left_out: labels of families that were measured in another way than the others.
    """

    curves: list[Curve]
    finals: list[Curve]
    factors: list[Factor]
    left_out: list[str]


def gather(plan: Plan, holdout: str) -> Data:
    """Read the records. Raises UserError for one that is damaged."""
    every, ends = list(tracked(plan)), list(final(plan))
    curves, others = choose(every, holdout)
    finals, more = choose(ends, holdout)
    return Data(curves, finals, factors(every), list(dict.fromkeys(others + more)))


def stage_of(config: FiguresConfig, plan: Plan, data: Data) -> Stage:
    """The figures are made of what they show: drawn again when that changes."""
    shown = digest_of({"version": VERSION, **dataclasses.asdict(data), "title": plan.title})
    inputs = {"records": shown, "paper.yaml": sha256_file(PAPER)}
    folder = (config.out or plan.folder) / "figures"
    return Stage(folder, "eval.figures", science(config), inputs, replace=True)


def draw_figures(plan: Plan, data: Data, stage: Stage) -> Result:
    """Draw what there are records of, and write figures.json; no others stay of earlier calls."""
    from eval.plots import draw  # loads matplotlib

    stage.open()
    for name in NAMES:
        for kind in KINDS:
            (stage.out / f"{name}.{kind}").unlink(missing_ok=True)
    shown = [one for one in data.factors if one.own in data.curves and one.rival in data.curves]
    charts: list[tuple[str, list[Curve], Callable[[Path], list[str]]]] = [
        ("steps", data.curves, lambda out: draw.draw_steps(data.curves, shown, out)),
        ("factors", [one.own for one in shown], lambda out: draw.draw_factors(shown, out)),
    ]
    drawing: Callable[[list[Curve], Path], list[str]]
    for name, curves, drawing in (
        ("share", draw.shares(data.finals), draw.draw_share),
        ("ratios", draw.swept(data.finals, "ratio", 3), draw.draw_ratios),
        ("clusters", draw.swept(data.finals, "clusters", 2), draw.draw_clusters),
        ("cost", draw.costed(data.finals), draw.draw_cost),
    ):
        charts.append((name, curves, functools.partial(drawing, curves)))
    wanted, written, lacking = _wanted(plan), {}, {}
    for name, curves, chart in charts:
        if curves:
            written[name] = chart(stage.out)
        elif wanted[name][0]:
            lacking[name] = wanted[name][1]
    cells = labels(list(plan.cells))
    record = {
        "experiment": plan.experiment,
        "profile": plan.profile,
        "holdout": next((c.measure.holdout for c in data.curves + data.finals), None),
        "figures": written,
        "not_drawn": lacking,
        "left_out": data.left_out,
        "factors": [one.record(cells) for one in data.factors],
        "against_best": [one.record(cells) for one in against_best(data.factors)],
    }
    write_json(stage.out / "figures.json", record)
    files = [*(file for files in written.values() for file in files), "figures.json"]
    return stage.finish({"figures": list(written)}, files, f"{len(written)} figures")


def _wanted(plan: Plan) -> dict[str, tuple[bool, str]]:
    """Figure -> whether the plan has cells for it, and what makes their records."""
    cells = plan.cells
    tracks = [cell for cell in cells if "track" in cell.tasks]
    ends = [cell for cell in cells if "generation" in cell.tasks]
    run = f"{plan.command} makes them"

    def several(field: Callable[[Cell], Any], methods: tuple[str, ...], least: int) -> bool:
        return len({field(cell) for cell in ends if cell.method in methods}) >= least

    return {
        "steps": (bool(tracks), f"no tracks yet; {run}"),
        "factors": (
            any(cell.method == OWN for cell in tracks) and any(map(is_baseline, tracks)),
            f"needs tracks of RS-Prune and of a competitor; {run}",
        ),
        "share": (
            several(lambda cell: (cell.method, cell.ratio), ("entropy", "full"), 2)
            and several(lambda cell: cell.ratio, ("entropy",), 1),
            f"needs metrics of Stage I alone at two shares, or at one and of the full data; {run}",
        ),
        "ratios": (
            several(lambda cell: cell.ratio, ("rsprune", "full"), 3),
            f"needs metrics at three ratios of a method; {run}",
        ),
        "clusters": (
            several(lambda cell: cell.clusters, ("rsprune",), 2),
            f"needs metrics of RS-Prune with two numbers of clusters; {run}",
        ),
        "cost": (len(ends) > 1, f"needs metrics and costs of two families; {run}"),
    }
