"""Surfaces that several scenes share: grass, water, parcels, farms, open country."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from world.paint.canvas import Canvas, Rgb, Sheet
from world.paint.noise import fractal, smoothstep
from world.paint.objects import Town, scatter, trees, woods
from world.paint.scenes import BARE, CROP, GRASS, WATER

Rect = tuple[float, float, float, float]


SOIL = ((0.50, 0.43, 0.34), (0.57, 0.48, 0.36), (0.52, 0.38, 0.28), (0.60, 0.55, 0.46))
SEA = ((0.12, 0.22, 0.31), (0.13, 0.28, 0.31), (0.25, 0.32, 0.34), (0.09, 0.14, 0.20))
INLAND = ((0.22, 0.29, 0.23), (0.40, 0.35, 0.26), (0.12, 0.17, 0.18), (0.22, 0.36, 0.36))


def drawn(
    rng: np.random.Generator, palette: Sequence[Rgb], low: float, high: float
) -> np.ndarray:
    """One of four colours, brighter or darker by a factor in [low, high)."""
    return np.asarray(palette)[int(rng.integers(4))] * rng.uniform(low, high)


def soil(rng: np.random.Generator) -> np.ndarray:
    """Bare earth, 3 values: from grey-brown to reddish."""
    return drawn(rng, SOIL, 0.85, 1.15)


def sea_colour(rng: np.random.Generator) -> np.ndarray:
    """Deep water, 3 values: blue, green-blue, grey or nearly black."""
    return drawn(rng, SEA, 0.8, 1.3)


def inland_colour(rng: np.random.Generator) -> np.ndarray:
    """Rivers, ponds and docks, 3 values: green, brown, dark, turquoise."""
    return drawn(rng, INLAND, 0.8, 1.2)


def grass(canvas: Canvas, where: NDArray[np.bool_] | None) -> None:
    """Rough grassland with worn and wet places."""
    look, rng = canvas.look, canvas.rng
    canvas.paint(where, look.grass, look.grass_nir, GRASS)
    patches = 0.09 * canvas.noise(rng.uniform(10, 30), 2.8) + 0.04 * canvas.noise(2.0, 1.6)
    canvas.mottle(np.clip(patches, -0.4, 0.4), where)


def water(canvas: Canvas, where: NDArray[np.bool_] | None, colour: Rgb, ripple: float) -> None:
    """Water with small waves of relative contrast `ripple`; black in the near infrared."""
    canvas.paint(where, colour, 0.035, WATER)
    canvas.flatten(slice(None) if where is None else where)
    if ripple > 0:
        canvas.mottle(np.float32(ripple) * canvas.noise(5.0, 2.2), where)


def split(
    rng: np.random.Generator, extent: float, small: float, ratio: float, gap: float = 0.0
) -> list[Rect]:
    """Split the square [-extent, extent] into rectangles about `small` units wide.

    Args:
        ratio: length over width above which a rectangle is cut across.
        gap: units left free between neighbours (streets).
    """
    done: list[Rect] = []
    stack: list[Rect] = [(-extent, -extent, extent, extent)]
    while stack:
        x0, y0, x1, y1 = stack.pop()
        w, h = x1 - x0, y1 - y0
        lengthwise = w > h
        long, short = (w, h) if lengthwise else (h, w)
        cut, stop = rng.uniform(0.35, 0.65), rng.uniform(0.8, 1.5)
        if short < small * stop and long < small * ratio * stop:
            done.append((x0, y0, x1, y1))
            continue
        across = long > short * ratio * 0.9 or rng.random() < 0.35
        if lengthwise == across:
            at = x0 + cut * w
            stack += [(x0, y0, at - gap / 2, y1), (at + gap / 2, y0, x1, y1)]
        else:
            at = y0 + cut * h
            stack += [(x0, y0, x1, at - gap / 2), (x0, at + gap / 2, x1, y1)]
    return done


def visible(canvas: Canvas, rect: Rect, angle: float) -> bool:
    """Whether a rectangle of the frame `angle` may touch the tile."""
    x0, y0, x1, y1 = rect
    cx, cy = (x0 + x1) / 2, (y0 + y1) / 2
    c, s = np.cos(angle), np.sin(angle)
    reach = canvas.span / 2 + np.hypot(x1 - x0, y1 - y0) / 2
    return bool(abs(cx * c - cy * s) < reach and abs(cx * s + cy * c) < reach)


def corners(canvas: Canvas, rect: Rect, angle: float) -> list[tuple[float, float]]:
    """A rectangle's corners in pixels."""
    x0, y0, x1, y1 = rect
    return canvas.points(np.array([x0, x1, x1, x0]), np.array([y0, y0, y1, y1]), angle)


def parcels(canvas: Canvas, small: float, ratio: float) -> None:
    """A mosaic of parcels about `small` units wide: crops, fallow, grass; hedges and tracks."""
    rng, look = canvas.rng, canvas.look
    angle = rng.uniform(0, np.pi)
    rects = [r for r in split(rng, canvas.span, small, ratio) if visible(canvas, r, angle)]
    green, ripe, earth = np.asarray(look.grass), np.asarray((0.62, 0.55, 0.37)), soil(rng)
    contrast = rng.uniform(0.35, 1.0)  # some countries farm one crop
    common = rng.dirichlet((1.2, 0.9, 0.9)) @ np.stack([green * 0.85, ripe, earth])
    sheet, plough = Sheet(canvas), [(0.0, 0.0, 0.0, 0.0)]
    for rect in rects:
        kind, bright, turned = rng.random(), rng.normal(1.0, 0.12), rng.random() < 0.3
        frequency, phase, depth = rng.uniform(1.6, 4.5), rng.uniform(0, 6.28), rng.uniform(0, 0.09)
        if kind < 0.35:
            colour, nir, cover = green * 0.85, look.grass_nir * 1.05, CROP
        elif kind < 0.6:
            colour, nir, cover = ripe, 0.56, CROP
        elif kind < 0.85:
            colour, nir, cover = earth, float(earth[0]) * 1.15, BARE if kind > 0.8 else CROP
        else:
            colour, nir, cover = green * 1.08, look.grass_nir, GRASS
        mixed = (common + contrast * (colour - common)) * bright
        parcel = sheet.thing(np.clip(mixed, 0.05, 0.9), nir, cover)
        sheet.polygon(corners(canvas, rect, angle), parcel)
        wide = rect[2] - rect[0] > rect[3] - rect[1]
        plough.append((frequency, phase, depth, float(wide != turned)))
    grass(canvas, None)
    ids = sheet.lay()
    s, t = canvas.rotated(angle)
    table = np.asarray(plough, dtype=np.float32)[np.where(ids < len(plough), ids, 0)]
    across = np.where(table[..., 3] > 0, t, s)
    lines = np.sin(across * table[..., 0] + table[..., 1]) * table[..., 2]
    streaks = fractal(rng, canvas.n, 8 * canvas.unit, 2.4, angle=angle, stretch=3.0)
    canvas.mottle(lines + 0.035 * streaks + 0.03 * canvas.noise(25, 3.0))
    _boundaries(canvas, rects, angle)


def _boundaries(canvas: Canvas, rects: list[Rect], angle: float) -> None:
    rng = canvas.rng
    hedged, tracks = rng.random() * 0.5, Sheet(canvas)
    pale = tracks.thing(soil(rng) * 1.15, 0.5, BARE)
    verge = tracks.thing(np.asarray(canvas.look.grass) * 0.9, canvas.look.grass_nir, GRASS)
    rows: list[np.ndarray] = []
    for x0, y0, x1, y1 in rects:
        for a, b in (((x0, y0), (x1, y0)), ((x0, y0), (x0, y1))):
            kind, count = rng.random(), max(2, int(np.hypot(b[0] - a[0], b[1] - a[1]) / 1.3))
            f = np.linspace(0, 1, count) + rng.normal(0, 0.02, count)
            gaps = rng.random(count) < 0.75
            ends = canvas.points(np.array([a[0], b[0]]), np.array([a[1], b[1]]), angle)
            if kind < hedged:
                along = a[0] + f * (b[0] - a[0]), a[1] + f * (b[1] - a[1])
                rows.append(np.asarray(canvas.points(*along, angle))[gaps])
            elif kind < hedged + 0.2:
                tracks.line(ends, 0.8, pale)
            else:
                tracks.line(ends, 0.3, verge)
    tracks.lay()
    if rows:
        stacked = np.concatenate(rows)
        inside = ((stacked > -8) & (stacked < canvas.n + 8)).all(axis=1)
        trees(canvas, stacked[inside], 0.9)


def farm(canvas: Canvas) -> None:
    """A farmstead: a yard, two to five long roofs, a few trees."""
    rng = canvas.rng
    angle = rng.uniform(0, np.pi)
    cs, ct = rng.uniform(-0.3, 0.3, 2) * canvas.span
    s, t = canvas.rotated(angle)
    yard = smoothstep(1.1, 0.9, np.hypot((s - cs) / 7, (t - ct) / 5) + 0.1 * canvas.noise(4, 2.5))
    canvas.blend(yard, soil(rng), 0.5, BARE)
    town = Town(canvas)
    for _ in range(int(rng.integers(2, 6))):
        length, width = rng.uniform(3, 7), rng.uniform(1.8, 3)
        roof = ("tile", "slate", "metal")[int(rng.integers(3))]
        town.building(
            cs + rng.uniform(-5, 5), ct + rng.uniform(-3.5, 3.5), length, width, 1.5, roof,
            turn=np.pi / 2 * rng.integers(2), angle=angle, gable=True,
        )  # fmt: skip
    town.lay()
    spots = scatter(canvas, 2.2)
    (centre,) = canvas.points(np.array([cs]), np.array([ct]), angle)
    ring = np.hypot(spots[:, 0] - centre[0], spots[:, 1] - centre[1]) / canvas.unit
    trees(canvas, spots[(ring > 5) & (ring < 9) & (rng.random(len(spots)) < 0.4)], 1.2)


def open_country(canvas: Canvas) -> None:
    """What lies beside roads and rivers: parcels, grass, scrub, woods, or bare ground."""
    rng = canvas.rng
    kind = rng.random()
    if kind < 0.4:
        parcels(canvas, rng.uniform(12, 26), rng.uniform(1.2, 2.8))
    elif kind < 0.52:
        earth = soil(rng)
        canvas.paint(None, earth, float(earth[0]) * 1.1, BARE)
        canvas.mottle(0.08 * canvas.noise(20, 2.6))
        woods(canvas, smoothstep(0.4, 1.6, canvas.noise(15, 2.6)) * 0.4, 0.8)
    else:
        grass(canvas, None)
        level = rng.uniform(-1.2, 1.6)
        woods(canvas, smoothstep(level, level + 0.5, canvas.noise(rng.uniform(10, 25), 3.0)), 1.3)
