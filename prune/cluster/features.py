"""Features of chosen images, read from embeddings of any size without holding them in memory.

A method that compares images with each other needs the embedding of each row of a table, in
that table's order, and twice: once in sequence and again here and there. The rows stay in their
memory-mapped parts; only what is asked for becomes float32.
"""

from __future__ import annotations

import copy
import functools
import itertools
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from core.errors import UserError
from data.formats.embeddings import Embeddings, array_path, open_array
from data.formats.join import rows_of
from data.formats.tables import count_rows, part_paths

BLOCK = 4096  # rows that become float32 at a time
OPEN = 64  # parts held open at a time: each takes a file descriptor

Floats = NDArray[np.float32]


def unit_rows(points: NDArray[np.floating], names: Sequence[str] | None = None) -> Floats:
    """A float32 copy of `points` [N, d] with rows of length one.

    Raises UserError naming the first row (by `names` where given) that is zero or not finite.
    """
    points = np.asarray(points)
    if points.ndim != 2:
        raise ValueError(f"expected points of shape [N, d], got {points.shape}")
    units = np.array(points, dtype=np.float32, order="C")
    lengths = np.sqrt(np.einsum("ij,ij->i", units, units, dtype=np.float64))
    bad = np.flatnonzero(~(np.isfinite(lengths) & (lengths > 0)))
    if bad.size:
        row = int(bad[0])
        what = "zero" if lengths[row] == 0 else "not finite"
        name = f" ({names[row]})" if names is not None else ""
        more = f", and {bad.size - 1:,} more" if bad.size > 1 else ""
        raise UserError(
            f"row {row}{name} of the embeddings is {what}{more}: it has no direction on the unit "
            "sphere; make the embeddings again"
        )
    units /= lengths[:, None].astype(np.float32)
    return units


class Source(ABC):
    """Unit rows that are read a few at a time.

    Attributes:
        rows, dim: their shape [n, d].
    """

    rows: int
    dim: int

    @abstractmethod
    def take(self, rows: NDArray[np.int64]) -> Floats:
        """The given rows [m], float32 [m, d] of length one, in the given order."""

    @abstractmethod
    def subset(self, rows: NDArray[np.int64]) -> Source:
        """A source of the given rows alone."""

    def blocks(self, size: int = BLOCK) -> Iterator[tuple[NDArray[np.int64], Floats]]:
        """All rows in order, a block at a time: (where they are, float32 unit rows)."""
        for start in range(0, self.rows, size):
            rows = np.arange(start, min(start + size, self.rows))
            yield rows, self.take(rows)

    def sample(self, count: int, seed: int) -> Floats:
        """A uniform sample of at most `count` rows without replacement, in order."""
        if count >= self.rows:
            rows = np.arange(self.rows)
        else:
            rows = np.sort(np.random.default_rng([seed, 0]).choice(self.rows, count, replace=False))
        return self.take(rows)


class Held(Source):
    """Unit rows in memory: float32 [n, d], made so by the caller."""

    def __init__(self, units: Floats) -> None:
        self._units = units
        self.rows, self.dim = units.shape

    def take(self, rows: NDArray[np.int64]) -> Floats:
        return self._units[rows]

    def blocks(self, size: int = BLOCK) -> Iterator[tuple[NDArray[np.int64], Floats]]:
        for start in range(0, self.rows, size):  # not copied
            units = self._units[start : start + size]
            yield np.arange(start, start + len(units)), units

    def subset(self, rows: NDArray[np.int64]) -> Held:
        return Held(self._units[rows])


class Projected(Source):
    """The rows of another source under a map [m, d] -> [m, D], normalised again."""

    def __init__(self, source: Source, project: Callable[[Floats], Floats], dim: int) -> None:
        self._source, self._project = source, project
        self.rows, self.dim = source.rows, dim

    def take(self, rows: NDArray[np.int64]) -> Floats:
        return unit_rows(self._project(self._source.take(rows)))

    def subset(self, rows: NDArray[np.int64]) -> Projected:
        return Projected(self._source.subset(rows), self._project, self.dim)


class Features(Source):
    """Unit rows of embeddings, in the order of a table of images.

    Args:
        folder: embeddings made by prune.embed.
        images: [n] rows with key, shard and row; None: all rows of the embeddings, in order.
        what: what `images` are, for the error message.

    Raises UserError when images are missing from the embeddings or lie elsewhere in the corpus.

    Attributes:
        rows, dim: their shape [n, d].
        embeddings: where they come from.
    """

    def __init__(
        self, folder: Path | str, images: pa.Table | None = None, what: str = "images of the pool"
    ) -> None:
        self.embeddings = Embeddings(folder)
        self.dim = self.embeddings.dim
        paths = part_paths(folder)
        counts = [count_rows(path) for path in paths]
        self._starts = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
        if images is None:
            self._at = np.arange(self._starts[-1], dtype=np.int64)
        else:
            self._at = _join(self.embeddings, images, what)
        self.rows = len(self._at)
        self._part = functools.lru_cache(maxsize=OPEN)(self._open)

    def _open(self, index: int) -> NDArray[np.float16]:
        rows = int(self._starts[index + 1] - self._starts[index])
        return open_array(array_path(self.embeddings.folder, index), rows, self.dim)

    def stored(self, rows: NDArray[np.int64]) -> NDArray[np.float16]:
        """The given rows [m] as they are stored, float16 [m, d], in the given order."""
        at = self._at[rows]
        out = np.empty((len(at), self.dim), np.float16)
        if not len(at):
            return out
        order = np.argsort(at, kind="stable")
        in_order = at[order]
        index = np.searchsorted(self._starts, in_order, side="right") - 1
        bounds = np.flatnonzero(np.concatenate([[True], index[1:] != index[:-1], [True]]))
        for first, last in itertools.pairwise(bounds):
            part = int(index[first])
            wanted = in_order[first:last] - self._starts[part]
            out[order[first:last]] = self._part(part)[wanted]
        return out

    def take(self, rows: NDArray[np.int64]) -> Floats:
        """The given rows [m], float32 [m, d], each divided by its own length.

        Raises UserError for a row that is zero or not finite.
        """
        found = self.stored(rows).astype(np.float32)
        lengths = np.sqrt(np.einsum("ij,ij->i", found, found))
        bad = np.flatnonzero(~(np.isfinite(lengths) & (lengths > 0)))
        if bad.size:
            raise UserError(
                f"{self.embeddings.folder}: row {int(self._at[rows[bad[0]]])} is zero or not "
                "finite; embed this corpus again"
            )
        found /= lengths[:, None]
        return found

    def subset(self, rows: NDArray[np.int64]) -> Features:
        other = copy.copy(self)
        other._at = self._at[rows]
        other.rows = len(other._at)
        return other


def _join(embeddings: Embeddings, images: pa.Table, what: str) -> NDArray[np.int64]:
    """For each image the row of the embeddings that is its own."""
    folder = embeddings.folder
    return rows_of(
        images,
        embeddings.table(["key", "shard", "row"]),
        str(folder),
        lambda count, example: (
            f"{folder}: {count:,} of the {images.num_rows:,} {what} have no embedding there, for "
            f"example '{example}'; this method looks at all of them, not only at what Stage I "
            "keeps: python -m prune.embed --keep 1"
        ),
    )
