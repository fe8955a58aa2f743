"""Scenes without houses: sea, cloud, desert, forest, fields, mountain."""

from __future__ import annotations

import numpy as np

from world.paint import ground
from world.paint.canvas import Canvas, Sheet
from world.paint.noise import Array, fractal, ridged, smoothstep, waves
from world.paint.objects import at, boat, road, scatter, trees, woods
from world.paint.scenes import BARE, GRASS, UNKNOWN

RICH = {"sea": 0.05, "cloud": 0.05, "desert": 0.05}
"""Fraction of a plain scene's tiles that are rich in contrast, as some are in every crawl."""


def _faint(canvas: Canvas, median: float, ceiling: float) -> float:
    """Contrast of a plain scene (deviation, of full scale 1): log-normal, long-tailed."""
    spread, harsh = canvas.rng.normal(0.0, 0.45), canvas.rng.random()
    faint = min(ceiling, median * np.exp(spread))
    return float(faint * 4.0 if harsh < 0.03 else faint)  # sun glint, hard shadows of dunes


def sea(canvas: Canvas) -> None:
    """Open water. Its contrast is that of waves and currents: a few grey levels, mostly."""
    rng = canvas.rng
    ground.water(canvas, None, ground.sea_colour(rng), ripple=0.0)
    angle, u = rng.uniform(0, 2 * np.pi), canvas.unit
    swell = waves(rng, canvas.n, rng.uniform(2.2, 9.0) * u, angle, rng.uniform(0.2, 0.6))
    chop = fractal(rng, canvas.n, 2.0 * u, 2.0, angle=angle + np.pi / 2, stretch=2.5)
    rich = rng.random()
    if rich < RICH["sea"]:
        kind = rich / RICH["sea"]
        paint = _glint if kind < 0.4 else _storm if kind < 0.65 else _plume
        paint(canvas, swell, chop, angle)
    else:
        current = canvas.noise(rng.uniform(20, 60), 3.4)
        weights = rng.dirichlet((2.0, 2.0, 1.5))
        field = weights[0] * swell + weights[1] * chop + weights[2] * current
        amplitude = _faint(canvas, 0.014, 0.035)
        tone = canvas.rgb.mean()
        canvas.mottle((amplitude / tone / field.std()) * field)
        if rng.random() < 0.25:
            _white_horses(canvas, swell, chop, 2.3, 0.5)
    for _ in range(int(rng.integers(4)) if rich < RICH["sea"] else int(rng.random() < 0.10)):
        _ship_with_wake(canvas)


def _white_horses(canvas: Canvas, swell: Array, chop: Array, level: float, alpha: float) -> None:
    foam = smoothstep(level, level + 1.1, chop + 0.5 * swell)
    canvas.blend(foam * np.float32(alpha), (0.75, 0.78, 0.78), 0.5)


def _glint(canvas: Canvas, swell: Array, chop: Array, angle: float) -> None:
    """The sun mirrored in the waves: bright on one side, each facet for itself."""
    rng = canvas.rng
    s, _ = canvas.rotated(rng.uniform(0, 2 * np.pi))
    bent = s / np.float32(canvas.span) + 0.12 * canvas.noise(40, 3.4)
    centre, width = rng.uniform(-0.4, 0.4), rng.uniform(0.25, 0.6)
    track = np.exp(-(((bent - np.float32(centre)) / np.float32(width)) ** 2))
    mix = rng.uniform(0.2, 0.8)
    facets = np.clip(0.5 + 0.33 * (mix * swell + (1 - mix) * chop), 0.05, 1)
    strength = np.float32(rng.uniform(0.6, 1.0))
    canvas.blend((strength * track * facets).astype(np.float32), (0.84, 0.85, 0.83), 0.6)


def _storm(canvas: Canvas, swell: Array, chop: Array, angle: float) -> None:
    """Heavy seas: steep swell, breaking crests, foam drawn out by the wind."""
    rng = canvas.rng
    steep = rng.uniform(0.22, 0.38)
    canvas.mottle(np.clip(steep * (0.9 * swell + 0.5 * chop), -0.75, 1.4).astype(np.float32))
    streaks = canvas.noise(rng.uniform(3, 7), 2.4, angle=angle, stretch=rng.uniform(3, 6))
    foam = smoothstep(0.2, 2.2, streaks + 0.5 * swell)
    canvas.blend(foam * np.float32(rng.uniform(0.25, 0.5)), (0.62, 0.68, 0.68), 0.3)
    _white_horses(canvas, swell, chop, rng.uniform(1.0, 1.7), 0.8)


def _plume(canvas: Canvas, swell: Array, chop: Array, angle: float) -> None:
    """Silt, plankton or pale shoals in whorls."""
    rng = canvas.rng
    tints = ((0.52, 0.48, 0.39), (0.34, 0.47, 0.37), (0.42, 0.62, 0.60), (0.62, 0.65, 0.62))
    size, slope, stretch = rng.uniform(15, 60), rng.uniform(2.8, 3.6), rng.uniform(1, 3)
    whorls = canvas.noise(size, slope, angle=angle, stretch=stretch)
    level = rng.uniform(-0.8, 0.6)
    alpha = smoothstep(level - 1.5, level + 1.5, whorls) * np.float32(rng.uniform(0.75, 1.0))
    canvas.blend(alpha, ground.drawn(rng, tints, 0.9, 1.2), 0.1)
    canvas.mottle(np.float32(rng.uniform(0.03, 0.08)) * (swell + chop))


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
    foam = (0.6 * trail + 0.25 * arms) * fade * broken
    canvas.blend(foam.astype(np.float32), (0.8, 0.83, 0.83), 0.5)
    sheet = Sheet(canvas)
    (point,) = canvas.points(np.array([s0]), np.array([t0]), heading)
    tone = rng.uniform(0.45, 0.9)
    boat(canvas, sheet, *point, heading, length, (tone, tone * rng.uniform(0.8, 1.0), tone * 0.9))
    sheet.lay()


def cloud(canvas: Canvas) -> None:
    """Overcast from above; seldom broken, so that ground or sea shows between the clouds."""
    rng = canvas.rng
    if rng.random() < RICH["cloud"]:
        _broken_cloud(canvas)
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


def _broken_cloud(canvas: Canvas) -> None:
    """Cumulus or torn sheets over country or sea, with their shadows beside them."""
    rng = canvas.rng
    over_sea = rng.random() < 0.45
    if over_sea:
        ground.water(canvas, None, ground.sea_colour(rng), ripple=0.06)
    else:
        ground.open_country(canvas)
    billow = canvas.noise(rng.uniform(9, 40), rng.uniform(3.2, 4.0), stretch=rng.uniform(1, 2))
    level, edge = rng.uniform(-0.9, 0.5), rng.uniform(0.25, 0.9)
    thick = smoothstep(level - edge, level + edge, billow)
    sx, sy = canvas.look.sun
    away = rng.uniform(2, 9) * canvas.unit
    # The field is periodic, so its shadow can be the field itself, moved.
    shadow = np.roll(thick, (-round(away * sy), -round(away * sx)), axis=(0, 1))
    canvas.mottle(shadow * np.float32(rng.uniform(-0.6, -0.35)))
    canvas.height[:] = 0
    lit = smoothstep(-1.0, 1.8, billow + 0.5 * canvas.noise(6, 2.8))
    tops = (0.66 + 0.27 * lit)[None] * np.asarray((0.99, 1.0, 1.02), np.float32)[:, None, None]
    veil = np.float32(0.0 if over_sea else rng.uniform(0.0, 0.25))
    canvas.blend(np.maximum(thick, veil), tops, 0.85, UNKNOWN)


def desert(canvas: Canvas) -> None:
    """Sand sheets, ripples, dunes and gravel, mostly low and faint; seldom rock, scrub, pans."""
    rng, u = canvas.rng, canvas.unit
    palette = ((0.80, 0.69, 0.51), (0.74, 0.60, 0.43), (0.70, 0.52, 0.37), (0.66, 0.60, 0.50))
    base = ground.drawn(rng, palette, 0.85, 1.12)
    canvas.paint(None, base, float(base[0]) * 1.08, BARE)
    angle, kind = rng.uniform(0, np.pi), rng.random()
    rich = rng.random()
    rich = rich / RICH["desert"] if rich < RICH["desert"] else 2.0
    if rich < 0.3:
        kind = 0.0  # high dunes
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
    if rich <= 1:
        amplitude = rng.uniform(0.075, 0.13) if rich < 0.3 else rng.uniform(0.03, 0.05)
    canvas.mottle(np.clip(field, -3, 3) * np.float32(amplitude / base.mean()))
    if 0.3 <= rich <= 1:
        paint = _outcrops if rich < 0.55 else _pans if rich < 0.75 else _scrub
        paint(canvas, base)
    if rng.random() < 0.12:
        line = rng.uniform(-0.3, 0.3, 2) * canvas.span
        ends = canvas.points(np.array([-1.0, 1.0]) * canvas.span, line, angle + 0.4)
        road(canvas, ends, 0.7, colour=base * (1.06 if rng.random() < 0.6 else 0.9))
    if rng.random() < 0.12:
        points = scatter(canvas, 5.0)
        few = points[rng.random(len(points)) < 0.25]
        trees(canvas, few, 0.6, tint=base * 0.62)


def _outcrops(canvas: Canvas, base: np.ndarray) -> None:
    """Bare rock that stands out of the sand, lit by the sun."""
    rng = canvas.rng
    heights = ridged(rng, canvas.n, rng.uniform(20, 60) * canvas.unit)
    rank = (heights - heights.mean()) / heights.std() + 0.8 * canvas.noise(25, 3.4)
    level = rng.uniform(-0.4, 0.8)
    rock = smoothstep(level - 0.4, level + 0.4, rank + 0.3 * canvas.noise(6, 2.6))
    colour = base * (0.45 + 0.25 * rng.random()) * np.asarray((0.98, 1.0, 1.05))
    canvas.blend(rock, colour, float(colour[0]), BARE)
    strength = rng.uniform(0.15, 0.3) / float(np.abs(np.diff(heights)).mean())
    canvas.relief(heights, strength)
    canvas.light = 1 + (canvas.light - 1) * (0.15 + 0.85 * rock)  # sand lies smoother


def _pans(canvas: Canvas, base: np.ndarray) -> None:
    """Salt pans or lava: pale or dark sheets with lobed edges and washes across them."""
    rng = canvas.rng
    pale = rng.random() < 0.5
    colour = np.asarray((0.90, 0.88, 0.83)) if pale else base * 0.38
    level = rng.uniform(-0.6, 0.6)
    lobes = canvas.noise(rng.uniform(18, 50), 3.2)
    edge = rng.uniform(0.15, 0.9)
    canvas.blend(smoothstep(level - edge, level + edge, lobes), colour, float(colour[0]), BARE)
    wash = np.exp(-((canvas.noise(25, 3.4) / np.float32(rng.uniform(0.08, 0.2))) ** 2))
    canvas.mottle((wash * np.float32(-0.25 if pale else 0.5)).astype(np.float32))
    canvas.mottle(np.float32(rng.uniform(0.05, 0.12)) * canvas.noise(rng.uniform(3, 8), 2.2))


def _scrub(canvas: Canvas, base: np.ndarray) -> None:
    """A wadi: shrubs along dry channels, thinner away from them."""
    rng = canvas.rng
    channel = np.abs(canvas.noise(rng.uniform(20, 45), 3.6))
    canvas.blend(smoothstep(0.25, 0.05, channel) * 0.7, np.minimum(base * 1.25, 0.95), 0.75)
    damp = smoothstep(rng.uniform(0.6, 1.6), 0.1, channel)
    canvas.mottle(-0.3 * damp * np.clip(0.5 + 0.5 * canvas.noise(3, 2.0), 0, 1))
    density = np.clip(damp * rng.uniform(0.3, 0.7) + rng.uniform(0.0, 0.1), 0, 1)
    radius = rng.uniform(0.5, 1.0)
    points = scatter(canvas, radius * 1.35)
    wanted = rng.random(len(points)) < at(density, points)
    tint = 0.55 * np.asarray(canvas.look.tree) + 0.28 * base  # grey-green, dusty
    trees(canvas, points[wanted], radius, tint=tint, height=0.5)


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
