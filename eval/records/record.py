"""The growing record of eval.track: one JSON line for each checkpoint and kind of weights.

Lines are appended and flushed, never rewritten. A kill can truncate the last line only; it is
left out on reading and cut off before the next one is appended. Light to import.
"""

from __future__ import annotations

import dataclasses
import json
import os
from pathlib import Path
from typing import Any

from core.atomic import fsync_folder
from core.errors import UserError
from dit.training.checkpoint import Weights

_NEEDED = {"step", "samples", "weights", "checkpoint", "distance", "extractor"}

Line = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Job:
    """A checkpoint whose lines are missing for `weights`."""

    checkpoint: Path
    fingerprint: str
    state: dict[str, Any]
    weights: list[Weights]


class Stopped(Exception):
    """Asked to stop while at work."""


def read_lines(path: Path) -> tuple[list[Line], int]:
    """The complete lines of a record, and the number of bytes that they take.

    A missing file has none. The last line is left out when it is truncated. Raises UserError for
    any other line that eval.track did not write.
    """
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return [], 0
    *rows, _ = content.split(b"\n")
    lines: list[Line] = []
    size = 0
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
        size += len(row) + 1
    return lines, size


def repair(path: Path) -> list[Line]:
    """Cut off a truncated last line, and return the others. Only the writer may call this."""
    lines, size = read_lines(path)
    if path.exists() and path.stat().st_size > size:
        with open(path, "r+b") as stream:
            stream.truncate(size)
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


def as_logged(line: Line) -> dict[str, Any]:
    """A line as W&B gets it, by the names of its distances, losses and weights."""
    distance, kind = line["distance"] or {}, line["weights"]
    values = {f"{kind}/seconds": line["seconds"]}
    for name, value in (("name", "value"), ("kernel_name", "kernel_value")):
        if distance:
            values[f"{kind}/{distance[name]}"] = distance[value]
        for held, other in (line.get("distances") or {}).items():
            values[f"{kind}/{held}/{other[name]}"] = other[value]
    for held, terms in (line.get("loss") or {}).items():
        values |= {f"{kind}/{held}/{term}": terms[term] for term in terms if term != "n"}
    return {"step": line["step"], "samples": line["samples"], **values}
