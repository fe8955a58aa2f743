"""How a tile was taken: season, sun, atmosphere and camera."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

Colour = tuple[float, float, float]

# Display-space colours (0..1) of grass, tree crowns and ripe or growing crops; `nir` of the
# vegetation. Muted, as orthophotos are before anyone pushes their saturation.
_SEASONS: dict[str, dict[str, tuple[float, ...]]] = {
    "lush": {"grass": (0.33, 0.40, 0.24), "tree": (0.17, 0.24, 0.15), "nir": (0.60, 0.52)},
    "summer": {"grass": (0.43, 0.44, 0.28), "tree": (0.21, 0.28, 0.17), "nir": (0.52, 0.50)},
    "dry": {"grass": (0.55, 0.49, 0.35), "tree": (0.27, 0.29, 0.18), "nir": (0.44, 0.44)},
    "autumn": {"grass": (0.43, 0.40, 0.27), "tree": (0.32, 0.26, 0.16), "nir": (0.46, 0.44)},
    "tropic": {"grass": (0.29, 0.38, 0.25), "tree": (0.14, 0.23, 0.17), "nir": (0.58, 0.56)},
    "winter": {"grass": (0.40, 0.38, 0.29), "tree": (0.27, 0.25, 0.19), "nir": (0.42, 0.38)},
}


@dataclass(frozen=True, slots=True)
class Look:
    """Season, sun and camera of one tile.

    Attributes:
        season: name of the season.
        grass, tree: base colours in display space, 0..1.
        grass_nir, tree_nir: base near-infrared brightness, 0..1.
        sun: unit vector (x right, y down) pointing towards the sun in the image plane.
        reach: shadow length per height (1 / tan of the sun's elevation).
        gain, gamma, cast, haze, haze_colour: exposure, contrast curve, colour cast, veil.
        soft: share of each neighbour mixed in by the optics, 0..0.2.
        grain: deviation of the sensor's noise in grey levels.
    """

    season: str
    grass: Colour
    tree: Colour
    grass_nir: float
    tree_nir: float
    sun: tuple[float, float]
    reach: float
    gain: float
    gamma: float
    cast: Colour
    haze: float
    haze_colour: Colour
    soft: float
    grain: float


def draw_look(rng: np.random.Generator) -> Look:
    """Draw a look. Takes the same number of draws whatever comes out."""
    names = list(_SEASONS)
    season = names[int(rng.choice(len(names), p=[0.28, 0.24, 0.16, 0.1, 0.12, 0.1]))]
    base = _SEASONS[season]
    tint = rng.normal(0.0, 0.022, 6)
    azimuth = rng.uniform(0.0, 2 * np.pi)
    elevation = np.radians(rng.uniform(32.0, 68.0))
    haze = float(rng.beta(1.2, 5.0) * 0.5)
    blue = rng.uniform(0.0, 0.08)
    cast = np.exp(rng.normal(0.0, 0.016, 3))
    gain, gamma, soft = rng.uniform(0.86, 1.3), rng.uniform(0.85, 1.25), rng.uniform(0.02, 0.13)
    grain = rng.uniform(0.3, 1.6)
    grass, tree, nir = base["grass"], base["tree"], base["nir"]
    return Look(
        season=season,
        grass=_add(grass, tint[:3]),
        tree=_add(tree, tint[3:] * 0.7),
        grass_nir=nir[0],
        tree_nir=nir[1],
        sun=(float(np.cos(azimuth)), float(np.sin(azimuth))),
        reach=float(1.0 / np.tan(elevation)),
        gain=float(gain),
        gamma=float(gamma),
        cast=(float(cast[0]), float(cast[1]), float(cast[2])),
        haze=haze,
        haze_colour=(0.60 - float(blue), 0.63, 0.64 + float(blue)),
        soft=float(soft),
        grain=float(grain),
    )


def _add(base: tuple[float, ...], tint: np.ndarray) -> Colour:
    values = np.clip(np.asarray(base) + tint, 0.04, 0.95)
    return (float(values[0]), float(values[1]), float(values[2]))
