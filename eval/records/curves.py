"""The curves of a track: distances and held-out loss against training steps."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, StrMethodFormatter

from core.atomic import atomic_path
from eval.records.record import Line, newest

_COLOURS = {"ema": "#0b3d91", "raw": "#c2571a"}
_LABELS = {"ema": "moving average of the weights (EMA)", "raw": "weights themselves (raw)"}
_STYLES = ("-", "--", ":")  # of the hold-outs in their order
_NONE = float("nan")


def draw(lines: list[Line], out: Path, title: str) -> Path:
    """Frechet and kernel distance, and the loss, against training steps.

    One colour for each kind of weights, one style of line for each hold-out. Lines without a
    distance or a loss (diverged weights, tracks of earlier versions) leave a gap. Writes a PNG
    atomically.
    """
    last = list(newest(lines).values())
    apart = [_by_holdout(line) for line in last]
    held = list(dict.fromkeys(name for distances in apart for name in distances))
    losses = list(dict.fromkeys(name for line in last for name in line.get("loss") or {}))
    named = next((line["distance"] for line in last if line["distance"]), None)
    figure = Figure(figsize=(8, 10.5 if losses else 7.5), layout="constrained")
    axes = figure.subplots(3 if losses else 2, 1, sharex=True)

    for axis, key in zip(axes, ("name", "kernel_name"), strict=False):
        value = key.replace("name", "value")

        def of(line: Line, name: str, value: str = value) -> float:
            return _by_holdout(line).get(name, {}).get(value, _NONE)

        _curves(axis, last, held, of)
        whose = "the hold-out" if len(held) < 2 else "the hold-outs"
        axis.set_ylabel(f"{named[key] if named else 'distance'} to {whose} (lower is better)")
    if losses:
        _curves(axes[2], last, losses, _loss)
        axes[2].set_ylabel("diffusion loss, held out (lower is better)")
    values = [one["value"] for distances in apart for one in distances.values()]
    if values and min(values) > 0 and max(values) > 10 * min(values):
        axes[0].set_yscale("log")  # the first checkpoints would flatten all later ones
    axes[-1].set_xlabel("training steps")
    axes[-1].xaxis.set_major_locator(MaxNLocator(integer=True))
    axes[-1].xaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
    if held:
        axes[0].legend(frameon=False, fontsize=9)
    if losses:
        axes[2].legend(frameon=False, fontsize=9)
    axes[0].set_title(title, fontsize=10, loc="left")
    return save_figure(figure, out)


def _curves(
    axis: Any, lines: list[Line], held: list[str], value: Callable[[Line, str], float]
) -> None:
    for weights in ("ema", "raw"):
        mine = [line for line in lines if line["weights"] == weights]
        for name, style in zip(held if mine else [], _STYLES, strict=False):
            axis.plot(
                [line["step"] for line in mine],
                [value(line, name) for line in mine],
                style,
                color=_COLOURS[weights],
                marker="o",
                markersize=4,
                label=_LABELS[weights] + (f", {name}" if len(held) > 1 else ""),
            )
    axis.grid(alpha=0.3)
    axis.spines[["top", "right"]].set_visible(False)


def _by_holdout(line: Line) -> dict[str, dict[str, Any]]:
    """Distances by hold-out; a line of earlier versions has one, which names no hold-out."""
    found: dict[str, dict[str, Any]] = line.get("distances") or {}
    return found or ({"pool": line["distance"]} if line["distance"] else {})


def _loss(line: Line, name: str) -> float:
    loss = line.get("loss") or {}
    return loss[name]["loss"] if name in loss else _NONE


def save_figure(figure: Figure, out: Path) -> Path:
    """Write a figure as PNG, atomically."""
    with atomic_path(out) as temporary:
        figure.savefig(temporary, format="png", dpi=110)
    return out
