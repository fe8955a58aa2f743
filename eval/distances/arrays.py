"""What every distance asks of its features, and Euclidean distances in blocks of rows."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from core.errors import UserError

BLOCK = 1 << 24
"""Numbers of a block of a matrix between two sets (128 MB in float64)."""


def checked(features: np.ndarray, name: str = "features", *, least: int = 2) -> np.ndarray:
    """Features [n, d] in float64. Raises UserError for n < `least` or non-finite values."""
    features = np.asarray(features, dtype=np.float64)
    if features.ndim != 2 or len(features) < least or not features.shape[1]:
        raise UserError(f"{name} of shape {features.shape}: need [n >= {least}, d]")
    bad = np.flatnonzero(~np.isfinite(features).all(axis=1))
    if len(bad):
        raise UserError(f"{name} of sample {bad[0]} are not finite ({len(bad)} such samples)")
    return features


def pair(
    x: np.ndarray, y: np.ndarray, *, least: int = 2, names: tuple[str, str] = ("features",) * 2
) -> tuple[np.ndarray, np.ndarray]:
    """Two sets [n, d] and [m, d], checked. Raises UserError for different dimensions too."""
    x, y = checked(x, names[0], least=least), checked(y, names[1], least=least)
    if x.shape[1] != y.shape[1]:
        raise UserError(f"feature dimensions differ: {x.shape[1]} and {y.shape[1]}")
    return x, y


def blocks(rows: int, columns: int) -> Iterator[slice]:
    """Slices of the rows of a [rows, columns] matrix that is never held as a whole."""
    size = max(1, BLOCK // max(1, columns))
    for start in range(0, rows, size):
        yield slice(start, min(start + size, rows))


def squared_distances(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """|x_i - y_j|^2 as [n, m], never below 0."""
    squares = (x**2).sum(axis=1)[:, None] + (y**2).sum(axis=1)
    return np.maximum(squares - 2.0 * (x @ y.T), 0.0)


def nearest(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """For each x_i the index of its nearest y_j, and the distance: int [n], float64 [n]."""
    index, distance = np.empty(len(x), dtype=np.intp), np.empty(len(x))
    for rows in blocks(len(x), len(y)):
        squares = squared_distances(x[rows], y)
        index[rows] = squares.argmin(axis=1)
        distance[rows] = np.sqrt(squares.min(axis=1))
    return index, distance


def neighbour_radii(x: np.ndarray, k: int, rows: np.ndarray | None = None) -> np.ndarray:
    """Distance of each x_i (or of those in `rows` only) to its k-th nearest other row.

    Raises UserError for n <= k.
    """
    if len(x) <= k:
        raise UserError(f"{len(x)} samples have no {k}-th neighbour; give more than {k}")
    rows = np.arange(len(x)) if rows is None else rows
    radii = np.empty(len(rows))
    for part in blocks(len(rows), len(x)):
        squares = squared_distances(x[rows[part]], x)
        squares[np.arange(len(squares)), rows[part]] = np.inf
        radii[part] = np.sqrt(np.partition(squares, k - 1, axis=1)[:, k - 1])
    return radii
