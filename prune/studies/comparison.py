"""What subsets of a labelled corpus are compared by, as pure functions of arrays.

Class balance is the entropy of the class fractions. Low information and near-duplicates are
measured on the pixels, by none of the means that the methods select by: the standard deviation
of the grey image, and a perceptual hash (the signs, about their median, of the 64 lowest
frequencies of its 32 x 32 reduction).
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy.fft import dctn

from core.errors import UserError
from data.corpus.base import Location
from data.corpus.specs import open_corpus
from data.corpus.verified import verified
from data.images.decode import Reject, decode_grey
from prune.studies.judgement import bits

SIDE, LOW = 32, 8  # of the reduced image, and of the frequencies kept
FLAT = 1.0  # grey deviation below which an image has no structure to hash
BLOCK = 1024  # hashes compared with all others at a time


def perceptual_hash(grey: NDArray[np.uint8]) -> int:
    """64-bit hash of an image [H, W]; that of a copy differs in few bits.

    Bit i is set when frequency i (row by row) is above the median of all but the mean. Brightness
    and contrast do not matter; turns and mirror images do.
    """
    small = np.asarray(
        Image.fromarray(grey).resize((SIDE, SIDE), Image.Resampling.BOX), np.float64
    )
    low = dctn(small, norm="ortho")[:LOW, :LOW]
    low = np.round(low.reshape(-1), 6)  # no sign from rounding alone
    signs = low > np.median(low[1:])
    signs[0] = False  # the mean says nothing
    return int.from_bytes(np.packbits(signs).tobytes())


@dataclass(frozen=True)
class Look:
    """Where images are, for `look` in other processes."""

    corpus: str
    locations: tuple[Location, ...]
    digests: tuple[str | None, ...]
    max_pixels: int


def look(task: Look) -> list[tuple[str, float, int]]:
    """(key, grey standard deviation in [0, 127.5], perceptual hash) of each image.

    Raises UserError for an image that can no longer be read, or is another one.
    """
    found = []
    for sample in verified(open_corpus(task.corpus).fetch(task.locations), task.digests):
        try:
            if sample.data is None:
                raise Reject(*(sample.error or ("unreadable", "")))
            grey = decode_grey(sample.data, max_pixels=task.max_pixels)
        except Reject as reject:
            raise UserError(
                f"{task.corpus}: {sample.key} was readable when it was scored and is not now "
                f"({reject}); score the corpus again into a new folder"
            ) from None
        found.append((sample.key, float(grey.std()), perceptual_hash(grey)))
    return found


def near_duplicates(hashes: NDArray[np.uint64], distance: int) -> int:
    """Images whose hash is within `distance` bits of another image's."""
    found = 0
    for start in range(0, len(hashes), BLOCK):
        block = hashes[start : start + BLOCK]
        close = np.bitwise_count(block[:, None] ^ hashes[None, :]) <= distance
        close[np.arange(len(block)), np.arange(start, start + len(block))] = False
        found += int(np.count_nonzero(close.any(axis=1)))
    return found


def nearest_similarity(units: NDArray[np.float32]) -> float:
    """Mean cosine of each row to the nearest other row; 0 for a single one."""
    if len(units) < 2:
        return 0.0
    total = 0.0
    for start in range(0, len(units), BLOCK):
        scores = units[start : start + BLOCK] @ units.T
        scores[np.arange(len(scores)), np.arange(start, start + len(scores))] = -1.0
        total += float(scores.max(axis=1).sum(dtype=np.float64))
    return total / len(units)


def expected_bits(counts: Sequence[int], size: int) -> float:
    """Balance to expect of a uniform draw of `size` images from classes of these counts (bits).

    The entropy of the fractions, less the bias (C - 1) / (2 n ln 2) of a sample of n, which is
    smaller for draws without replacement by the factor (N - n) / (N - 1).
    """
    total = sum(counts)
    classes = sum(1 for count in counts if count)
    left = (total - size) / max(total - 1, 1)
    return bits(counts) - left * (classes - 1) / (2 * size * math.log(2))


def measure(
    keys: Sequence[str],
    labels: Mapping[str, str],
    deviation: Mapping[str, float],
    hashes: Mapping[str, int],
    *,
    low_information: float,
    distance: int,
) -> dict[str, Any]:
    """Class balance, coverage, low-information images and near-duplicates of a subset.

    Args:
        keys: its images.
        labels: class of every image; '' for an image that is of none.
        deviation, hashes: of `look`, for every image.
        low_information: grey standard deviation below which an image is of low information.
        distance: bits within which two hashes are near-duplicates. Constant images, which all
            look the same, are left to `low_information`.
    """
    counts = Counter(labels[key] for key in keys if labels[key])
    hashed = [hashes[key] for key in keys if deviation[key] >= FLAT]
    return {
        "images": len(keys),
        "classes": len(counts),
        "bits": round(bits(counts.values()), 4),
        "low_information": sum(deviation[key] < low_information for key in keys),
        "near_duplicates": near_duplicates(np.asarray(hashed, np.uint64), distance),
        "counts": dict(sorted(counts.items())),
    }
