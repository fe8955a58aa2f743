"""Curves as inline SVG. What moves in them (dashboard.js) reads the same numbers."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from typing import Any

WIDTH, HEIGHT = 460, 270
LEFT, RIGHT, TOP, BOTTOM = 52, 12, 10, 40
MOST = 200  # points of a line


@dataclass(frozen=True)
class Line:
    """One line: its name, colour ('#rrggbb'), SVG dashes and points (x, y), by x."""

    name: str
    colour: str
    dash: str
    points: list[tuple[float, float]]


def thinned(points: list[tuple[float, float]]) -> list[tuple[float, float]]:
    """At most MOST points, evenly spread, the last among them."""
    if len(points) <= MOST:
        return points
    at = [round(n * (len(points) - 1) / (MOST - 1)) for n in range(MOST)]
    return [points[n] for n in at]


def ticks(low: float, high: float, about: int = 5) -> list[float]:
    """Round numbers from `low` to `high`, about so many."""
    if not high > low:
        return [low]
    step = 10 ** math.floor(math.log10((high - low) / about))
    step *= next(m for m in (1, 2, 5, 10) if (high - low) / (m * step) <= about)
    first = math.ceil(low / step - 1e-9)
    last = math.floor(high / step + 1e-9)
    return [n * step for n in range(first, last + 1)]


def plot(lines: list[Line], log_y: bool) -> dict[str, Any]:
    """Ticks, paths and the numbers for the script; positions in the SVG's units."""
    xs = [x for line in lines for x, _ in line.points]
    ys = [y for line in lines for _, y in line.points if math.isfinite(y)]
    log_y = log_y and bool(ys) and min(ys) > 0 and max(ys) > 10 * min(ys)
    of = math.log10 if log_y else float
    low, high = (of(min(ys)), of(max(ys))) if ys else (0.0, 1.0)
    if not high > low:
        low, high = low - 0.5 * (abs(low) or 1), high + 0.5 * (abs(high) or 1)
    margin = 0.05 * (high - low)
    low, high = low - margin, high + margin
    left, right = 0.0, max(xs) or 1.0

    def x_at(x: float) -> float:
        return round(LEFT + (x - left) / (right - left) * (WIDTH - LEFT - RIGHT), 1)

    def y_at(y: float) -> float:
        return round(TOP + (high - of(y)) / (high - low) * (HEIGHT - TOP - BOTTOM), 1)

    marks = _decades(low, high) if log_y else ticks(low, high)
    drawn = []
    for line in lines:
        finite = [(x, y) for x, y in line.points if math.isfinite(y)]
        places = [(x_at(x), y_at(y)) for x, y in finite]
        data = [[x, y, *place] for (x, y), place in zip(finite, places, strict=True)]
        drawn.append({
            "name": line.name, "colour": line.colour, "dash": line.dash,
            "path": "M" + " L".join(f"{x} {y}" for x, y in places) if places else "",
            "dots": places if len(places) <= 30 else places[-1:],
            "data": json.dumps(data),
        })  # fmt: skip
    return {
        "x_ticks": [(x_at(x), short(x)) for x in ticks(left, right)],
        "y_ticks": [(y_at(10**m if log_y else m), short(10**m if log_y else m)) for m in marks],
        "lines": drawn,
        "log": log_y,
        "box": (LEFT, TOP, WIDTH - RIGHT, HEIGHT - BOTTOM),
    }


def _decades(low: float, high: float) -> list[float]:
    found = [
        math.log10(m * 10.0**n) for n in range(math.floor(low), math.ceil(high)) for m in (1, 2, 5)
    ]
    return [mark for mark in found if low <= mark <= high]


def short(value: float) -> str:
    """A tick's number: 12k, 1.5M, 0.02."""
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= size:
            return f"{value / size:.4g}{letter}"
    return f"{value:.3g}"
