"""Whitening: a linear map under which the reference embeddings vary alike in every direction.

Spherical k-means compares directions. Where all embeddings share a large common part (hand-made
descriptors: cosines of 0.9 between any two images), their directions hardly differ and the
centroids follow what little is left of the largest variance. For unit rows z of the reference
with mean m and covariance C = V diag(l) V^T, l in descending order,

    w = (z - m) V_D diag(l_D)^(-1/2),    then w / |w|,

takes the common part away and weighs the D strongest directions equally.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from core.atomic import atomic_path
from core.errors import UserError

CHUNK = 4096  # rows widened to float64 at a time
FLAT = 1e-10  # variance, as a fraction of the largest, below which a direction is rounding alone
MEAN, MATRIX = "whitening_mean.npy", "whitening_matrix.npy"

Floats = NDArray[np.float32]


@dataclass(frozen=True)
class Whitening:
    """The map of one reference set.

    Attributes:
        mean: [d] float32, mean of the reference's unit rows.
        matrix: [d, D] float32, its D principal directions, each over the root of its variance
            (or as they are: a PCA, `prune.centroids --reduce`).
            The entry of largest magnitude in a column is positive.
    """

    mean: Floats
    matrix: Floats

    @property
    def dims(self) -> int:
        """D, the width of a whitened row."""
        return int(self.matrix.shape[1])

    def project(self, rows: Floats, out: Floats) -> Floats:
        """Write the whitened `rows` [n, d], unit rows that this overwrites, to `out` [n, D].

        The rows of `out` are not normalised.
        """
        np.subtract(rows, self.mean, out=rows)
        return np.matmul(rows, self.matrix, out=out)

    def __call__(self, rows: NDArray[np.floating]) -> Floats:
        """Whitened rows [n, D] of unit rows [n, d], not normalised."""
        out = np.empty((len(rows), self.dims), np.float32)
        for start in range(0, len(rows), CHUNK):
            block = np.array(rows[start : start + CHUNK], np.float32)
            self.project(block, out[start : start + CHUNK])
        return out


def fit_whitening(reference: Floats, dims: int, scaled: bool = True) -> Whitening:
    """The whitening of `reference` [n, d] (unit rows) to `dims` directions.

    Without `scaled`, the directions keep their variances: the PCA alone.

    A pure function of the rows. Raises UserError when n rows of width d do not vary in `dims`
    directions.
    """
    n, d = reference.shape
    flag = "whiten" if scaled else "reduce"
    if not 1 <= dims <= min(d, n - 1):
        raise UserError(
            f"--{flag} {dims}: {n:,} embeddings of {d} numbers vary in at most "
            f"{max(0, min(d, n - 1))} directions; take fewer, or 0 for embeddings as they are"
        )
    mean = sum((b.sum(axis=0) for b in _double(reference)), np.zeros(d)) / n
    covariance = np.zeros((d, d))
    for block in _double(reference):
        block -= mean
        covariance += block.T @ block
    variances, directions = np.linalg.eigh(covariance / n)
    variances, directions = variances[::-1][:dims], directions[:, ::-1][:, :dims]
    real = int(np.count_nonzero(variances > FLAT * variances[0]))
    if real < dims:
        raise UserError(f"--{flag} {dims}: the embeddings vary in {real} directions only")
    largest = directions[np.abs(directions).argmax(axis=0), np.arange(dims)]
    matrix = directions * np.sign(largest)
    if scaled:
        matrix /= np.sqrt(variances)
    return Whitening(mean.astype(np.float32), np.ascontiguousarray(matrix, np.float32))


def _double(rows: Floats) -> Iterator[NDArray[np.float64]]:
    for start in range(0, len(rows), CHUNK):
        yield rows[start : start + CHUNK].astype(np.float64)


def write_whitening(folder: Path, whitening: Whitening) -> list[str]:
    """Write the map to `folder`. Returns the names of its files."""
    for name, array in ((MEAN, whitening.mean), (MATRIX, whitening.matrix)):
        with atomic_path(folder / name) as temporary, open(temporary, "wb") as stream:
            np.save(stream, array)
    return [MEAN, MATRIX]


def read_whitening(folder: Path, dims: int) -> Whitening:
    """Read the map that `write_whitening` wrote. Raises UserError when it is damaged."""
    arrays = []
    for name in (MEAN, MATRIX):
        try:
            arrays.append(np.load(folder / name, allow_pickle=False))
        except Exception as error:  # a damaged header is met with errors of every type
            raise UserError(
                f"{folder / name}: unreadable ({error}); make the centroids again"
            ) from None
    mean, matrix = arrays
    if mean.ndim != 1 or matrix.shape != (len(mean), dims):
        raise UserError(
            f"{folder / MATRIX}: shape {matrix.shape} with a mean of {mean.shape} is not what its "
            "manifest says; make the centroids again"
        )
    return Whitening(mean, matrix)
