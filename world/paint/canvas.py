"""A canvas at twice the tile's resolution: surfaces, objects, light and camera."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from world.paint.look import Look
from world.paint.noise import Array, fractal

OVERSAMPLE = 2  # canvas pixels per tile pixel; `develop` averages 2 x 2
Points = Sequence[tuple[float, float]]
Rgb = Sequence[float] | np.ndarray  # three values, 0..1 in display space


class Canvas:
    """Surfaces under construction, and the generator that lays them out.

    Attributes:
        n: side in canvas pixels, twice the tile's.
        unit: canvas pixels in one unit of length; a 64-pixel tile spans about 64 units.
        span: side in units.
        rgb: 3 x n x n reflectance in display space, about 0..1; nir: n x n likewise.
        cover: n x n uint8 land-cover ids; height: n x n, units, of what casts shadows.
        light: n x n factor, the shading of relief and crowns.
        x, y: n x n pixel coordinates, centred on the tile.
        epoch: 0 or 1; at 1 some buildings have gone and others have come.
    """

    def __init__(self, size: int, rng: np.random.Generator, look: Look, epoch: int = 0) -> None:
        self.n = n = size * OVERSAMPLE
        self.rng, self.look, self.epoch = rng, look, epoch
        self.unit = OVERSAMPLE * (size / 64) ** 0.5 * float(rng.uniform(0.8, 1.2))
        self.span = n / self.unit
        self.rgb = np.zeros((3, n, n), dtype=np.float32)
        self.nir = np.zeros((n, n), dtype=np.float32)
        self.cover = np.zeros((n, n), dtype=np.uint8)
        self.height = np.zeros((n, n), dtype=np.float32)
        self.light = np.ones((n, n), dtype=np.float32)
        axis = np.arange(n, dtype=np.float32) - np.float32((n - 1) / 2)
        self.x, self.y = np.meshgrid(axis, axis)

    def noise(self, wavelength: float, slope: float = 2.6, **kwargs: float) -> Array:
        """`noise.fractal` of the canvas's size, wavelength in units."""
        return fractal(self.rng, self.n, wavelength * self.unit, slope, **kwargs)

    def rotated(self, angle: float) -> tuple[Array, Array]:
        """Coordinates in units along and across `angle`, centred on the tile."""
        c, s = np.float32(np.cos(angle) / self.unit), np.float32(np.sin(angle) / self.unit)
        return self.x * c + self.y * s, self.y * c - self.x * s

    def points(
        self, along: np.ndarray, across: np.ndarray, angle: float
    ) -> list[tuple[float, float]]:
        """Pixel coordinates (from the corner) of points given by `rotated` coordinates."""
        c, s, u, half = np.cos(angle), np.sin(angle), self.unit, (self.n - 1) / 2
        xs = (np.asarray(along) * c - np.asarray(across) * s) * u + half
        ys = (np.asarray(along) * s + np.asarray(across) * c) * u + half
        return list(zip(xs.tolist(), ys.tolist(), strict=True))

    def line(self, across: float, angle: float) -> list[tuple[float, float]]:
        """Ends (pixels) of the straight line along `angle` that lies `across` units off centre."""
        return self.points(np.array([-1.0, 1.0]) * self.span, np.array([across, across]), angle)

    def flatten(self, where: NDArray[np.bool_] | slice) -> None:
        """Take away what stands somewhere, and the shading of it."""
        self.height[where] = 0
        self.light[where] = 1

    def pixel(self, along: float, across: float, angle: float) -> tuple[float, float]:
        """`points` for a single point."""
        c, s, u, half = math.cos(angle), math.sin(angle), self.unit, (self.n - 1) / 2
        return (along * c - across * s) * u + half, (along * s + across * c) * u + half

    def near(self, x: float, y: float, margin: float) -> bool:
        """Whether a pixel position lies within `margin` units of the tile."""
        edge = margin * self.unit
        return -edge < x < self.n + edge and -edge < y < self.n + edge

    def paint(
        self, where: NDArray[np.bool_] | None, colour: Rgb, nir: float | np.ndarray, cover: int
    ) -> None:
        """Cover `where` (everything when None) with a colour: 3 values or 3 x n x n."""
        value = _planes(colour)
        if where is None:
            self.rgb[:], self.nir[:], self.cover[:] = value, nir, cover
        else:
            np.copyto(self.rgb, value, where=where[None])
            np.copyto(self.nir, np.float32(nir) if np.isscalar(nir) else nir, where=where)  # type: ignore[arg-type]
            self.cover[where] = cover

    def blend(self, alpha: Array, colour: Rgb, nir: float, cover: int | None = None) -> None:
        """Mix a colour in with weight `alpha` (n x n, 0..1); `cover` is set above a half."""
        value = _planes(colour)
        self.rgb += alpha * (value - self.rgb)
        self.nir += alpha * (np.float32(nir) - self.nir)
        if cover is not None:
            self.cover[alpha > 0.5] = cover

    def mottle(self, texture: Array | np.float32, where: NDArray[np.bool_] | None = None) -> None:
        """Multiply colour and NIR by 1 + texture."""
        factor = 1.0 + texture if where is None else 1.0 + np.where(where, texture, np.float32(0))
        self.rgb *= factor
        self.nir *= factor

    def relief(self, heights: Array, strength: float) -> None:
        """Shade by the slope of `heights` towards the sun (Lambert, small slopes)."""
        gy, gx = np.gradient(heights)
        sx, sy = self.look.sun
        slope = -(gx * np.float32(sx) + gy * np.float32(sy)) * np.float32(strength)
        self.light *= np.clip(1.0 + slope, 0.35, 1.7)

    def shadows(self) -> Array:
        """n x n, 0..1: how deep each pixel lies in the shadow of what hides the sun from it."""
        top = float(self.height.max())
        if top <= 0:
            return np.zeros_like(self.height)
        length = min(top * self.look.reach * self.unit, 40.0)
        steps = max(1, int(np.ceil(length)))
        drop = 1.0 / (self.look.reach * self.unit)  # units of height lost per pixel
        sx, sy = self.look.sun
        best = np.zeros_like(self.height)
        for step in range(1, steps + 1):
            dx, dy = round(step * sx), round(step * sy)
            target, source = _overlap(self.n, dy, dx)
            lit = self.height[source] - np.float32(step * drop)
            np.maximum(best[target], lit, out=best[target])
        return np.clip((best - self.height) * np.float32(1.5), 0.0, 1.0)

    def develop(self, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Light, atmosphere and camera.

        Args:
            rng: source of the sensor's noise.

        Returns:
            rgb uint8 size x size x 3, nir uint8 size x size, cover uint8 size x size.
        """
        look = self.look
        bands = np.empty((4, self.n, self.n), dtype=np.float32)
        np.multiply(self.rgb, self.light, out=bands[:3])
        np.multiply(self.nir, self.light, out=bands[3])
        if self.height.any():
            shade = self.shadows()
            for band, depth in enumerate((0.66, 0.62, 0.54, 0.68)):  # light from the sky is blue
                bands[band] *= 1.0 - np.float32(depth) * shade
        bands = bands[:, ::2] + bands[:, 1::2]  # OVERSAMPLE x OVERSAMPLE means
        bands = (bands[:, :, ::2] + bands[:, :, 1::2]) * np.float32(0.25)
        bands = _soften(bands, look.soft)
        gain = np.array([*look.cast, 1.0], dtype=np.float32)[:, None, None] * np.float32(look.gain)
        bands = np.clip(bands * gain, 0.0, None) ** np.float32(look.gamma)
        veil = np.array([*look.haze_colour, 0.4], dtype=np.float32)[:, None, None]
        weight = np.array([1, 1, 1, 0.4], dtype=np.float32)[:, None, None] * np.float32(look.haze)
        bands += weight * (veil - bands)
        bands = bands * 255.0 + rng.standard_normal(bands.shape, dtype=np.float32) * look.grain
        levels = np.clip(np.rint(bands), 0, 255).astype(np.uint8)
        half = OVERSAMPLE // 2
        cover = np.ascontiguousarray(self.cover[half::OVERSAMPLE, half::OVERSAMPLE])
        return np.ascontiguousarray(levels[:3].transpose(1, 2, 0)), levels[3].copy(), cover


def _planes(colour: Rgb) -> Array:
    """A colour that can be laid on 3 x n x n: three values, or as many for each pixel."""
    value = np.asarray(colour, dtype=np.float32)
    return value[:, None, None] if value.ndim == 1 else value


class Sheet:
    """One pass of objects, drawn in order and then laid on the canvas at once."""

    def __init__(self, canvas: Canvas) -> None:
        self.canvas = canvas
        self.image = Image.new("I", (canvas.n, canvas.n), 0)
        self.draw = ImageDraw.Draw(self.image)
        self.rows: list[Sequence[float]] = [(0.0,) * 6]

    def thing(self, colour: Rgb, nir: float, cover: int, height: float = 0.0) -> int:
        """Register an object; returns its index (from 1), to be given to the drawing methods."""
        self.rows.append((colour[0], colour[1], colour[2], nir, float(cover), height))
        return len(self.rows) - 1

    def polygon(self, points: Points, index: int) -> None:
        """Fill a polygon (pixel coordinates)."""
        self.draw.polygon(list(points), fill=index)

    def line(self, points: Points, width: float, index: int) -> None:
        """Draw a polyline `width` units wide."""
        pixels = max(1, round(width * self.canvas.unit))
        self.draw.line(list(points), fill=index, width=pixels, joint="curve")

    def disc(self, x: float, y: float, radius: float, index: int) -> None:
        """Fill a disc: centre in pixels, radius in pixels."""
        self.draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=index)

    def lay(self) -> NDArray[np.int32]:
        """Lay the objects on the canvas; returns their index at each pixel (0: none)."""
        return self.lay_only(np.asarray(self.image))

    def lay_only(self, ids: NDArray[np.int32]) -> NDArray[np.int32]:
        """`lay` for a map of indices that the caller has masked."""
        spots = np.flatnonzero(ids)
        picked = np.asarray(self.rows, dtype=np.float32)[ids.ravel()[spots]]
        canvas = self.canvas
        for band in range(3):
            canvas.rgb[band].ravel()[spots] = picked[:, band]
        canvas.nir.ravel()[spots] = picked[:, 3]
        canvas.cover.ravel()[spots] = picked[:, 4].astype(np.uint8)
        canvas.height.ravel()[spots] = picked[:, 5]
        canvas.light.ravel()[spots] = 1.0
        return ids


def _overlap(n: int, dy: int, dx: int) -> tuple[tuple[slice, slice], tuple[slice, slice]]:
    """Slices (target, source) such that source lies (dy, dx) further than target."""
    target = (slice(max(0, -dy), n - max(0, dy)), slice(max(0, -dx), n - max(0, dx)))
    source = (slice(max(0, dy), n - max(0, -dy)), slice(max(0, dx), n - max(0, -dx)))
    return target, source


def _soften(bands: Array, fraction: float) -> Array:
    """Three-tap blur in both directions: each neighbour gives `fraction`."""
    k = np.float32(fraction)
    for axis in (1, 2):
        view = bands if axis == 2 else bands.transpose(0, 2, 1)
        out = view * (1 - 2 * k)
        out[..., 1:] += k * view[..., :-1]
        out[..., :-1] += k * view[..., 1:]
        out[..., 0] += k * view[..., 0]  # the edge repeats itself
        out[..., -1] += k * view[..., -1]
        bands = out if axis == 2 else out.transpose(0, 2, 1)
    return bands
