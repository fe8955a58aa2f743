"""Built scenes: suburb, city, roads, industry."""

from __future__ import annotations

import numpy as np

from world.paint import ground
from world.paint.canvas import Canvas, Sheet
from world.paint.noise import smoothstep
from world.paint.objects import (
    Town,
    at,
    cars,
    rectangle,
    road,
    scaled,
    scatter,
    tanks,
    tarmac,
    trees,
    woods,
)
from world.paint.scenes import BARE, DEVELOPED, GRASS, ROAD, WATER


def suburb(canvas: Canvas) -> None:
    """Houses with front lawns, drives, back gardens, trees and pools along bending streets."""
    rng = canvas.rng
    ground.grass(canvas, None)
    angle, span = rng.uniform(0, 2 * np.pi), canvas.span
    pitch, plot = rng.uniform(15, 21), rng.uniform(5.2, 8.5)
    bend, rate, phase = rng.uniform(0, 5), rng.uniform(0.04, 0.11), rng.uniform(0, 6.28)
    roof = str(rng.choice(["tile", "slate", "flat"], p=[0.5, 0.4, 0.1]))
    surface, town, details = tarmac(canvas), Town(canvas), Sheet(canvas)
    concrete = details.thing((0.66, 0.65, 0.62), 0.6, DEVELOPED)
    pool = details.thing((0.28, 0.60, 0.68), 0.06, WATER)
    lines = np.linspace(-0.8, 0.8, 28) * span
    streets = np.arange(-0.8 * span, 0.8 * span, pitch) + rng.uniform(0, pitch)
    if rng.random() < 0.6:
        cross = rng.uniform(-0.4, 0.4) * span
        ends = canvas.points(np.array([cross, cross]), np.array([-0.8, 0.8]) * span, angle)
        road(canvas, ends, 1.9, colour=surface, traffic=14, kerb=(0.6, 0.6, 0.57))
    else:
        cross = 1e9
    for street in streets:
        path = canvas.points(lines, street + bend * np.sin(lines * rate + phase), angle)
        road(canvas, path, 1.8, colour=surface, traffic=12, kerb=(0.6, 0.6, 0.57))
        for s in np.arange(-0.75 * span, 0.75 * span, plot) + rng.uniform(0, plot):
            turn = float(np.arctan(bend * rate * np.cos(s * rate + phase)))
            t = street + bend * np.sin(s * rate + phase)
            if not canvas.near(*canvas.pixel(s, t, angle), margin=10):
                continue
            for side in (-1, 1):
                empty, swim, long = rng.random() < 0.07, rng.random() < 0.13, rng.uniform(0.5, 0.74)
                deep, set_back, ell = rng.uniform(2.2, 3.2), rng.uniform(3.4, 4.4), rng.random()
                odd = int(rng.integers(12))
                shape = ("tile", "slate", "flat")[odd] if odd < 3 else roof
                if empty or abs(s - cross) < 3.2:
                    continue
                where = t + side * (set_back + 0.3)
                drive = rectangle(canvas, s + plot * 0.3, t + side * 2.2, 0.9, 3.2, turn, angle)
                details.polygon(drive, concrete)
                if swim:
                    basin = rectangle(canvas, s, t + side * (set_back + 4.4), 1.8, 1.1, turn, angle)
                    details.polygon(basin, pool)
                town.building(
                    s, where, plot * long, deep, 1.5, shape, turn=turn, angle=angle, gable=True
                )
                if ell < 0.35:
                    town.building(
                        s + plot * (0.16 if ell < 0.18 else -0.16), where + side * 1.1, 1.8, 2.6,
                        1.4, shape, turn=turn + np.pi / 2, angle=angle, gable=True,
                    )  # fmt: skip
    details.lay()
    stands = town.lay()
    free = ~stands & (canvas.cover == GRASS)
    green = smoothstep(-1.2, 0.8, canvas.noise(18, 3.0) + rng.uniform(-0.6, 0.8))
    spots = scatter(canvas, 2.2)
    chosen = (rng.random(len(spots)) < 0.05 + 0.55 * at(green, spots)) & at(free, spots)
    trees(canvas, spots[chosen], rng.uniform(0.85, 1.25))


def city(canvas: Canvas) -> None:
    """Street grid: perimeter blocks with courtyards, towers with long shadows, or packed roofs."""
    rng = canvas.rng
    surface = tarmac(canvas)
    canvas.paint(None, surface, surface[0], ROAD)
    angle = rng.uniform(0, 2 * np.pi)
    style = rng.choice(["perimeter", "towers", "packed"], p=[0.35, 0.35, 0.3])
    small = {"perimeter": 13.0, "towers": 15.0, "packed": 9.0}[str(style)]
    street = rng.uniform(1.4, 2.6) if style != "packed" else rng.uniform(0.7, 1.3)
    roof = str(rng.choice(["tile", "slate", "flat"], p=[0.35, 0.25, 0.4]))
    pavement, town, greens = Sheet(canvas), Town(canvas), []
    for rect in ground.split(rng, canvas.span * 0.9, small, 2.0, gap=street):
        if not ground.visible(canvas, rect, angle):
            continue
        park, tone = rng.random() < 0.08, rng.uniform(0.45, 0.62)
        yard = pavement.thing((tone, tone * 0.98, tone * 0.95), tone, DEVELOPED)
        if park:
            yard = pavement.thing(canvas.look.grass, canvas.look.grass_nir, GRASS)
            greens.append(yard)
        pavement.polygon(ground.corners(canvas, rect, angle), yard)
        if park:
            continue
        if style == "perimeter":
            _perimeter(canvas, town, rect, angle, roof)
        elif style == "towers":
            _towers(canvas, town, rect, angle)
        else:
            _packed(canvas, town, rect, angle, roof)
    ids = pavement.lay()
    canvas.mottle(0.05 * canvas.noise(5, 2.0))
    fleet = Sheet(canvas)
    for lane in np.arange(-0.9, 0.9, 0.2) * canvas.span:
        turned = angle + np.pi / 2 * float(rng.integers(2))
        cars(canvas, fleet, canvas.line(lane, turned), 0.0, 5.0)
    fleet.lay_only(np.where(canvas.cover == ROAD, np.asarray(fleet.image), 0))
    town.lay()
    spots = scatter(canvas, 2.0)
    in_park = np.isin(at(ids, spots), greens) & (rng.random(len(spots)) < 0.6)
    lining = (at(canvas.cover, spots) == DEVELOPED) & (rng.random(len(spots)) < rng.uniform(0, 0.3))
    trees(canvas, spots[in_park | lining], 0.9)


def _perimeter(canvas: Canvas, town: Town, rect: ground.Rect, angle: float, roof: str) -> None:
    rng = canvas.rng
    x0, y0, x1, y1 = rect
    deep, height = min(3.2, (x1 - x0) / 3, (y1 - y0) / 3), rng.uniform(2.2, 4.0)
    sides = (
        ((x0 + x1) / 2, y0 + deep / 2 + 0.4, x1 - x0 - 0.8, 0.0),
        ((x0 + x1) / 2, y1 - deep / 2 - 0.4, x1 - x0 - 0.8, 0.0),
        (x0 + deep / 2 + 0.4, (y0 + y1) / 2, y1 - y0 - 0.8, np.pi / 2),
        (x1 - deep / 2 - 0.4, (y0 + y1) / 2, y1 - y0 - 0.8, np.pi / 2),
    )
    for s, t, length, turn in sides:
        pieces = max(1, round(length / rng.uniform(4, 8)))
        for piece in range(pieces):
            shift = (piece + 0.5) / pieces * length - length / 2
            c, d = np.cos(turn), np.sin(turn)
            town.building(
                s + shift * c, t + shift * d, length / pieces, deep, height * rng.uniform(0.8, 1.2),
                roof if rng.random() < 0.8 else "flat",
                turn=turn, angle=angle, gable=roof != "flat",
            )  # fmt: skip


def _towers(canvas: Canvas, town: Town, rect: ground.Rect, angle: float) -> None:
    rng = canvas.rng
    x0, y0, x1, y1 = rect
    for lot in ground.split(rng, 0.5, 0.5, 1.6):
        cx, w = x0 + (lot[0] + lot[2] + 1) / 2 * (x1 - x0), (lot[2] - lot[0]) * (x1 - x0)
        cy, h = y0 + (lot[1] + lot[3] + 1) / 2 * (y1 - y0), (lot[3] - lot[1]) * (y1 - y0)
        height = min(16.0, float(np.exp(rng.normal(1.5, 0.6))))
        roof = "slate" if rng.random() < 0.25 else "flat"
        sides = w * rng.uniform(0.6, 0.92), h * rng.uniform(0.6, 0.92)
        town.building(cx, cy, *sides, height, roof, angle=angle)


def _packed(canvas: Canvas, town: Town, rect: ground.Rect, angle: float, roof: str) -> None:
    rng = canvas.rng
    x0, y0, x1, y1 = rect
    step = rng.uniform(2.6, 3.6)
    gable = rng.random() < 0.6
    for cx in np.arange(x0 + step / 2, x1 - step / 3, step):
        for cy in np.arange(y0 + step / 2, y1 - step / 3, step):
            w, h = rng.uniform(0.7, 1.0, 2) * step
            odd = int(rng.integers(12))
            kind = ("tile", "slate", "flat", "metal")[odd] if odd < 4 else roof
            height = rng.uniform(0.9, 2.2)
            town.building(float(cx), float(cy), w, h, height, kind, angle=angle, gable=gable)


def roads(canvas: Canvas) -> None:
    """A motorway, a crossing or an interchange in open country or at the edge of town."""
    rng = canvas.rng
    ground.open_country(canvas)
    span, angle, style = canvas.span, rng.uniform(0, 2 * np.pi), rng.random()
    surface, width = tarmac(canvas), rng.uniform(3.0, 5.0)
    verge = np.asarray(canvas.look.grass) * 1.05
    line = np.linspace(-1, 1, 30) * span

    def carriageways(turn: float, curve: float, shift: float, height: float) -> None:
        for side in (-0.58, 0.58):
            across = shift + side * width + curve * (line / span) ** 2 * span
            road(
                canvas, canvas.points(line, across, turn), width, colour=surface, marks=True,
                traffic=5, kerb=verge, height=height,
            )  # fmt: skip

    shift, curve = rng.uniform(-0.15, 0.15) * span, rng.uniform(-0.35, 0.35)
    if style < 0.4:  # motorway with a bridge now and then
        carriageways(angle, curve, shift, 0.0)
        if rng.random() < 0.6:
            across = rng.uniform(-0.2, 0.2) * span + 0.1 * line
            path = canvas.points(line, across, angle + rng.uniform(0.9, 2.2))
            road(canvas, path, rng.uniform(1.6, 2.6), marks=True, traffic=7, height=1.6)
    elif style < 0.75:  # interchange: ramps first, then both motorways
        for quarter in range(4):
            if rng.random() < 0.8:
                radius = rng.uniform(8, 14)
                arc = np.linspace(0, 2 * np.pi if rng.random() < 0.5 else np.pi, 24)
                mid = angle + np.pi / 4 + quarter * np.pi / 2
                cs, ct = radius * 1.35 * np.cos(mid - angle), radius * 1.35 * np.sin(mid - angle)
                along, across = cs + radius * np.cos(arc + mid), ct + radius * np.sin(arc + mid)
                loop = canvas.points(along, across, angle)
                road(canvas, loop, 1.5, colour=surface, marks=False, traffic=12)
        carriageways(angle, curve * 0.3, 0.0, 0.0)
        carriageways(angle + np.pi / 2 + rng.uniform(-0.3, 0.3), 0.0, 0.0, 1.8)
    else:  # crossing of two streets with houses around
        town = Town(canvas)
        for rect in ground.split(rng, span, 13, 1.6, gap=3.0):
            middle = (rect[0] + rect[2]) / 2 - shift, (rect[1] + rect[3]) / 2
            length, deep, height = rng.uniform(4, 8), rng.uniform(3, 5), rng.uniform(1.4, 2.6)
            if min(abs(middle[0]), abs(middle[1])) > 7 and ground.visible(canvas, rect, angle):
                town.building(middle[0], middle[1], length, deep, height, "flat", angle=angle)
        town.lay()
        for turn, off in ((0.0, 0.0), (np.pi / 2, -shift)):
            path = canvas.points(line, np.full(30, off), angle + turn)
            road(
                canvas, path, width * 0.8, colour=surface, marks=turn == 0, traffic=4,
                kerb=(0.62, 0.61, 0.58),
            )  # fmt: skip
    if rng.random() < 0.6:
        grown = smoothstep(0.3, 1.0, canvas.noise(10, 2.8))
        woods(canvas, (canvas.cover == GRASS) * grown * 0.8, 1.0)


def industry(canvas: Canvas) -> None:
    """Works: wide ribbed roofs, tank farms, container and lorry yards, service roads."""
    rng = canvas.rng
    angle = rng.uniform(0, 2 * np.pi)
    surface = tarmac(canvas)
    canvas.paint(None, surface, surface[0], ROAD)
    storage = rng.random() < 0.4
    apron, town, farms = Sheet(canvas), Town(canvas), []
    for rect in ground.split(rng, canvas.span * 0.9, rng.uniform(14, 20), 1.9, gap=2.2):
        if not ground.visible(canvas, rect, angle):
            continue
        x0, y0, x1, y1 = rect
        use, tone = rng.random(), rng.uniform(0.5, 0.7)
        if use < 0.14:
            plot = apron.thing(canvas.look.grass, canvas.look.grass_nir, GRASS)
        elif use < 0.22:
            plot = apron.thing(ground.soil(rng), 0.52, BARE)
        else:
            plot = apron.thing((tone, tone * 0.98, tone * 0.95), tone, DEVELOPED)
        apron.polygon(ground.corners(canvas, rect, angle), plot)
        if storage and 0.3 < use < 0.7:
            farms.append(rect)
        elif use > 0.22:
            _halls(canvas, town, rect, angle)
    apron.lay()
    canvas.mottle(0.06 * canvas.noise(7, 2.2))
    stands = town.lay()
    _ribs(canvas, stands, angle)
    for x0, y0, x1, y1 in farms:
        radius = rng.uniform(1.6, 3.6)
        paint = scaled((0.86, 0.86, 0.84), rng.uniform(0.8, 1.08))
        group: list[tuple[float, float, float]] = []
        for cx in np.arange(x0 + radius * 1.2, x1 - radius, radius * 2.6):
            for cy in np.arange(y0 + radius * 1.2, y1 - radius, radius * 2.6):
                if rng.random() < 0.88:
                    x, y = canvas.pixel(float(cx), float(cy), angle)
                    group.append((x, y, radius * rng.uniform(0.85, 1.0)))
        tanks(canvas, group, paint)
    spots = scatter(canvas, 2.2)
    edge = (at(canvas.cover, spots) == GRASS) & (rng.random(len(spots)) < 0.4)
    trees(canvas, spots[edge], 1.0)


def _halls(canvas: Canvas, town: Town, rect: ground.Rect, angle: float) -> None:
    rng = canvas.rng
    x0, y0, x1, y1 = rect
    roof = "metal" if rng.random() < 0.75 else "flat"
    part, height = rng.uniform(0.55, 0.85), rng.uniform(1.6, 3.0)
    w, h = x1 - x0 - 1.6, y1 - y0 - 1.6
    if w > h:
        hall = x0 + 0.8 + w * part / 2, (y0 + y1) / 2, w * part, h
        yard, flip = (x0 + 1.2 + w * part, y0 + 1, x1 - 0.6, y1 - 1), 0.0
    else:
        hall = (x0 + x1) / 2, y0 + 0.8 + h * part / 2, w, h * part
        yard, flip = (x0 + 1, y0 + 1.2 + h * part, x1 - 1, y1 - 0.6), np.pi / 2
    town.building(*hall, height, roof, angle=angle)
    for cx in np.arange(yard[0] + 1, yard[2] - 0.5, 1.6 if flip else 3.4):  # parked lorries
        for cy in np.arange(yard[1] + 1, yard[3] - 0.5, 3.4 if flip else 1.6):
            if rng.random() < 0.4:
                town.lorry(float(cx), float(cy), flip, angle)


def _ribs(canvas: Canvas, stands: np.ndarray, angle: float) -> None:
    """Standing seams on sheet-metal roofs."""
    s, _ = canvas.rotated(angle)
    seam = np.sin(s * np.float32(2 * np.pi / canvas.rng.uniform(1.1, 2.0)))
    canvas.mottle(np.float32(canvas.rng.uniform(0.02, 0.07)) * seam, stands)
