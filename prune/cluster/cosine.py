"""Cosines of many rows with a few directions, in blocks: the nearest centroid (Eq. 4).

For unit rows z [n, d] and unit directions mu [K, d], z @ mu.T holds all cosines. It is made a block
of rows at a time, into one buffer, and reduced before the next block comes. Blocks are of a fixed
size and in a fixed order, so the same input gives the same bytes.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from core.errors import UserError
from data.formats.embeddings import squared_norms, upcast
from prune.cluster.features import Floats, Source
from prune.cluster.whitening import Whitening

CHUNK = 4096  # rows: 4096 x 1024 float32 is 16 MiB, and the cosines for K = 200 are 3 MiB
ROWS = 256  # float16 rows: their float32 copy stays in the cache between upcast and product


def cosines(units: Floats, columns: Floats, size: int = CHUNK) -> Iterator[tuple[slice, Floats]]:
    """(rows, units[rows] @ columns) for blocks of `size` rows of `units` [n, d].

    `columns` [d, K] are directions, transposed. The product lies in a buffer that is used again.
    """
    out = np.empty((min(size, len(units)), columns.shape[1]), np.float32)
    for start in range(0, len(units), size):
        rows = slice(start, min(start + size, len(units)))
        yield rows, np.matmul(units[rows], columns, out=out[: rows.stop - start])


def product(units: Floats, few: Floats) -> Floats:
    """Cosines [n, m] of units [n, d] with a few rows [m, d]."""
    out = np.empty((len(units), len(few)), np.float32)
    for rows, found in cosines(units, np.ascontiguousarray(few.T)):
        out[rows] = found
    return out


def nearest(units: Floats, centroids: Floats) -> tuple[NDArray[np.int32], Floats]:
    """The nearest centroid of each row by cosine, and that cosine.

    Args:
        units: [n, d] float32 unit rows.
        centroids: [K, d] float32 unit rows.

    Returns labels [n] int32 (ties: the lower cluster) and cosines [n] float32.
    """
    labels, similarities = np.empty(len(units), np.int32), np.empty(len(units), np.float32)
    for rows, found in cosines(units, np.ascontiguousarray(centroids.T)):
        labels[rows], similarities[rows] = _highest(found)
    return labels, similarities


def nearest_of(source: Source, centroids: Floats) -> tuple[NDArray[np.int32], Floats]:
    """`nearest` of all rows of a source, which is read a block at a time."""
    labels, similarities = np.empty(source.rows, np.int32), np.empty(source.rows, np.float32)
    for rows, units in source.blocks(CHUNK):
        labels[rows], similarities[rows] = nearest(units, centroids)
    return labels, similarities


def _highest(found: Floats) -> tuple[NDArray[np.int64], Floats]:
    """The column of the highest number of each row (of equal ones the first), and that number."""
    best = found.argmax(axis=1)
    return best, found[np.arange(len(found)), best]


class Nearest:
    """Finds nearest centroids of stored embeddings, in buffers that are used again.

    Args:
        centroids: [K, d] float32, unit rows; [K, D] with a whitening.
        ram: bytes for the buffers.
        whitening: map from embeddings [d] to the space [D] of the centroids, if any.
        tolerance: how far from 1 the length of an embedding may be; any length by default.
    """

    def __init__(
        self,
        centroids: Floats,
        ram: float = 1 << 30,
        whitening: Whitening | None = None,
        tolerance: float = float("inf"),
    ) -> None:
        self._tolerance = tolerance
        clusters, dim = centroids.shape
        self.clusters = clusters
        a_row, fixed = 4 * (dim + clusters), centroids.nbytes
        if whitening is not None:
            fixed += whitening.matrix.nbytes
            dim = len(whitening.mean)
            a_row += 4 * dim
        rows = min(ROWS, int((ram - fixed) // a_row))
        if rows < 1:
            raise UserError(
                f"--ram {ram / 2**30:.3g}: {clusters} centroids of {dim} numbers need at least "
                f"{(fixed + a_row) / 2**30:.3g} GiB"
            )
        self._whitening = whitening
        if whitening is not None:
            self._projected = np.empty((rows, whitening.dims), np.float32)
        self._transposed = np.ascontiguousarray(centroids.T)
        self._wide = np.empty((rows, dim), np.float32)
        self._scores = np.empty((rows, clusters), np.float32)

    def __call__(self, part: NDArray[np.float16]) -> tuple[NDArray[np.int32], Floats, int]:
        """Assign the rows of `part` [n, d] float16.

        Returns clusters [n] int32 (ties: the lower), cosines [n] float32 in [-1, 1], and the
        first row that is zero, not finite or of another length than it should be, or -1.
        """
        clusters = np.empty(len(part), np.int32)
        similarities = np.empty(len(part), np.float32)
        for start in range(0, len(part), len(self._wide)):
            block = part[start : start + len(self._wide)]
            rows = slice(start, start + len(block))
            wide, scores = self._wide[: len(block)], self._scores[: len(block)]
            upcast(block, wide)
            squares = squared_norms(wide)
            sound = (squares > 0) & (squares < 65536.0)  # above: infinity or NaN
            sound &= np.abs(np.sqrt(squares) - 1) <= self._tolerance
            bad = np.flatnonzero(~sound)
            if bad.size:
                return clusters, similarities, start + int(bad[0])
            if self._whitening is not None:
                wide /= np.sqrt(squares)[:, None]
                wide = self._whitening.project(wide, self._projected[: len(block)])
                squares = np.einsum("ij,ij->i", wide, wide)
                # The reference's mean itself has no direction: similarity 0 to every centroid.
                np.maximum(squares, np.finfo(np.float32).tiny, out=squares)
            np.matmul(wide, self._transposed, out=scores)
            clusters[rows], best = _highest(scores)
            similarities[rows] = np.clip(best / np.sqrt(squares), -1.0, 1.0)
        return clusters, similarities, -1
