"""Things that stand on the ground: crowns, roofs, vehicles, ships, tanks."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from data.world.canvas import Canvas, Sheet
from data.world.noise import Array
from data.world.scenes import BARE, BUILDING, DEVELOPED, ROAD, TREE

ROOFS: dict[str, tuple[tuple[float, float, float], ...]] = {
    "tile": ((0.55, 0.34, 0.26), (0.50, 0.36, 0.29), (0.60, 0.42, 0.34), (0.47, 0.31, 0.25)),
    "slate": ((0.36, 0.36, 0.38), (0.44, 0.44, 0.45), (0.30, 0.30, 0.32), (0.50, 0.48, 0.46)),
    "flat": ((0.62, 0.61, 0.58), (0.72, 0.71, 0.69), (0.52, 0.50, 0.47), (0.44, 0.43, 0.43)),
    "metal": ((0.82, 0.83, 0.83), (0.68, 0.71, 0.74), (0.40, 0.53, 0.68), (0.58, 0.50, 0.44)),
}
PAINT = (  # of vehicles and small boats
    (0.88, 0.88, 0.88),
    (0.15, 0.15, 0.17),
    (0.55, 0.56, 0.58),
    (0.60, 0.16, 0.14),
    (0.20, 0.28, 0.48),
    (0.76, 0.74, 0.68),
)


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
    canvas: Canvas,
    points: np.ndarray,
    radius: float,
    *,
    spread: float = 0.3,
    height: float = 1.6,
    tint: Sequence[float] | None = None,
) -> None:
    """Round crowns with a lit and a dark side, casting shadows.

    Args:
        points: k x 2 pixel coordinates, drawn in order.
        radius: units; `spread` is its relative deviation.
        height: of a mean crown's top, in radii.
        tint: colour; that of the season by default.
    """
    if not len(points):
        return
    rng, look, k = canvas.rng, canvas.look, len(points)
    sizes = radius * canvas.unit * np.clip(rng.normal(1.0, spread, k), 0.45, 1.9)
    bright = np.clip(rng.normal(1.0, 0.13, k), 0.6, 1.5)
    warm = rng.normal(0.0, 0.10, k)
    base = np.asarray(look.tree if tint is None else tint)
    colours = base[None] * bright[:, None] * np.stack([1 + warm, 1 + 0.4 * warm, 1 - warm], axis=1)
    sheet = Sheet(canvas)
    for (x, y), size, colour, light in zip(points, sizes, colours, bright, strict=True):
        number = sheet.thing(colour, look.tree_nir * (0.55 + 0.45 * light), TREE, height * radius)
        sheet.disc(x, y, size, number)
    ids = sheet.lay()
    where = ids > 0
    picked = ids[where] - 1
    half = (canvas.n - 1) / 2
    dx = (canvas.x[where] + half - points[picked, 0]) / sizes[picked]
    dy = (canvas.y[where] + half - points[picked, 1]) / sizes[picked]
    dome = np.sqrt(np.clip(1.05 - dx * dx - dy * dy, 0.05, 1.0))
    lit = 0.74 + 0.30 * dome + 0.42 * (dx * look.sun[0] + dy * look.sun[1])
    rough = rng.standard_normal(picked.size, dtype=np.float32) * 0.09
    canvas.light[where] = np.clip(lit + rough, 0.35, 1.6)
    canvas.height[where] = height * sizes[picked] / canvas.unit * (0.4 + 0.6 * dome)


def woods(canvas: Canvas, density: Array, radius: float, *, height: float = 1.6) -> None:
    """A stand of crowns `radius` units wide wherever `density` (n x n, 0..1) allows them."""
    points = scatter(canvas, radius * 1.35)
    wanted = canvas.rng.random(len(points)) < at(density, points)
    trees(canvas, points[wanted], radius, height=height)


def rectangle(
    canvas: Canvas, s: float, t: float, length: float, width: float, turn: float, angle: float
) -> list[tuple[float, float]]:
    """Corners (pixels) of a rectangle centred at (s, t) of the frame `angle`, turned in it."""
    c, d = np.cos(turn) / 2, np.sin(turn) / 2
    along = np.array([-1, 1, 1, -1]) * length
    across = np.array([-1, -1, 1, 1]) * width
    return canvas.points(s + along * c - across * d, t + along * d + across * c, angle)


class Town:
    """Buildings of one tile: roofs, their shadows, and what changes between the two epochs."""

    def __init__(self, canvas: Canvas) -> None:
        self.canvas = canvas
        self.sheet = Sheet(canvas)
        self.plots = Sheet(canvas)

    def building(
        self,
        s: float,
        t: float,
        length: float,
        width: float,
        height: float,
        roof: str,
        *,
        turn: float = 0.0,
        angle: float = 0.0,
        gable: bool = False,
    ) -> None:
        """One building; sizes and height in units, `turn` radians in the frame `angle`.

        One in ten is built, and one in ten torn down, between epochs 0 and 1; where it is
        missing lies bare ground.
        """
        canvas, rng = self.canvas, self.canvas.rng
        fate, choice, bright, pitch = rng.random(), rng.random(), rng.normal(1.0, 0.09), rng.random()
        missing = fate < 0.1 if canvas.epoch == 0 else fate > 0.9
        corners = rectangle(canvas, s, t, length, width, turn, angle)
        if missing:
            soil = self.plots.thing((0.52, 0.46, 0.38), 0.5, BARE)
            self.plots.polygon(corners, soil)
            return
        palette = ROOFS[roof]
        base = np.asarray(palette[int(choice * len(palette))]) * bright
        if gable:
            facing = angle + turn + np.pi / 2
            sun = canvas.look.sun
            lean = (0.14 + 0.16 * pitch) * (np.cos(facing) * sun[0] + np.sin(facing) * sun[1])
            for side in (-1, 1):
                number = self._roof(base * (1 + side * lean), height)
                c, d = np.cos(turn), np.sin(turn)
                shift = side * width / 4
                half = rectangle(canvas, s - shift * d, t + shift * c, length, width / 2, turn, angle)
                self.sheet.polygon(half, number)
            return
        self.sheet.polygon(corners, self._roof(base * 0.86, height * 1.04))  # parapet
        rim = min(0.5, 0.12 * width)
        inner = rectangle(canvas, s, t, length - 2 * rim, width - 2 * rim, turn, angle)
        self.sheet.polygon(inner, self._roof(base, height))
        for _ in range(int(min(5, length * width / 24))):  # plant rooms, skylights
            u, v, w = rng.uniform(-0.32, 0.32), rng.uniform(-0.32, 0.32), rng.uniform(0.6, 1.8)
            tone = base * rng.uniform(0.7, 1.25)
            c, d = np.cos(turn), np.sin(turn)
            box = rectangle(
                canvas,
                s + u * length * c - v * width * d,
                t + u * length * d + v * width * c,
                w,
                w * 0.8,
                turn,
                angle,
            )
            self.sheet.polygon(box, self._roof(tone, height * 1.08))

    def lorry(self, s: float, t: float, turn: float, angle: float) -> None:
        """A parked lorry or trailer."""
        paint = PAINT[int(self.canvas.rng.integers(len(PAINT)))]
        number = self.plots.thing(paint, float(np.mean(paint)), DEVELOPED, 0.7)
        self.plots.polygon(rectangle(self.canvas, s, t, 2.6, 0.9, turn, angle), number)

    def _roof(self, colour: np.ndarray, height: float) -> int:
        colour = np.clip(colour, 0.03, 0.97)
        return self.sheet.thing(colour, float(colour.mean()) * 0.95 + 0.02, BUILDING, height)

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
    place = rng.exponential(gap * u)
    while place < ends[-1]:
        leg = int(np.searchsorted(ends, place, side="right") - 1)
        dx, dy = legs[leg] / lengths[leg]
        x, y = track[leg] + (place - ends[leg]) * np.array([dx, dy])
        lorry = rng.random() < 0.12
        half = (2.2 if lorry else 1.05) * u / 2
        wide = 0.85 * u / 2
        paint = PAINT[int(rng.integers(len(PAINT)))]
        x, y = x - dy * offset * u, y + dx * offset * u
        number = sheet.thing(paint, float(np.mean(paint)), ROAD, 0.5 if lorry else 0.3)
        sheet.polygon(
            [
                (x + a * dx * half - b * dy * wide, y + a * dy * half + b * dx * wide)
                for a, b in ((-1, -1), (1, -1), (1, 1), (-1, 1))
            ],
            number,
        )
        place += 2.6 * u + rng.exponential(gap * u)


def road(
    canvas: Canvas,
    path: list[tuple[float, float]],
    width: float,
    *,
    colour: Sequence[float] | None = None,
    marks: bool = False,
    traffic: float = 0.0,
    height: float = 0.0,
    kerb: Sequence[float] | None = None,
) -> None:
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
    sheet.line(path, width, sheet.thing(surface, float(np.mean(surface)) * 0.95, ROAD, height))
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
    canvas: Canvas, sheet: Sheet, x: float, y: float, heading: float, length: float, colour: Sequence[float]
) -> None:
    """A pointed hull: position in pixels, length in units."""
    c, s, u = np.cos(heading), np.sin(heading), canvas.unit
    shape = ((-0.5, -0.15), (0.2, -0.16), (0.5, 0.0), (0.2, 0.16), (-0.5, 0.15))
    hull = sheet.thing(colour, float(np.mean(colour)), DEVELOPED, 0.12 * length)
    sheet.polygon(
        [(x + (a * c - b * s) * length * u, y + (a * s + b * c) * length * u) for a, b in shape], hull
    )
    if length > 2.5:
        dark = sheet.thing(np.asarray(colour) * 0.62, 0.3, DEVELOPED, 0.14 * length)
        deck = ((-0.3, -0.08), (0.1, -0.08), (0.1, 0.08), (-0.3, 0.08))
        sheet.polygon(
            [(x + (a * c - b * s) * length * u, y + (a * s + b * c) * length * u) for a, b in deck],
            dark,
        )


def tank(canvas: Canvas, x: float, y: float, radius: float, colour: Sequence[float]) -> None:
    """A storage tank with a floating or domed roof: centre in pixels, radius in units."""
    sheet = Sheet(canvas)
    r = radius * canvas.unit
    tone = np.asarray(colour)
    sheet.disc(x, y, r, sheet.thing(tone * 0.8, 0.6, BUILDING, radius * 0.8))
    sheet.disc(x, y, r * 0.9, sheet.thing(tone, 0.75, BUILDING, radius * 0.8))
    ids = sheet.lay()
    where = ids > 0
    half = (canvas.n - 1) / 2
    dx = (canvas.x[where] + half - x) / r
    dy = (canvas.y[where] + half - y) / r
    sun = canvas.look.sun
    canvas.light[where] = 1.0 + 0.16 * (dx * sun[0] + dy * sun[1])
