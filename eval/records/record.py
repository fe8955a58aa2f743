"""The growing record of eval.track: track.jsonl, and track.png drawn from it.

One JSON line for each checkpoint and kind of weights, appended and flushed, never rewritten. A
kill can cut off the last line only; it is left out on reading and cut away before the next one
is appended. Light to import: no torch, no matplotlib.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from core.atomic import fsync_folder
from core.errors import UserError

_NEEDED = {"step", "samples", "weights", "checkpoint", "distance", "extractor"}
_COLOURS = {"ema": "#0b3d91", "raw": "#c2571a"}
_LABELS = {"ema": "moving average of the weights (EMA)", "raw": "weights themselves (raw)"}

Line = dict[str, Any]


def read_lines(path: Path) -> tuple[list[Line], int]:
    """The whole lines of a record, and the number of bytes that they take.

    A missing file has none. The last line is left out when it is cut off. Raises UserError for
    any other line that eval.track did not write.
    """
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return [], 0
    *rows, _ = content.split(b"\n")
    lines: list[Line] = []
    whole = 0
    for number, row in enumerate(rows, start=1):
        try:
            line = json.loads(row)
        except ValueError:
            line = None
        if not isinstance(line, dict) or not line.keys() >= _NEEDED:
            if number == len(rows) and line is None:
                break  # the power failed: the file grew, but not all of the line arrived
            raise UserError(f"{path}: line {number} is no line of a track; remove it")
        lines.append(line)
        whole += len(row) + 1
    return lines, whole


def mend(path: Path) -> list[Line]:
    """Cut away a cut-off last line, and return the whole ones. Only the writer may call this."""
    lines, whole = read_lines(path)
    if path.exists() and path.stat().st_size > whole:
        with open(path, "r+b") as stream:
            stream.truncate(whole)
            os.fsync(stream.fileno())
        print(f"[eval.track] {path}: its last line was cut off; measuring that again", flush=True)
    return lines


def append(path: Path, line: Line) -> None:
    """Append one line; it is on disk when this returns."""
    new = not path.exists()
    with open(path, "ab") as stream:
        stream.write(json.dumps(line, allow_nan=False).encode() + b"\n")
        stream.flush()
        os.fsync(stream.fileno())
    if new:
        fsync_folder(path.parent)


def up_to_date(picture: Path, record: Path) -> bool:
    """True when the picture was drawn after the record's last line, or there is no line."""
    try:
        return picture.stat().st_mtime_ns >= record.stat().st_mtime_ns
    except FileNotFoundError:
        return not record.exists()


def newest(lines: list[Line]) -> dict[tuple[str, int], Line]:
    """(weights, step) -> its last line, by step. A checkpoint trained anew is measured anew."""
    last = {(line["weights"], line["step"]): line for line in lines}
    return dict(sorted(last.items()))


def draw(lines: list[Line], out: Path, title: str) -> Path:
    """Frechet and kernel distance against training steps, one curve for each kind of weights.

    Lines without a distance (diverged weights) leave a gap. Writes a PNG atomically.
    """
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt
    from matplotlib.ticker import MaxNLocator, StrMethodFormatter

    from eval.records.pictures import save_figure

    last = newest(lines)
    named = next((line["distance"] for line in last.values() if line["distance"]), None)
    figure, axes = plt.subplots(2, 1, figsize=(8, 7.5), sharex=True, layout="constrained")
    for axis, key in zip(axes, ("name", "kernel_name"), strict=True):
        value = key.replace("name", "value")
        for weights in ("ema", "raw"):
            mine = [line for (kind, _), line in last.items() if kind == weights]
            if not mine:
                continue
            heights = [line["distance"][value] if line["distance"] else None for line in mine]
            axis.plot(
                [line["step"] for line in mine],
                [float("nan") if height is None else height for height in heights],
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
