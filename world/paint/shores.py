"""Scenes where land meets water: river, coast, harbour."""

from __future__ import annotations

import numpy as np

from world.paint import ground
from world.paint.canvas import Canvas, Sheet
from world.paint.noise import Array, smoothstep
from world.paint.objects import PAINT, Town, at, boat, rectangle, road, scaled, scatter, woods
from world.paint.scenes import BARE, BUILDING, DEVELOPED, WATER

HULLS = ((0.45, 0.2, 0.18), (0.22, 0.24, 0.3), (0.6, 0.6, 0.6))
CONTAINERS = (
    (0.62, 0.28, 0.2), (0.25, 0.36, 0.55), (0.3, 0.47, 0.38), (0.75, 0.73, 0.7), (0.68, 0.5, 0.24),
)  # fmt: skip


def river(canvas: Canvas) -> None:
    """A meander with dark or muddy water, pale point bars on the inner bends, wooded banks."""
    rng = canvas.rng
    ground.open_country(canvas)
    angle = rng.uniform(0, 2 * np.pi)
    s, t = canvas.rotated(angle)
    width = float(np.exp(rng.normal(1.75, 0.45)))  # units
    swing = rng.uniform(0.0, 0.26) * canvas.span
    rate = 2 * np.pi / rng.uniform(0.7, 1.6) / canvas.span
    phase, offset = rng.uniform(0, 2 * np.pi), rng.uniform(-0.2, 0.2) * canvas.span
    bend = s * np.float32(rate) + np.float32(phase)
    bent = bend + np.float32(0.5) * np.sin(bend) * np.float32(rng.uniform(-1, 1))
    middle = offset + swing * np.sin(bent) + 0.8 * canvas.noise(12, 3.5)
    steep = swing * rate * np.cos(bent)
    side = ((t - middle) / np.sqrt(1 + steep * steep)).astype(np.float32)  # signed, units
    bank = np.abs(side) - np.float32(width / 2) * (1 + 0.12 * canvas.noise(10, 3.0))
    inner = smoothstep(0.2, 0.9, np.sin(bent) * -np.sign(side) * min(1.0, swing / 6))
    canvas.flatten(bank < 1.2)
    shore = rng.uniform(0.4, 1.4)
    bars = smoothstep(shore + 2.6 * rng.random(), shore * 0.6, bank - 2.2 * inner * rng.random())
    canvas.blend(bars * (bank < 6), ground.soil(rng) * 1.12, 0.5, BARE)
    wet = bank < 0
    colour = ground.inland_colour(rng)
    ground.water(canvas, wet, colour, ripple=0.02)
    shallow = smoothstep(-0.4 * width, 0.0, bank) * 0.35 * wet
    canvas.blend(shallow.astype(np.float32), colour * 1.35, 0.06)
    if rng.random() < 0.7:
        strip = smoothstep(0.6, 1.4, bank) * smoothstep(rng.uniform(2.5, 7), 2.0, bank)
        woods(canvas, strip * (1 - inner) * rng.uniform(0.35, 1.0), rng.uniform(0.9, 1.4))
    if rng.random() < 0.25:
        cross = rng.uniform(-0.25, 0.25) * canvas.span
        ends = canvas.points(np.array([cross, cross]), np.array([-1.0, 1.0]) * canvas.span, angle)
        road(canvas, ends, rng.uniform(1.2, 2.6), traffic=8, marks=True, height=1.2)


def coast(canvas: Canvas) -> None:
    """From deep water over shallows, surf and beach to dunes, woods, rock or houses."""
    rng = canvas.rng
    kind = rng.random()
    ground.open_country(canvas) if kind < 0.6 else ground.grass(canvas, None)
    angle = rng.uniform(0, 2 * np.pi)
    s, t = canvas.rotated(angle)
    curve = rng.normal(0, 0.004) * s * s
    curve = curve + rng.uniform(0.5, 5) * canvas.noise(rng.uniform(20, 50), 4.0)
    d = (t - rng.uniform(-0.25, 0.25) * canvas.span + curve).astype(np.float32)  # > 0: inland
    rocky = rng.random() < 0.25
    d += np.float32(0.9 if rocky else 0.25) * canvas.noise(5, 2.6)
    sand = np.asarray((0.78, 0.70, 0.55)) * rng.uniform(0.8, 1.15)
    if rocky:
        sand = np.asarray((0.42, 0.39, 0.35)) * rng.uniform(0.7, 1.2)
    beach = rng.uniform(1.5, 12)
    plain = d < beach + 1.5
    canvas.flatten(plain)
    strand = smoothstep(beach + 1.0, beach - 0.5, d + 0.8 * canvas.noise(4, 2.2))
    canvas.blend(strand, sand, 0.7, BARE)
    canvas.mottle(np.float32(0.14 if rocky else 0.035) * canvas.noise(3, 2.0), plain)
    canvas.blend(smoothstep(1.6, 0.2, d) * 0.5, sand * 0.62, 0.4)  # wet sand
    _surf(canvas, d, sand)
    if kind > 0.8:
        _resort(canvas, d, beach, angle)


def _resort(canvas: Canvas, d: Array, beach: float, angle: float) -> None:
    """Rows of houses that follow the shore, a few units behind the beach."""
    rng, half = canvas.rng, (canvas.n - 1) / 2
    town = Town(canvas)
    behind = scatter(canvas, rng.uniform(5.5, 9.0), 0.3)
    behind = behind[rng.random(len(behind)) < rng.uniform(0.4, 0.95)]
    inland = at(d, behind)
    for (x, y), depth in zip(behind, inland, strict=True):
        length, width, tiled = rng.uniform(3, 5), rng.uniform(2, 3), rng.random() < 0.7
        if depth > beach + 4:
            dx, dy = (x - half) / canvas.unit, (y - half) / canvas.unit
            c, s = np.cos(angle), np.sin(angle)
            town.building(
                dx * c + dy * s, dy * c - dx * s, length, width, 1.5, "tile" if tiled else "flat",
                angle=angle, gable=tiled,
            )  # fmt: skip
    town.lay()


def _surf(canvas: Canvas, d: Array, sand: np.ndarray) -> None:
    rng = canvas.rng
    wet = d < 0
    deep = ground.sea_colour(rng)
    turquoise = np.asarray((0.25, 0.48, 0.50)) * rng.uniform(0.8, 1.2)
    canvas.paint(wet, deep, 0.035, WATER)
    canvas.flatten(wet)
    shelf = rng.uniform(4, 22)
    shallow = np.exp(np.clip(d, -80, 0) / np.float32(shelf)) * wet
    canvas.blend(shallow.astype(np.float32) * 0.85, turquoise, 0.05)
    canvas.blend((shallow**6 * 0.5).astype(np.float32), sand * 0.9, 0.12)
    canvas.mottle(np.float32(0.03) * canvas.noise(4, 2.2), wet)
    rows, gap, strength = int(rng.integers(1, 5)), rng.uniform(2.5, 6), rng.uniform(0.35, 1.0)
    for row in range(rows):
        place = -0.3 - row * gap * rng.uniform(0.7, 1.2) + 0.9 * canvas.noise(15, 3.4)
        broken = smoothstep(-0.2 + 0.5 * row, 0.9 + 0.5 * row, canvas.noise(9, 2.6) + 0.9)
        crest = np.exp(-(((d - place) / np.float32(rng.uniform(0.5, 1.1))) ** 2)) * wet
        froth = np.clip(0.75 + 0.35 * canvas.noise(1.5, 1.6), 0, 1)
        foam = crest * broken * froth * strength
        canvas.blend(foam.astype(np.float32), (0.9, 0.92, 0.92), 0.75)


def harbour(canvas: Canvas) -> None:
    """A basin with a quay: a marina with finger piers, or ships alongside container stacks."""
    rng = canvas.rng
    angle = rng.uniform(0, 2 * np.pi)
    _, t = canvas.rotated(angle)
    quay = rng.uniform(-0.18, 0.12) * canvas.span
    tone = rng.uniform(0.42, 0.66)
    canvas.paint(None, (tone, tone * 0.98, tone * 0.94), tone, DEVELOPED)
    canvas.mottle(0.06 * canvas.noise(12, 2.4))
    if rng.random() < 0.4:
        ground.grass(canvas, t < quay - rng.uniform(10, 25))
    ground.water(canvas, t > quay, ground.inland_colour(rng) * (0.75, 0.9, 1.05), ripple=0.035)
    edge = Sheet(canvas)
    edge.line(canvas.line(quay, angle), 0.5, edge.thing((0.7, 0.69, 0.66), 0.6, DEVELOPED, 0.5))
    edge.lay()
    marina = rng.random() < 0.55
    town = Town(canvas)
    _landside(canvas, town, quay, angle, marina)
    _marina(canvas, quay, angle) if marina else _terminal(canvas, quay, angle)
    town.lay()


def _landside(canvas: Canvas, town: Town, quay: float, angle: float, marina: bool) -> None:
    rng = canvas.rng
    back = quay - (7 if marina else 17)
    road(canvas, canvas.line(back, angle), 2.0, marks=True, traffic=5)
    for rect in ground.split(rng, canvas.span, 9 if marina else 13, 1.8, gap=2.0):
        x0, y0, x1, y1 = rect
        height = rng.uniform(1.2, 3.5)
        roof = ("flat", "metal", "tile", "slate")[int(rng.integers(4))]
        grow = rng.uniform(0.6, 0.9)
        if y1 < back - 1.5 and ground.visible(canvas, rect, angle):
            mid, sides = ((x0 + x1) / 2, (y0 + y1) / 2), ((x1 - x0) * grow, (y1 - y0) * grow)
            town.building(*mid, *sides, height, roof, angle=angle, gable=marina)


def _marina(canvas: Canvas, quay: float, angle: float) -> None:
    rng = canvas.rng
    pier, fleet = Sheet(canvas), Sheet(canvas)
    planks = pier.thing((0.68, 0.65, 0.6), 0.55, DEVELOPED, 0.4)
    gap, size, reach = rng.uniform(8, 14), rng.uniform(2.2, 4.2), rng.uniform(14, 40)
    empty = rng.uniform(0.1, 0.5)
    for s0 in np.arange(-canvas.span, canvas.span, gap) + rng.uniform(0, gap):
        far = quay + reach * rng.uniform(0.85, 1.0)
        pier.line(canvas.points(np.array([s0, s0]), np.array([quay, far]), angle), 0.7, planks)
        for t0 in np.arange(quay + 2.0, far, 0.55 * size):
            for side in (-1, 1):
                free, wobble, paint = rng.random() < empty, rng.normal(0, 0.05), rng.random()
                if free:
                    continue
                colour = scaled((0.86, 0.86, 0.85), 0.75 + 0.45 * paint)
                if paint >= 0.75:
                    colour = PAINT[int((paint - 0.75) * 24)]
                x, y = canvas.pixel(s0 + side * (0.5 + size / 2), t0, angle)
                heading = angle + wobble + (0 if side > 0 else np.pi)
                boat(canvas, fleet, x, y, heading, size * 0.92, colour)
    fleet.lay()
    pier.lay()


def _terminal(canvas: Canvas, quay: float, angle: float) -> None:
    rng = canvas.rng
    fleet = Sheet(canvas)
    place = -0.6 * canvas.span + rng.uniform(0, 12)
    while place < 0.6 * canvas.span:
        length = rng.uniform(14, 34)
        red = rng.random()
        hull = HULLS[0 if red < 0.35 else 1 if red < 0.7 else 2]
        row = quay + 1 + 0.15 * length
        boat(canvas, fleet, *canvas.pixel(place + length / 2, row, angle), angle, length, hull)
        hold = place + length * 0.2, place + length * 0.72
        _cargo(canvas, fleet, hold, row, 0.1 * length, angle, 2.5)
        place += length + rng.uniform(3, 20)
    for row in np.arange(quay - 14.5, quay - 4, 3.6):
        _cargo(canvas, fleet, (-canvas.span, canvas.span), row, 1.5, angle, 1.2)
    crane = fleet.thing((0.62, 0.36, 0.2), 0.5, BUILDING, 4.0)
    for s0 in np.arange(-0.6, 0.6, 0.22) * canvas.span + rng.uniform(-4, 4):
        fleet.polygon(rectangle(canvas, float(s0), quay + 1.5, 0.8, 9.0, 0.0, angle), crane)
    fleet.lay()


def _cargo(
    canvas: Canvas, sheet: Sheet, ends: tuple[float, float], row: float, half: float, angle: float,
    height: float,
) -> None:  # fmt: skip
    """Rows of containers between two `ends`, within `half` units of the line `row`."""
    rng = canvas.rng
    for s0 in np.arange(*ends, 2.7):
        for t0 in np.arange(row - half, row + half, 1.0):
            pick = int(rng.integers(len(CONTAINERS)))
            gone, tiers = rng.random() < 0.2, rng.uniform(0.4, 1)
            if gone:
                continue
            place = float(s0) + 1.25, float(t0) + 0.5
            if not canvas.near(*canvas.pixel(*place, angle), 3.0):
                continue
            paint = scaled(CONTAINERS[pick], 0.8 + 0.3 * tiers)
            box = sheet.thing(paint, 0.4, DEVELOPED, height * tiers)
            sheet.polygon(rectangle(canvas, *place, 2.4, 0.85, 0.0, angle), box)
