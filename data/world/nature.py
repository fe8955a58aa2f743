"""Scenes without houses: sea, cloud, desert, forest, fields, mountain."""

from __future__ import annotations

import numpy as np

from data.world import ground
from data.world.canvas import Canvas, Sheet
from data.world.noise import fractal, ridged, smoothstep, waves
from data.world.objects import boat, road, scatter, trees, woods
from data.world.scenes import BARE, GRASS, UNKNOWN


def _faint(canvas: Canvas, median: float, ceiling: float) -> float:
    """Contrast of a dull scene (deviation as a share of full scale): log-normal, long-tailed."""
    spread, harsh = canvas.rng.normal(0.0, 0.45), canvas.rng.random()
    faint = min(ceiling, median * np.exp(spread))
    return float(faint * 4.0 if harsh < 0.03 else faint)  # sun glint, hard shadows of dunes


def sea(canvas: Canvas) -> None:
    """Open water. Its contrast is that of waves and currents: a few grey levels."""
    rng = canvas.rng
    ground.water(canvas, None, ground.sea_colour(rng), ripple=0.0)
    angle, u = rng.uniform(0, 2 * np.pi), canvas.unit
    swell = waves(rng, canvas.n, rng.uniform(2.2, 9.0) * u, angle, rng.uniform(0.2, 0.6))
    chop = fractal(rng, canvas.n, 2.0 * u, 2.0, angle=angle + np.pi / 2, stretch=2.5)
    current = canvas.noise(rng.uniform(20, 60), 3.4)
    weights = rng.dirichlet((2.0, 2.0, 1.5))
    field = weights[0] * swell + weights[1] * chop + weights[2] * current
    amplitude = _faint(canvas, 0.014, 0.035)
    tone = canvas.rgb.mean()
    canvas.mottle((amplitude / tone / field.std()) * field)
    if rng.random() < 0.25:  # white horses
        foam = smoothstep(2.3, 3.4, chop + 0.5 * swell)
        canvas.blend(foam * 0.5, (0.75, 0.78, 0.78), 0.5)
    if rng.random() < 0.10:
        _ship_with_wake(canvas)


def _ship_with_wake(canvas: Canvas) -> None:
    rng = canvas.rng
    heading = rng.uniform(0, 2 * np.pi)
    s, t = canvas.rotated(heading)
    s0, t0 = rng.uniform(-0.25, 0.35) * canvas.span, rng.uniform(-0.3, 0.3) * canvas.span
    length = rng.uniform(2.0, 6.0)
    behind = s0 - s
    trail = np.exp(-(((t - t0) / (0.14 * length + 0.05 * np.abs(behind))) ** 2)) * (behind > 0)
    fade = np.exp(-np.clip(behind, 0, None) / (5.0 * length))
    arms = np.exp(-(((np.abs(t - t0) - 0.33 * behind) / 0.6) ** 2)) * (behind > 0)
    broken = np.clip(0.7 + 0.3 * canvas.noise(2.0, 2.0), 0, 1)
    canvas.blend(
        ((0.6 * trail + 0.25 * arms) * fade * broken).astype(np.float32), (0.8, 0.83, 0.83), 0.5
    )
    sheet = Sheet(canvas)
    (point,) = canvas.points(np.array([s0]), np.array([t0]), heading)
    tone = rng.uniform(0.45, 0.9)
    boat(canvas, sheet, *point, heading, length, (tone, tone * rng.uniform(0.8, 1.0), tone * 0.9))
    sheet.lay()


def cloud(canvas: Canvas) -> None:
    """Overcast from above; seldom thin enough to guess the ground."""
    rng = canvas.rng
    if rng.random() < 0.05:  # broken cloud over ground: the exception that keeps its contrast
        ground.open_country(canvas)
        thick = smoothstep(-0.6, 0.9, canvas.noise(rng.uniform(15, 40), 3.2))
        canvas.height[:] = 0
        canvas.blend(np.clip(thick + 0.25, 0, 1), (0.88, 0.89, 0.91), 0.88, UNKNOWN)
        return
    tone = rng.uniform(0.58, 0.86)
    blue = rng.uniform(-0.015, 0.03)
    canvas.paint(None, (tone - blue, tone, tone + blue), tone, UNKNOWN)
    billow = canvas.noise(rng.uniform(10, 50), rng.uniform(3.0, 3.8), stretch=rng.uniform(1, 2.5))
    detail = canvas.noise(rng.uniform(4, 9), 3.0)
    field = billow + 0.3 * detail
    if rng.random() < 0.3:
        field = field - 0.5 * np.abs(canvas.noise(rng.uniform(8, 20), 3.4))
    canvas.mottle(_faint(canvas, 0.018, 0.042) / tone * field / field.std())


def desert(canvas: Canvas) -> None:
    """Sand sheets, ripples, dunes and gravel; low dunes only, so the contrast is faint."""
    rng, u = canvas.rng, canvas.unit
    palette = ((0.80, 0.69, 0.51), (0.74, 0.60, 0.43), (0.70, 0.52, 0.37), (0.66, 0.60, 0.50))
    base = np.asarray(palette[int(rng.integers(4))]) * rng.uniform(0.85, 1.12)
    canvas.paint(None, base, float(base[0]) * 1.08, BARE)
    angle, kind = rng.uniform(0, np.pi), rng.random()
    sheet = canvas.noise(rng.uniform(20, 60), 3.2)
    grit = canvas.noise(2.5, 1.6)
    if kind < 0.5:  # dunes: steep lee sides towards the sun or away from it
        phase = waves(rng, canvas.n, rng.uniform(6, 18) * u, angle, rng.uniform(0.25, 0.6))
        relief = np.abs(phase) ** 0.8
        gy, gx = np.gradient(relief)
        shape = gx * canvas.look.sun[0] + gy * canvas.look.sun[1]
        field = shape / shape.std() + 0.6 * sheet + 0.15 * grit
    elif kind < 0.75:  # ripples
        field = waves(rng, canvas.n, rng.uniform(2.4, 5) * u, angle, 0.3) + 0.8 * sheet + 0.2 * grit
    else:  # gravel plain with dry washes
        wash = np.exp(-((canvas.noise(30, 3.6) / 0.12) ** 2))
        field = sheet + 0.5 * grit + 1.2 * wash
    field = (field - field.mean()) / field.std()
    amplitude = _faint(canvas, 0.017, 0.042)
    canvas.mottle(np.clip(field, -3, 3) * (amplitude / base.mean()))
    if rng.random() < 0.12:
        line = rng.uniform(-0.3, 0.3, 2) * canvas.span
        ends = canvas.points(np.array([-1.0, 1.0]) * canvas.span, line, angle + 0.4)
        road(canvas, ends, 0.7, colour=base * (1.06 if rng.random() < 0.6 else 0.9))
    if rng.random() < 0.12:
        points = scatter(canvas, 5.0)
        few = points[rng.random(len(points)) < 0.25]
        trees(canvas, few, 0.6, tint=base * 0.62)


def forest(canvas: Canvas) -> None:
    """Canopy: crowns of one size, gaps and clearings, now and then a track or a cut."""
    rng = canvas.rng
    ground.grass(canvas, None)
    canvas.mottle(np.float32(-0.35))  # the forest floor is dark
    density = 0.97 * np.ones((canvas.n, canvas.n), dtype=np.float32)
    patch = canvas.noise(rng.uniform(14, 40), 3.2)
    if rng.random() < 0.55:
        level = rng.uniform(-1.8, 0.2)
        density *= smoothstep(level - 0.35, level + 0.1, patch)
        canvas.mottle(np.float32(0.35))
    path = None
    if rng.random() < 0.3:
        angle, t0 = rng.uniform(0, np.pi), rng.uniform(-0.3, 0.3) * canvas.span
        s = np.linspace(-0.8, 0.8, 24) * canvas.span
        wiggle = t0 + rng.uniform(0, 4) * np.sin(s * rng.uniform(0.05, 0.2) + rng.uniform(0, 6))
        path = canvas.points(s, wiggle, angle)
        road(canvas, path, rng.uniform(0.7, 1.6), colour=ground.soil(rng))
        density *= smoothstep(0.6, 1.6, _distance(canvas, path))
    if rng.random() < 0.5:
        canvas.relief(canvas.noise(rng.uniform(15, 40), 4.0), rng.uniform(0.5, 3.0))
    slope = canvas.light.copy()
    radius = float(np.clip(1.1 * np.exp(rng.normal(0.25, 0.35)), 0.9, 2.6))
    woods(canvas, density, radius, height=rng.uniform(0.8, 1.8))
    canvas.light *= np.where(canvas.height > 0, slope, 1.0)
    stands = 0.10 * canvas.noise(rng.uniform(12, 30), 3.0) + 0.05 * canvas.noise(3.0, 1.5)
    canvas.mottle(np.clip(stands, -0.4, 0.4))


def _distance(canvas: Canvas, path: list[tuple[float, float]]) -> np.ndarray:
    """Distance in units from every pixel to the nearest vertex of a polyline (pixels)."""
    half = np.float32((canvas.n - 1) / 2)
    best = np.full((canvas.n, canvas.n), np.float32(1e9))
    for x, y in path:
        np.minimum(best, (canvas.x + half - x) ** 2 + (canvas.y + half - y) ** 2, out=best)
    return np.sqrt(best) / np.float32(canvas.unit)


def fields(canvas: Canvas) -> None:
    """Parcels between hedges and tracks, perhaps a farm or a lone wood."""
    rng = canvas.rng
    ground.parcels(canvas, rng.uniform(10, 30), rng.uniform(1.0, 3.2))
    if rng.random() < 0.35:
        copse = smoothstep(1.2, 1.5, canvas.noise(rng.uniform(12, 25), 3.4))
        woods(canvas, copse, rng.uniform(0.9, 1.6))
    if rng.random() < 0.25:
        ground.farm(canvas)


def mountain(canvas: Canvas) -> None:
    """Relief lit by the sun; cover by height: woods and grass, scree, snow."""
    rng = canvas.rng
    heights = ridged(rng, canvas.n, rng.uniform(40, 110) * canvas.unit, octaves=5)
    tilt, _ = canvas.rotated(rng.uniform(0, 2 * np.pi))
    heights = heights + (0.25 * rng.random() / canvas.span) * tilt
    rock = np.asarray((0.50, 0.46, 0.41)) * rng.uniform(0.75, 1.15) * (1 + rng.normal(0, 0.04, 3))
    canvas.paint(None, rock, float(rock[0]) * 1.1, BARE)
    canvas.mottle(0.08 * canvas.noise(6, 2.2) + 0.08 * canvas.noise(30, 3.0))
    rank = (heights - heights.mean()) / heights.std() + 0.35 * canvas.noise(8, 2.6)
    green = smoothstep(0.5, -0.5, rank + rng.uniform(-1.6, 2.0)) if rng.random() < 0.75 else None
    if green is not None:
        canvas.blend(green, canvas.look.grass, canvas.look.grass_nir, GRASS)
    if rng.random() < 0.6:
        woods(canvas, smoothstep(-0.2, -0.9, rank + rng.uniform(-0.8, 0.6)) * 0.95, 1.0, height=1.0)
    if rng.random() < 0.3:
        snow = smoothstep(0.2, 0.7, rank + rng.uniform(-0.8, 0.6))
        canvas.blend(snow, (0.92, 0.93, 0.95), 0.85, UNKNOWN)
    canvas.height[:] = 0
    canvas.relief(heights, rng.uniform(0.18, 0.4) / np.abs(np.diff(heights)).mean() * 0.75)
    if rng.random() < 0.12:
        level = np.quantile(heights, rng.uniform(0.05, 0.15))
        ground.water(canvas, heights < level, (0.16, 0.30, 0.33), ripple=0.02)
