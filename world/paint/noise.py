"""Noise with a given spectrum. Every function is a pure function of the generator's state."""

from __future__ import annotations

import functools

import numpy as np
from numpy.typing import NDArray
from scipy import fft

Array = NDArray[np.float32]


@functools.lru_cache(maxsize=8)
def _axes(n: int) -> tuple[Array, Array]:
    return (
        np.fft.fftfreq(n).astype(np.float32)[:, None],
        np.fft.rfftfreq(n).astype(np.float32)[None, :],
    )


def _frequencies(n: int, angle: float, stretch: float) -> tuple[Array, Array]:
    """Frequencies (cycles per pixel) along and across `angle`; `along` is scaled by `stretch`."""
    fy, fx = _axes(n)
    c, s = np.float32(np.cos(angle)), np.float32(np.sin(angle))
    return (fx * c + fy * s) * np.float32(stretch), fy * c - fx * s


def _shape(rng: np.random.Generator, n: int, amplitude: Array) -> Array:
    """A random field, n x n, of unit deviation from the amplitudes of its half spectrum."""
    # Uniform, not normal, coefficients: a third of the time, and a sum of thousands is normal.
    white = rng.random((n, n // 2 + 1, 2), dtype=np.float32)
    white -= np.float32(0.5)
    spectrum = white.view(np.complex64)[..., 0] * amplitude
    spectrum[0, 0] = 0.0
    field: Array = fft.irfft2(spectrum, s=(n, n), overwrite_x=True)
    flat = field.ravel()
    field *= np.float32(1.0 / (np.sqrt(np.dot(flat, flat) / flat.size) + 1e-12))
    return field


def fractal(
    rng: np.random.Generator,
    n: int,
    wavelength: float,
    slope: float = 2.6,
    angle: float = 0.0,
    stretch: float = 1.0,
) -> Array:
    """Random field, n x n, zero mean and unit deviation, with a power spectrum f**-slope.

    Args:
        wavelength: pixels; the spectrum is flat above it, so it is the size of the largest blobs.
        angle, stretch: features are `stretch` times longer along `angle` (radians, x to y).
    """
    along, across = _frequencies(n, angle, stretch)
    squared = along * along + across * across + np.float32(1.0 / max(wavelength, 2.0) ** 2)
    return _shape(rng, n, np.exp2(np.log2(squared) * np.float32(-slope / 4)))


def waves(
    rng: np.random.Generator, n: int, wavelength: float, angle: float, spread: float = 0.25
) -> Array:
    """Wave trains, n x n, unit deviation: crests across `angle`, about `wavelength` pixels apart.

    Args:
        spread: relative width of the band around the wavelength; also how short the crests are.
    """
    along, across = _frequencies(n, angle, 1.0)
    centre = 1.0 / max(wavelength, 2.2)
    width = np.float32(centre * spread)
    radial = (np.abs(along) - np.float32(centre)) / width
    lateral = across / (width * np.float32(1.2))
    return _shape(rng, n, np.exp(np.float32(-0.5) * (radial * radial + lateral * lateral)))


def ridged(rng: np.random.Generator, n: int, wavelength: float, octaves: int = 4) -> Array:
    """Mountain relief, n x n in about 0..1: sharp crests, rounded valleys, finer where high."""
    total = np.zeros((n, n), dtype=np.float32)
    weight = np.ones((n, n), dtype=np.float32)
    gain, norm = 1.0, 0.0
    for octave in range(octaves):
        layer = fractal(rng, n, wavelength / 2**octave, slope=6.0)
        crest = (1.0 - np.minimum(np.abs(layer) * 0.8, 1.0)) ** 2
        total += np.float32(gain) * crest * weight
        norm += gain
        weight = np.clip(crest * 1.6, 0.15, 1.0)
        gain *= 0.5
    return total / np.float32(norm)


def smoothstep(low: float, high: float, value: Array) -> Array:
    """0 below `low`, 1 above `high`, a cubic in between."""
    t = np.clip((value - np.float32(low)) / np.float32(high - low), 0.0, 1.0).astype(np.float32)
    return t * t * (3.0 - 2.0 * t)
