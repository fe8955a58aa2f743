"""Things that stand on the ground: crowns, roofs, vehicles, ships, tanks."""

from __future__ import annotations

import bisect
import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from world.paint.canvas import Canvas, Rgb, Sheet
from world.paint.noise import Array
from world.paint.scenes import BARE, BUILDING, DEVELOPED, ROAD, TREE

ROOFS: dict[str, tuple[tuple[float, float, float], ...]] = {
    "tile": ((0.55, 0.34, 0.26), (0.50, 0.36, 0.29), (0.60, 0.42, 0.34), (0.47, 0.31, 0.25)),
    "slate": ((0.36, 0.36, 0.38), (0.44, 0.44, 0.45), (0.30, 0.30, 0.32), (0.50, 0.48, 0.46)),
    "flat": ((0.62, 0.61, 0.58), (0.72, 0.71, 0.69), (0.52, 0.50, 0.47), (0.44, 0.43, 0.43)),
    "metal": ((0.82, 0.83, 0.83), (0.68, 0.71, 0.74), (0.40, 0.53, 0.68), (0.58, 0.50, 0.44)),
}
PAINT = (  # of vehicles and small boats
    (0.88, 0.88, 0.88), (0.15, 0.15, 0.17), (0.55, 0.56, 0.58),
    (0.60, 0.16, 0.14), (0.20, 0.28, 0.48), (0.76, 0.74, 0.68),
)  # fmt: skip


def grey(colour: Sequence[float]) -> float:
    """Mean of three values, without an array's overhead."""
    return (float(colour[0]) + float(colour[1]) + float(colour[2])) / 3


def scaled(colour: Sequence[float], factor: float) -> tuple[float, float, float]:
    """A colour times a factor, kept within 0.03..0.97."""
    r, g, b = (min(0.97, max(0.03, float(v) * factor)) for v in colour)
    return (r, g, b)


def scatter(canvas: Canvas, spacing: float, jitter: float = 0.45) -> np.ndarray:
    """Jittered grid over the tile: k x 2 pixel coordinates, `spacing` in units."""
    step = spacing * canvas.unit
    count = int(np.ceil(canvas.n / step)) + 2
    grid = np.stack(np.meshgrid(np.arange(count), np.arange(count)), axis=-1).reshape(-1, 2) - 0.5
    moved = (grid + canvas.rng.uniform(-jitter, jitter, grid.shape)) * step
    return canvas.rng.permutation(moved, axis=0)


def at(field: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Values of an n x n field at k x 2 pixel coordinates (clamped to the tile)."""
    index = np.clip(points.astype(np.int64), 0, field.shape[0] - 1)
    return field[index[:, 1], index[:, 0]]


def trees(
    canvas: Canvas, points: np.ndarray, radius: float, *, height: float = 1.6,
    tint: Rgb | None = None,
) -> None:  # fmt: skip
    """Round crowns with a lit and a dark side, casting shadows.

    Args:
        points: k x 2 pixel coordinates, drawn in order.
        radius: units, on average.
        height: of a mean crown's top, in radii.
        tint: colour; that of the season by default.
    """
    if not len(points):
        return
    rng, look, k = canvas.rng, canvas.look, len(points)
    sizes = radius * canvas.unit * np.clip(rng.normal(1.0, 0.3, k), 0.45, 1.9)
    bright = np.clip(rng.normal(1.0, 0.13, k), 0.6, 1.5)
    warm = rng.normal(0.0, 0.10, k)
    base = np.asarray(look.tree if tint is None else tint)
    colours = base[None] * bright[:, None] * np.stack([1 + warm, 1 + 0.4 * warm, 1 - warm], axis=1)
    sheet = Sheet(canvas)
    nir, top = look.tree_nir * (0.55 + 0.45 * bright), np.full(k, height * radius)
    sheet.rows.extend(np.column_stack([colours, nir, np.full(k, TREE), top]).tolist())
    for index, (x, y, size) in enumerate(np.column_stack([points, sizes]).tolist(), start=1):
        sheet.disc(x, y, size, index)
    ids = sheet.lay()
    where = np.flatnonzero(ids)
    picked = ids.ravel()[where] - 1
    centre, wide = points.astype(np.float32), sizes.astype(np.float32)[picked]
    half = np.float32((canvas.n - 1) / 2)
    dx = (canvas.x.ravel()[where] + half - centre[picked, 0]) / wide
    dy = (canvas.y.ravel()[where] + half - centre[picked, 1]) / wide
    dome = np.sqrt(np.clip(1.05 - dx * dx - dy * dy, 0.05, 1.0))
    lit = 0.74 + 0.30 * dome + 0.42 * (dx * look.sun[0] + dy * look.sun[1])
    rough = rng.standard_normal(picked.size, dtype=np.float32) * 0.09
    canvas.light.ravel()[where] = np.clip(lit + rough, 0.35, 1.6)
    canvas.height.ravel()[where] = np.float32(height / canvas.unit) * wide * (0.4 + 0.6 * dome)


def woods(canvas: Canvas, density: Array, radius: float, *, height: float = 1.6) -> None:
    """A stand of crowns `radius` units wide wherever `density` (n x n, 0..1) allows them."""
    points = scatter(canvas, radius * 1.35)
    wanted = canvas.rng.random(len(points)) < at(density, points)
    trees(canvas, points[wanted], radius, height=height)


def rectangle(
    canvas: Canvas, s: float, t: float, length: float, width: float, turn: float, angle: float
) -> list[tuple[float, float]]:
    """Corners (pixels) of a rectangle centred at (s, t) of the frame `angle`, turned in it."""
    x, y = canvas.pixel(s, t, angle)
    c, d = math.cos(angle + turn) * canvas.unit / 2, math.sin(angle + turn) * canvas.unit / 2
    lx, ly, wx, wy = length * c, length * d, -width * d, width * c
    return [
        (x - lx - wx, y - ly - wy), (x + lx - wx, y + ly - wy),
        (x + lx + wx, y + ly + wy), (x - lx + wx, y - ly + wy),
    ]  # fmt: skip


class Town:
    """Buildings of one tile: roofs, their shadows, and what changes between the two epochs."""

    def __init__(self, canvas: Canvas) -> None:
        self.canvas = canvas
        self.sheet = Sheet(canvas)
        self.plots = Sheet(canvas)

    def building(
        self, s: float, t: float, length: float, width: float, height: float, roof: str, *,
        turn: float = 0.0, angle: float = 0.0, gable: bool = False,
    ) -> None:  # fmt: skip
        """One building; sizes and height in units, `turn` radians in the frame `angle`.

        One in ten is built, and one in ten torn down, between epochs 0 and 1; where it is
        missing lies bare ground.
        """
        canvas, rng = self.canvas, self.canvas.rng
        if not canvas.near(*canvas.pixel(s, t, angle), margin=length + width):
            return
        draws = rng.random(24).tolist()
        fate, choice, pitch, bright = draws[0], draws[1], draws[2], 0.85 + 0.3 * draws[3]
        clutter = [draws[i : i + 4] for i in range(4, 24, 4)]
        missing = fate < 0.1 if canvas.epoch == 0 else fate > 0.9
        corners = rectangle(canvas, s, t, length, width, turn, angle)
        if missing:
            soil = self.plots.thing((0.52, 0.46, 0.38), 0.5, BARE)
            self.plots.polygon(corners, soil)
            return
        palette = ROOFS[roof]
        base = scaled(palette[int(choice * len(palette))], bright)
        c, d = math.cos(turn), math.sin(turn)
        if gable:
            facing = angle + turn + math.pi / 2
            sun = canvas.look.sun
            lean = (0.14 + 0.16 * pitch) * (math.cos(facing) * sun[0] + math.sin(facing) * sun[1])
            for side in (-1, 1):
                shift = side * width / 4
                middle = s - shift * d, t + shift * c
                half = rectangle(canvas, *middle, length, width / 2, turn, angle)
                self.sheet.polygon(half, self._roof(scaled(base, 1 + side * lean), height))
            return
        self.sheet.polygon(corners, self._roof(scaled(base, 0.86), height * 1.04))  # parapet
        rim = min(0.5, 0.12 * width)
        inner = rectangle(canvas, s, t, length - 2 * rim, width - 2 * rim, turn, angle)
        self.sheet.polygon(inner, self._roof(base, height))
        for u, v, w, tone in clutter[: int(min(5, length * width / 24))]:  # plant rooms, skylights
            du, dv, wide = (u - 0.5) * 0.64 * length, (v - 0.5) * 0.64 * width, 0.6 + 1.2 * w
            middle = s + du * c - dv * d, t + du * d + dv * c
            box = rectangle(canvas, *middle, wide, wide * 0.8, turn, angle)
            self.sheet.polygon(box, self._roof(scaled(base, 0.7 + 0.55 * tone), height * 1.08))

    def _roof(self, colour: tuple[float, float, float], height: float) -> int:
        return self.sheet.thing(colour, grey(colour) * 0.95 + 0.02, BUILDING, height)

    def lorry(self, s: float, t: float, turn: float, angle: float) -> None:
        """A parked lorry or trailer."""
        paint = PAINT[int(self.canvas.rng.integers(len(PAINT)))]
        box = rectangle(self.canvas, s, t, 2.6, 0.9, turn, angle)
        self.plots.polygon(box, self.plots.thing(paint, grey(paint), DEVELOPED, 0.7))

    def lay(self) -> NDArray[np.bool_]:
        """Lay plots and roofs; returns where buildings stand."""
        self.plots.lay()
        stands = self.sheet.lay() > 0
        texture = self.canvas.rng.standard_normal(stands.shape, dtype=np.float32) * np.float32(0.03)
        self.canvas.mottle(texture, stands)
        return stands


def tarmac(canvas: Canvas) -> tuple[float, float, float]:
    """A road surface: from fresh asphalt to pale concrete."""
    tone = float(canvas.rng.uniform(0.34, 0.58))
    return (tone * 1.01, tone, tone * 0.98)


def cars(
    canvas: Canvas, sheet: Sheet, path: list[tuple[float, float]], offset: float, gap: float
) -> None:
    """Vehicles along a polyline (pixels), `offset` units to its right, about `gap` units apart."""
    rng, u = canvas.rng, canvas.unit
    track = np.asarray(path)
    legs = np.diff(track, axis=0)
    lengths = np.hypot(legs[:, 0], legs[:, 1]) + 1e-6
    ends = np.concatenate([[0.0], np.cumsum(lengths)])
    starts, cell = ends.tolist(), 2.6 * u
    place = rng.exponential(gap * u)
    while place < starts[-1]:
        leg = min(bisect.bisect_right(starts, place) - 1, len(legs) - 1)
        dx, dy = float(legs[leg, 0] / lengths[leg]), float(legs[leg, 1] / lengths[leg])
        x = float(track[leg, 0]) + (place - starts[leg]) * dx - dy * offset * u
        y = float(track[leg, 1]) + (place - starts[leg]) * dy + dx * offset * u
        size, choice, wait = rng.random(), int(rng.integers(len(PAINT))), rng.exponential(gap * u)
        place += cell + wait
        if not canvas.near(x, y, 3.0):
            continue
        lorry = size < 0.12
        half, wide = (2.2 if lorry else 1.05) * u / 2, 0.85 * u / 2
        outline = [
            (x + a * dx * half - b * dy * wide, y + a * dy * half + b * dx * wide)
            for a, b in ((-1, -1), (1, -1), (1, 1), (-1, 1))
        ]
        paint = PAINT[choice]
        sheet.polygon(outline, sheet.thing(paint, grey(paint), ROAD, 0.5 if lorry else 0.3))


def road(
    canvas: Canvas, path: list[tuple[float, float]], width: float, *, colour: Rgb | None = None,
    marks: bool = False, traffic: float = 0.0, height: float = 0.0, kerb: Rgb | None = None,
) -> None:  # fmt: skip
    """A road along a polyline (pixels): verge, surface, markings and vehicles.

    Args:
        width: units. colour: surface, drawn at random by default.
        marks: lines along the middle and the edges.
        traffic: vehicles; mean gap in units, 0 for none.
        height: units above ground (a bridge casts a shadow). kerb: colour of the verge.
    """
    surface = tarmac(canvas) if colour is None else tuple(colour)
    sheet = Sheet(canvas)
    if kerb is not None:
        sheet.line(path, width + 1.2, sheet.thing(kerb, 0.45, DEVELOPED))
    sheet.line(path, width, sheet.thing(surface, grey(surface) * 0.95, ROAD, height))
    if marks:
        white = sheet.thing((0.80, 0.80, 0.77), 0.75, ROAD, height)
        sheet.line(path, 0.2, white)
    canvas.height[sheet.lay() > 0] = height
    if traffic > 0:
        fleet = Sheet(canvas)
        for lane in (-0.26, 0.26):
            cars(canvas, fleet, path, lane * width, traffic)
        fleet.lay()


def boat(
    canvas: Canvas, sheet: Sheet, x: float, y: float, heading: float, length: float,
    colour: Sequence[float],
) -> None:  # fmt: skip
    """A pointed hull: position in pixels, length in units."""
    if not canvas.near(x, y, length):
        return
    c, s, u = math.cos(heading), math.sin(heading), canvas.unit

    def draw(shape: Sequence[tuple[float, float]], thing: int) -> None:
        turned = [(a * c - b * s, a * s + b * c) for a, b in shape]
        sheet.polygon([(x + a * length * u, y + b * length * u) for a, b in turned], thing)

    hull = ((-0.5, -0.15), (0.2, -0.16), (0.5, 0.0), (0.2, 0.16), (-0.5, 0.15))
    draw(hull, sheet.thing(colour, grey(colour), DEVELOPED, 0.12 * length))
    if length > 2.5:
        deck = ((-0.3, -0.08), (0.1, -0.08), (0.1, 0.08), (-0.3, 0.08))
        draw(deck, sheet.thing(scaled(colour, 0.62), 0.3, DEVELOPED, 0.14 * length))


def tanks(canvas: Canvas, group: list[tuple[float, float, float]], colour: Sequence[float]) -> None:
    """Storage tanks with domed roofs: (x pixels, y pixels, radius units) each, of one colour."""
    sheet = Sheet(canvas)
    for x, y, radius in group:
        wall = sheet.thing(scaled(colour, 0.8), 0.6, BUILDING, radius * 0.8)
        sheet.disc(x, y, radius * canvas.unit, wall)
        roof = sheet.thing(colour, 0.75, BUILDING, radius * 0.8)
        sheet.disc(x, y, radius * canvas.unit * 0.9, roof)
    ids = sheet.lay()
    where = ids > 0
    if not where.any():
        return
    centres = np.asarray(group, dtype=np.float32)[(ids[where] - 1) // 2]
    half, sun = (canvas.n - 1) / 2, canvas.look.sun
    dx = canvas.x[where] + half - centres[:, 0]
    dy = canvas.y[where] + half - centres[:, 1]
    lit = 0.16 * (dx * sun[0] + dy * sun[1]) / (centres[:, 2] * canvas.unit)
    canvas.light[where] = 1.0 + lit
