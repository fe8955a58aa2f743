"""The curves of a track: distances against training steps."""

from __future__ import annotations

from pathlib import Path

from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, StrMethodFormatter

from core.atomic import atomic_path
from eval.records.record import Line, newest

_COLOURS = {"ema": "#0b3d91", "raw": "#c2571a"}
_LABELS = {"ema": "moving average of the weights (EMA)", "raw": "weights themselves (raw)"}


def draw(lines: list[Line], out: Path, title: str) -> Path:
    """Frechet and kernel distance against training steps, one curve for each kind of weights.

    Lines without a distance (diverged weights) leave a gap. Writes a PNG atomically.
    """
    last = newest(lines)
    named = next((line["distance"] for line in last.values() if line["distance"]), None)
    figure = Figure(figsize=(8, 7.5), layout="constrained")
    axes = figure.subplots(2, 1, sharex=True)
    for axis, key in zip(axes, ("name", "kernel_name"), strict=True):
        value = key.replace("name", "value")
        for weights in ("ema", "raw"):
            mine = [line for (kind, _), line in last.items() if kind == weights]
            if not mine:
                continue
            axis.plot(
                [line["step"] for line in mine],
                [line["distance"][value] if line["distance"] else float("nan") for line in mine],
                color=_COLOURS[weights],
                marker="o",
                markersize=4,
                label=_LABELS[weights],
            )
        name = named[key] if named else "distance"
        axis.set_ylabel(f"{name} to the hold-out (lower is better)")
        axis.grid(alpha=0.3)
        axis.spines[["top", "right"]].set_visible(False)
    values = [line["distance"]["value"] for line in last.values() if line["distance"]]
    if values and min(values) > 0 and max(values) > 10 * min(values):
        axes[0].set_yscale("log")  # the first checkpoints would flatten all later ones
    axes[1].set_xlabel("training steps")
    axes[1].xaxis.set_major_locator(MaxNLocator(integer=True))
    axes[1].xaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
    axes[0].legend(frameon=False, fontsize=9)
    axes[0].set_title(title, fontsize=10, loc="left")
    return save_figure(figure, out)


def save_figure(figure: Figure, out: Path) -> Path:
    """Write a figure as PNG, atomically."""
    with atomic_path(out) as temporary:
        figure.savefig(temporary, format="png", dpi=110)
    return out
