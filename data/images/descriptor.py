"""A training-free descriptor of an image's colour and texture.

It stands in for a pretrained encoder where no weights can be had, and serves as a second,
independent feature space for distances between sets of images. Nothing in it is learnt: every
number comes from a histogram of local measurements, pooled over the image.

    colour       150  joint histogram of luma and two opponent axes
    structure    128  at 4 scales: local gradient energy x coherence, from the structure tensor
    pattern      200  at 2 scales: completed local binary patterns, sign x magnitude
    orientation   24  at 4 scales: harmonics 1 to 6 of the distribution of edge orientations

The first three blocks are square roots of histograms, so that a dot product of two of them is
the Bhattacharyya coefficient (Hellinger kernel). Neighbourhoods are symmetric and nothing
depends on place or absolute direction, so quarter turns and mirror images of an image have the
same descriptor up to rounding: seen from above there is no up.

Sources: structure tensor, Bigun and Granlund 1987; completed local binary patterns, Guo, Zhang
and Zhang 2010; rotation-invariant uniform patterns, Ojala, Pietikainen and Maenpaa 2002.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float32]

DESCRIPTOR_VERSION = "colour-texture-1"  # changes whenever any output value does
MIN_SIDE = 16  # smaller images are enlarged to this shorter side (pixels)
MAX_SIDE = 256  # larger ones are reduced to this shorter side (pixels)

LUMA_BINS, CHROMA_BINS = 6, 5
ENERGY_BINS, COHERENCE_BINS, STRUCTURE_SCALES = 8, 4, 4
PATTERN_BINS, PATTERN_SCALES = 10, 2
HARMONICS = 6
WEIGHTS = {"colour": 1.0, "structure": 1.5, "pattern": 1.5, "orientation": 1.0}
DIM = (
    LUMA_BINS * CHROMA_BINS**2
    + STRUCTURE_SCALES * (ENERGY_BINS * COHERENCE_BINS + HARMONICS)
    + PATTERN_SCALES * PATTERN_BINS**2
)

_CHROMA_KNEE = np.float32(0.06)  # aerial colours are pale: half the axis below this difference
_LOG_ENERGY = (-16.0, -4.0)  # log2 of squared luma gradient, luma in [0, 1]
_NOISE = np.float32(0.5 / 255)  # gradients below this are rounding
_STEP = np.float32(1.5 / 255)  # a neighbour counts as brighter from this difference on
_RING = ((-1, -1), (-1, 0), (-1, 1), (0, 1), (1, 1), (1, 0), (1, -1), (0, -1))


def describe(images: NDArray[np.uint8] | Sequence[NDArray[np.uint8]]) -> Array:
    """Descriptors of images.

    Args:
        images: uint8 N x H x W x 3, or a sequence of uint8 H x W x 3, RGB in [0, 255], any size.

    Returns:
        float32 N x 502; every row has L2 norm 1. A row does not depend on the other images.

    Raises:
        ValueError: an image is not uint8 H x W x 3 or has an empty side.
    """
    rows = np.empty((len(images), DIM), np.float32)
    for row, image in zip(rows, images, strict=True):
        row[:] = _describe_one(image)
    return rows


def fingerprint() -> dict[str, Any]:
    """What a descriptor's values depend on, for manifests."""
    return {
        "version": DESCRIPTOR_VERSION,
        "dim": DIM,
        "sizes": f"native; shorter side {MIN_SIDE} to {MAX_SIDE} px",
    }


def _describe_one(image: NDArray[np.uint8]) -> Array:
    parts = [WEIGHTS[name] * block for name, block in blocks(image)]
    joined = np.concatenate(parts)
    return joined / np.linalg.norm(joined)


def blocks(image: NDArray[np.uint8]) -> list[tuple[str, Array]]:
    """The unweighted blocks of one image's descriptor, by name, in order."""
    pixels = _fit(image).astype(np.float32) / np.float32(255)
    red, green, blue = pixels[..., 0], pixels[..., 1], pixels[..., 2]
    luma = np.float32(0.299) * red + np.float32(0.587) * green + np.float32(0.114) * blue
    # Quartered first: most files store colour at half the resolution anyway.
    opponents = [luma, red - green, (red + green) / 2 - blue]
    found = [("colour", _colour(*map(_quarter, opponents)))]
    structures, patterns, orientations = [], [], []
    for scale in range(STRUCTURE_SCALES):
        across, down = _gradient(luma)
        structures.append(_structure(across, down))
        orientations.append(_orientation(across, down))
        if scale < PATTERN_SCALES:
            patterns.append(_pattern(luma))
        luma = _quarter(luma)
    found.append(("structure", _unit(np.concatenate(structures))))
    found.append(("pattern", _unit(np.concatenate(patterns))))
    found.append(("orientation", np.concatenate(orientations)))
    return found


def _fit(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or 0 in image.shape:
        raise ValueError(f"expected uint8 H x W x 3, found {image.dtype} {image.shape}")
    height, width = image.shape[:2]
    side = min(height, width)
    target = min(max(side, MIN_SIDE), MAX_SIDE)
    if side == target:
        return image
    from PIL import Image  # only here: what the descriptor is should be known without Pillow

    size = (round(width * target / side), round(height * target / side))
    how = Image.Resampling.BOX if side > target else Image.Resampling.BICUBIC
    return np.asarray(Image.fromarray(image).resize(size, how))


def _colour(luma: Array, red_green: Array, yellow_blue: Array) -> Array:
    """Joint histogram of luma and compressed opponent differences, linear between bins."""
    axes = [_bins(luma, 0.0, 1.0, LUMA_BINS)]
    for difference in (red_green, yellow_blue):
        squashed = difference / (np.abs(difference) + _CHROMA_KNEE)
        axes.append(_bins(squashed, -0.85, 0.85, CHROMA_BINS))
    return np.sqrt(_joint(axes, (LUMA_BINS, CHROMA_BINS, CHROMA_BINS)))


def _structure(across: Array, down: Array) -> Array:
    """Joint histogram of local gradient energy (log2) and coherence (0 isotropic, 1 a line)."""
    products = (across * across, down * down, across * down)
    xx, yy, xy = (_quarter(_blur(product)) for product in products)
    energy = xx + yy
    coherence = np.sqrt(np.square(xx - yy) + 4 * np.square(xy)) / (energy + np.float32(1e-6))
    axes = [
        _bins(np.log2(energy + _NOISE**2), *_LOG_ENERGY, ENERGY_BINS),
        _bins(coherence, 0.0, 1.0, COHERENCE_BINS),
    ]
    return np.sqrt(_joint(axes, (ENERGY_BINS, COHERENCE_BINS)))


def _pattern(luma: Array) -> Array:
    """Joint histogram of rotation-invariant uniform patterns of sign and of magnitude."""
    height, width = luma.shape
    padded = _pad(luma)
    steps = [padded[1 + y : 1 + y + height, 1 + x : 1 + x + width] - luma for y, x in _RING]
    sizes = [np.abs(step) for step in steps]
    typical = np.float32(sum(float(size.mean()) for size in sizes) / len(sizes))
    sign = np.zeros(luma.shape, np.uint8)
    magnitude = np.zeros(luma.shape, np.uint8)
    for bit, (step, size) in enumerate(zip(steps, sizes, strict=True)):
        sign |= (step > _STEP).view(np.uint8) << np.uint8(bit)
        magnitude |= (size > typical).view(np.uint8) << np.uint8(bit)
    table = _uniform_patterns()
    codes = table[sign] * np.intp(PATTERN_BINS) + table[magnitude]
    counts = np.bincount(codes.ravel(), minlength=PATTERN_BINS**2)
    return np.sqrt(counts / luma.size).astype(np.float32)


def _orientation(across: Array, down: Array) -> Array:
    """|sum m e^(2 i k theta)| / sum m for k = 1 to 6: m and theta are the gradient's magnitude
    and angle, and no rotation of the image changes the result."""
    gradient = (across + 1j * down).ravel()
    strength = np.abs(gradient)
    phase = (gradient / np.maximum(strength, np.float32(1e-12))) ** 2  # a line has no direction
    total = float(strength.sum()) + float(_NOISE) * strength.size  # nor a flat image a line
    harmonics = np.empty(HARMONICS, np.float32)
    turned = strength.astype(np.complex64)
    for k in range(HARMONICS):
        turned *= phase
        harmonics[k] = abs(complex(turned.sum())) / total
    return harmonics


def _bins(
    values: NDArray[Any], low: float, high: float, count: int
) -> tuple[NDArray[np.intp], Array]:
    """Lower bin of each value and the fraction of it that belongs to the next bin."""
    place = (values.ravel() - np.float32(low)) * np.float32((count - 1) / (high - low))
    np.clip(place, 0, count - 1, out=place)
    lower = np.minimum(place.astype(np.intp), count - 2)
    return lower, (place - lower).astype(np.float32)


def _joint(axes: Sequence[tuple[NDArray[np.intp], Array]], shape: tuple[int, ...]) -> Array:
    """Joint histogram, multilinear between bins, summing to 1."""
    base: Any = 0
    corners: list[tuple[int, Any]] = [(0, np.float32(1))]  # distance from base, weights
    for (lower, upper), count in zip(axes, shape, strict=True):
        base = base * count + lower
        rest = 1 - upper
        corners = [
            corner
            for offset, weight in corners
            for corner in ((offset * count, weight * rest), (offset * count + 1, weight * upper))
        ]
    size = int(np.prod(shape))
    total = np.zeros(size)
    for offset, weight in corners:
        total[offset:] += np.bincount(base, weight, size)[: size - offset]
    return (total / base.size).astype(np.float32)


def _gradient(image: Array) -> tuple[Array, Array]:
    """Central differences a pixel, smoothed across (Scharr's weights)."""
    padded = _pad(image)
    across = padded[:, 2:] - padded[:, :-2]
    down = padded[2:] - padded[:-2]
    side, middle = np.float32(3 / 32), np.float32(10 / 32)
    return (
        side * (across[:-2] + across[2:]) + middle * across[1:-1],
        side * (down[:, :-2] + down[:, 2:]) + middle * down[:, 1:-1],
    )


def _blur(image: Array) -> Array:
    """Binomial 3 x 3."""
    padded = _pad(image)
    rows = (padded[:-2] + padded[2:]) + 2 * padded[1:-1]
    return ((rows[:, :-2] + rows[:, 2:]) + 2 * rows[:, 1:-1]) * np.float32(1 / 16)


def _pad(image: Array) -> Array:
    """One pixel on each side, mirrored about the edge's own centre."""
    height, width = image.shape
    padded = np.empty((height + 2, width + 2), np.float32)
    padded[1:-1, 1:-1] = image
    padded[0, 1:-1], padded[-1, 1:-1] = image[1], image[-2]
    padded[:, 0], padded[:, -1] = padded[:, 2], padded[:, -3]
    return padded


def _quarter(image: Array) -> Array:
    """Half the height and half the width."""
    return np.ascontiguousarray(_halve(_halve(image).T).T)


def _halve(image: Array) -> Array:
    """Half the height, rounded up, by area; symmetric, so that a mirror image stays one."""
    if image.shape[0] % 2:
        return _area_matrix(image.shape[0]) @ image
    return (image[::2] + image[1::2]) * np.float32(0.5)


@functools.lru_cache(maxsize=1024)
def _area_matrix(size: int) -> Array:
    """(size + 1) / 2 x size: the average over each of as many equal parts of `size` pixels."""
    half = (size + 1) // 2
    edges = np.linspace(0, size, half + 1)
    pixels = np.arange(size)
    overlap = np.minimum(edges[1:, None], pixels + 1) - np.maximum(edges[:-1, None], pixels)
    weights = np.maximum(overlap, 0)
    return (weights / weights.sum(1, keepdims=True)).astype(np.float32)


@functools.lru_cache(maxsize=1)
def _uniform_patterns() -> NDArray[np.uint8]:
    """Class of each 8-bit ring: its number of set bits if they are one run, else 9."""
    codes = np.arange(256, dtype=np.uint8)
    ring = np.unpackbits(codes[:, None], axis=1)
    changes = (ring != np.roll(ring, 1, axis=1)).sum(1)
    return np.where(changes <= 2, ring.sum(1), PATTERN_BINS - 1).astype(np.uint8)


def _unit(block: Array) -> Array:
    return block / np.linalg.norm(block)
