"""The figures: which an experiment has, and how each is drawn."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

from matplotlib.lines import Line2D

from eval.distances.bootstrap import over_seeds
from eval.distances.measure import LEAD_FROM
from eval.paper.numbers import CORPUS_NAMES, paper_cells
from eval.plots.factors import Factor, against_best, mean_over_seeds
from eval.plots.read import OWN, Curve, Point, Unit, labels, method_name
from eval.plots.style import legend, look, note, panels, save, thousands
from eval.programme.plan import Cell

Sweep = Literal["ratio", "clusters"]
HEIGHT = 2.0
"""Of a panel, in inches."""


def _said(table: str, **wanted: Any) -> list[dict[str, Any]]:
    """The paper's cells of a figure or of its text that have these fields."""
    return [cell for cell in paper_cells(table) if wanted.items() <= cell.items()]


def by_corpus(curves: list[Curve]) -> dict[str, list[Curve]]:
    """The curves of each corpus, in the order of the plan."""
    return {
        corpus: [curve for curve in curves if curve.cell.corpus == corpus]
        for corpus in dict.fromkeys(curve.cell.corpus for curve in curves)
    }


def draw_steps(curves: list[Curve], found: list[Factor], folder: Path) -> list[str]:
    """Figure 3: the distance against training steps, with the best competitor's best dashed."""
    groups = by_corpus(curves)
    figure, axes = panels([HEIGHT] * len(groups), below=_legend_height(curves))
    names = labels([curve.cell for curve in curves])
    ratios = [curve.cell.ratio for curve in curves]
    for axis, (corpus, group) in zip(axes, groups.items(), strict=True):
        for curve in group:
            points = mean_over_seeds(curve)
            name = names[curve.cell.name] + ("" if curve.finished else " (unfinished)")
            steps = [point.step for point in points]
            values = [point.value for point in points]
            axis.plot(steps, values, label=name, **look(curve.cell, ratios))
            bands = [bounds for point in points if (bounds := band(curve, point))]
            if len(bands) == len(points):
                low, high = zip(*bands, strict=True)
                axis.fill_between(steps, low, high, color=look(curve.cell, ratios)["color"],
                                  alpha=0.15, linewidth=0)  # fmt: skip
        for one in against_best(found):
            if one.own.cell.corpus == corpus:
                _target(axis, one)
        axis.set_xlabel("training steps")
        thousands(axis.xaxis)
        _describe(axis, corpus, group)
    told = _said("Figure 3")
    if told:
        note(axes[0], f"paper: as good as the best competitor after {told[0]['value']} of 100,000")
    more = {_bands(curves): Line2D([], [], linewidth=5, alpha=0.2, color="black")}
    if found:
        dashed = Line2D([], [], linewidth=0.8, color="black", linestyle=(0, (4, 2)))
        more["best of the competitors, with the factor"] = dashed
    legend(figure, axes, more)
    return save(figure, folder, "steps")


def _target(axis: Any, one: Factor) -> None:
    """The best competitor's best, in its colour, and where RS-Prune reaches it."""
    axis.axhline(
        one.target, color=look(one.rival.cell, [])["color"], linewidth=0.8, linestyle=(0, (4, 2)),
        zorder=1,
    )  # fmt: skip
    if one.reached is not None and one.factor is not None:
        axis.plot([one.reached], [one.target], "x", color="black", markersize=4, zorder=4)
        text, left = f"{'>= ' * one.at_first}{one.factor:.2f}x", one.at_first
        axis.annotate(
            text, (one.reached, one.target), xytext=(4 if left else -3, 3 if left else -3),
            textcoords="offset points", ha="left" if left else "right",
            va="bottom" if left else "top", fontsize=6.5,
        )  # fmt: skip


def draw_factors(found: list[Factor], folder: Path) -> list[str]:
    """Figure 1c: by which factor RS-Prune needs fewer steps, against each competitor."""
    corpora = list(dict.fromkeys(one.own.cell.corpus for one in found))
    groups = [[one for one in found if one.own.cell.corpus == corpus] for corpus in corpora]
    figure, axes = panels([0.2 * len(group) + 0.85 for group in groups])
    told = _said("Figure 1c")
    for axis, corpus, group in zip(axes, corpora, groups, strict=True):
        names = labels(list({one.own.cell.name: one.own.cell for one in group}.values()))
        several = len(names) > 1
        distinct = len({one.own.cell.ratio for one in group}) == len(names)
        for place, one in enumerate(group):
            style = look(one.rival.cell, [])
            if one.factor is not None:
                axis.barh(place, one.factor, color=style["color"], height=0.65)
            sign = ">= " if one.at_first else ""
            text = "not reached" if one.factor is None else f"{sign}{one.factor:.2f}"
            axis.annotate(text, (one.factor or 0.0, place), xytext=(3, 0), va="center",
                          textcoords="offset points", fontsize=6.5)  # fmt: skip
        rows = []
        for one in group:
            whose = f"{one.own.cell.ratio:.0%}" if distinct else names[one.own.cell.name]
            rows.append(f"{method_name(one.rival.cell.method)}" + f" ({whose})" * several)
        axis.set_yticks(range(len(group)), rows)
        axis.set_ylim(len(group) - 0.4, -0.6)
        axis.axvline(1, color="black", linewidth=0.7)
        top = max([one.factor or 0.0 for one in group] + [2.2])
        axis.set_xlim(0, top * 1.25)
        if told:
            low, high = (float(part) for part in str(told[0]["value"]).split(" to "))
            axis.axvspan(low, high, color="black", alpha=0.12, linewidth=0, zorder=0)
        axis.set_xlabel("steps of the competitor's best / RS-Prune's to it")
        axis.grid(axis="y", visible=False)
        _title(axis, corpus, group[0].own)
    if told:
        note(axes[0], f"grey: the paper's {told[0]['value']}")
    return save(figure, folder, "factors")


def draw_share(curves: list[Curve], folder: Path) -> list[str]:
    """Figure 4: the distance against the share of images that Stage I alone keeps."""
    groups = by_corpus(curves)
    figure, axes = panels([HEIGHT] * len(groups))
    for axis, (corpus, group) in zip(axes, groups.items(), strict=True):
        line = sorted(group, key=_share)
        _line(axis, [100 * _share(curve) for curve in line], line, "entropy")
        axis.set_xlabel("images kept by entropy alone, % (100: full data)")
        axis.set_xlim(0, 104)
        _describe(axis, corpus, group)
        told = _said("Figure 4", corpus=corpus)
        kept = [(1 - cell["ratio"], cell["value"]) for cell in told]
        words = [f"{f'top {share:.0%}' if share < 1 else 'full'} {fid}" for share, fid in kept]
        if told:
            note(axis, f"paper, FID at {told[0]['steps']:,} steps: {', '.join(words)}")
            if group[0].measure.name == "FID" and group[0].measure.n >= LEAD_FROM:
                at, values = zip(*[(100 * share, fid) for share, fid in kept], strict=True)
                axis.plot(at, values, "o", markerfacecolor="none", color="black", markersize=4,
                          label="paper")  # fmt: skip
                legend(figure, [axis])
    return save(figure, folder, "share")


def draw_ratios(curves: list[Curve], folder: Path) -> list[str]:
    """Table 3: the distance against the pruning ratio, a line a method."""
    claim = _said("Text", metric="best pruning ratio")
    told = f"paper: best at {claim[0]['value']:.0%}" if claim else ""
    return _sweep(curves, folder, "ratio", "images pruned, %", told)


def draw_clusters(curves: list[Curve], folder: Path) -> list[str]:
    """The distance against the number of clusters."""
    claim = _said("Text", metric="K")
    told = f"paper: K = {claim[0]['value']}" if claim else ""
    return _sweep(curves, folder, "clusters", "clusters K", told)


def _sweep(
    curves: list[Curve], folder: Path, field: Sweep, axis_name: str, told: str
) -> list[str]:
    groups = by_corpus(curves)
    figure, axes = panels([HEIGHT] * len(groups), below=0.3)
    for axis, (corpus, group) in zip(axes, groups.items(), strict=True):
        lines = families(group, field)
        names = [method_name(line[0].cell.method) for line in lines]
        for line, name in zip(lines, names, strict=True):
            first = line[0].cell
            if names.count(name) > 1:
                name += f", top {first.keep:.0%}" if field == "ratio" else f", {first.label}"
            line = sorted(line, key=lambda curve: getattr(curve.cell, field))
            at = [getattr(curve.cell, field) * (100 if field == "ratio" else 1) for curve in line]
            _line(axis, at, line, first.method, name)
        if field == "clusters":
            axis.set_xscale("log", base=2)
            axis.set_xticks(sorted({curve.cell.clusters for curve in group}))
            axis.minorticks_off()
            thousands(axis.xaxis)
        axis.set_xlabel(axis_name)
        _describe(axis, corpus, group)
    note(axes[0], told)
    legend(figure, axes)
    return save(figure, folder, "ratios" if field == "ratio" else "clusters")


def families(curves: list[Curve], field: Sweep) -> list[list[Curve]]:
    """Curves that differ in `field`, and in what it decides, alone.

    Over ratios, RS-Prune's may have other shares of Stage I (a low ratio needs a high one), unless
    two of them have one ratio: then each share is a family. The full data are the ratio 0 of all.
    """
    full = [curve for curve in curves if curve.cell.method == "full"]
    rest = [curve for curve in curves if curve.cell.method != "full"]
    if field == "clusters":
        rest = [curve for curve in rest if curve.cell.clusters and curve.cell.method == OWN]
        return _grouped(rest, lambda cell: (cell.ratio, cell.keep, *_fixed(cell)))
    found = _grouped(rest, _fixed)
    split = []
    for line in found:
        values = [curve.cell.ratio for curve in line]
        same = len(set(values)) == len(values)
        split += [line] if same else _grouped(line, lambda cell: (cell.keep, cell.clusters))
    return [[*line, *(one for one in full if one.cell.steps == line[0].cell.steps)]
            for line in split]  # fmt: skip


def _fixed(cell: Cell) -> tuple[Any, ...]:
    return cell.corpus, cell.method, cell.reference, cell.reduce, cell.steps


def _grouped(curves: list[Curve], key: Callable[[Cell], Any]) -> list[list[Curve]]:
    found: dict[Any, list[Curve]] = {}
    for curve in curves:
        found.setdefault(key(curve.cell), []).append(curve)
    return list(found.values())


def draw_cost(curves: list[Curve], folder: Path) -> list[str]:
    """Figure 1c: the distance against what a training costs with the selection of its images."""
    groups = by_corpus(curves)
    figure, axes = panels([HEIGHT] * len(groups), below=_legend_height(curves))
    names = labels([curve.cell for curve in curves])
    unit = _unit(curves)
    costs = {curve.cell.name: _mean_cost(curve, unit) for curve in curves}
    time, size = next(one for one in _TIMES if max(costs.values()) >= one[1] or one[1] == 1)
    for axis, (corpus, group) in zip(axes, groups.items(), strict=True):
        several = len({curve.cell.ratio for curve in curves if curve.cell.ratio}) > 1
        for curve in group:
            point, x = mean_over_seeds(curve)[0], costs[curve.cell.name] / size
            style = {**look(curve.cell, []), "linestyle": "", "markersize": 4.5}
            name = method_name(curve.cell.method) if several else names[curve.cell.name]
            _bar(axis, x, curve, point, style, name)
            if several and curve.cell.ratio:
                axis.annotate(f"{curve.cell.ratio:.0%}", (x, point.value), xytext=(4, 2),
                              textcoords="offset points", fontsize=6)  # fmt: skip
        kind = f"GPU-{time}" if unit == "GPU" else f"{time} of wall time"
        axis.set_xlabel(f"selection and training, {kind}")
        axis.set_xlim(0, 1.1 * max(costs[curve.cell.name] for curve in group) / size)
        _describe(axis, corpus, group)
    legend(figure, axes)
    return save(figure, folder, "cost")


_TIMES = (("hours", 3600), ("minutes", 60), ("seconds", 1))


def _unit(curves: list[Curve]) -> Unit | None:
    """That of most costs."""
    units = [unit for curve in curves for _, unit in (curve.paid or {}).values()]
    if not units:
        return None
    return "GPU" if 2 * units.count("GPU") > len(units) else "wall"


def _mean_cost(curve: Curve, unit: Unit | None) -> float:
    """Seconds, of the seeds whose cost is in that unit; 0 where there are none."""
    paid = [seconds for seconds, what in (curve.paid or {}).values() if what == unit]
    return sum(paid) / len(paid) if paid else 0.0


def costed(curves: list[Curve]) -> list[Curve]:
    """Those whose costs are known, all in the unit of most."""
    unit = _unit(curves)
    known = [curve for curve in curves if _mean_cost(curve, unit) > 0]
    return known if len(known) > 1 else []


def band(curve: Curve, point: Point) -> tuple[float, float] | None:
    """The interval at a step: over seeds where there are several, else over images."""
    if len(curve.points) < 2:
        return None if point.low is None or point.high is None else (point.low, point.high)
    values = [p.value for points in curve.points.values() for p in points if p.step == point.step]
    low, high = over_seeds(values)["interval_95"]
    return low, high


def _bands(curves: list[Curve]) -> str:
    kinds = sorted({"seeds" if len(curve.points) > 1 else "images" for curve in curves})
    return f"95 % interval over {' or '.join(kinds)}"


def _line(
    axis: Any, at: list[float], line: list[Curve], method: str, label: str | None = None
) -> None:
    """Points of a sweep, joined, with their intervals."""
    points = [mean_over_seeds(curve)[0] for curve in line]
    own = next((c.cell for c in line if c.cell.method == method), line[0].cell)
    style = look(own, [])
    axis.plot(at, [point.value for point in points], **{**style, "marker": ""})
    for number, (x, curve, point) in enumerate(zip(at, line, points, strict=True)):
        _bar(axis, x, curve, point, {**style, "linestyle": ""}, label if number == 0 else None)


def _bar(
    axis: Any, x: float, curve: Curve, point: Point, style: dict[str, Any], label: str | None
) -> None:
    bounds = band(curve, point)
    ends = None if bounds is None else [[point.value - bounds[0]], [bounds[1] - point.value]]
    axis.errorbar([x], [point.value], yerr=ends, capsize=1.5, elinewidth=0.7, label=label, **style)


def _share(curve: Curve) -> float:
    return 1.0 if curve.cell.method == "full" else 1.0 - curve.cell.ratio


def shares(curves: list[Curve]) -> list[Curve]:
    """Entropy alone and the full data, at the one step count that most have, of each corpus that
    has two shares."""
    kept: list[Curve] = []
    for group in by_corpus(curves).values():
        mine = [curve for curve in group if curve.cell.method in ("entropy", "full")]
        steps = [curve.cell.steps for curve in mine]
        most = max(dict.fromkeys(steps), key=steps.count, default=0)
        mine = [curve for curve in mine if curve.cell.steps == most]
        kept += mine if len({_share(curve) for curve in mine}) > 1 else []
    return kept


def swept(curves: list[Curve], field: Sweep, least: int) -> list[Curve]:
    """The curves of families that have at least `least` values of the field."""
    kept: list[Curve] = []
    for group in by_corpus(curves).values():
        for line in families(group, field):
            if len({getattr(one.cell, field) for one in line}) >= least:
                kept += [one for one in line if one not in kept]
    alone = {curve.cell.method for curve in kept} <= {"entropy", "full"}
    return [] if alone else kept  # Stage I alone over its shares is Figure 4


def _scale(axis: Any, group: list[Curve]) -> None:
    """Limits by the values: intervals that are far wider (of two seeds, say) are cut off."""
    points = [(curve, point) for curve in group for point in mean_over_seeds(curve)]
    values = [point.value for _, point in points]
    if min(values) > 0 and max(values) > 10 * min(values):
        axis.set_yscale("log")  # the first checkpoints would flatten all later ones
        return
    bounds = [bound for pair in points for bound in band(*pair) or ()]
    low, high = min(values), max(values)
    room = 0.5 * (high - low) or abs(high) or 1.0
    low = max(low - room, min([low, *bounds]))
    high = min(high + room, max([high, *bounds]))
    margin = 0.05 * (high - low or room)
    axis.set_ylim(low - margin, high + margin)


def _legend_height(curves: list[Curve]) -> float:
    return 0.07 * len(curves) + 0.35


def _describe(axis: Any, corpus: str, group: list[Curve]) -> None:
    axis.set_ylabel(f"{group[0].measure.words()}\n(lower is better)")
    _scale(axis, group)
    _title(axis, corpus, group[0])


def _title(axis: Any, corpus: str, curve: Curve) -> None:
    text = f"{CORPUS_NAMES.get(corpus, corpus)}: {curve.measure.detail()}"
    axis.annotate(text, (0, 1), xycoords="axes fraction", xytext=(0, 10), fontsize=6.5,
                  textcoords="offset points")  # fmt: skip
