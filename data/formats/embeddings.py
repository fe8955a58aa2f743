"""Embeddings on disk: a folder of part-00000.npy with part-00000.parquet beside it.

`python -m prune.embed` writes them. Row i of the array belongs to row i of the table (key,
shard, row, then entropy for a corpus or label for a reference set). Rows are float16 and have
unit L2 norm up to that precision, so that a dot product is a cosine.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from core.atomic import atomic_path
from core.errors import UserError
from core.stage import read_manifest
from data.formats.tables import count_rows, part_path, part_paths, read_part, write_part

BLOCK = 256  # rows whose float32 copy stays in the cache from one step to the next
NORM_TOLERANCE = 5e-3  # of a row of float16 numbers that was normalised before rounding


def array_path(folder: Path | str, index: int) -> Path:
    """Where the array of part `index` (from 0) lives."""
    return Path(folder) / f"part-{index:05d}.npy"


def write_embeddings(
    folder: Path | str, index: int, rows: NDArray[np.float32], table: pa.Table
) -> None:
    """Write one part atomically, the array first: a table means that its array is there.

    Args:
        folder: the embeddings' folder.
        index: the part's index, from 0.
        rows: float n x d with unit rows; stored as float16.
        table: n rows that name them.
    """
    if rows.ndim != 2 or len(rows) != table.num_rows:
        raise ValueError(f"{table.num_rows} names for rows of shape {rows.shape}")
    with atomic_path(array_path(folder, index)) as temporary, open(temporary, "wb") as stream:
        np.save(stream, rows.astype(np.float16))
    write_part(folder, index, table)


def part_is_complete(folder: Path | str, index: int, dim: int) -> bool:
    """Whether array and table of a part are there, readable, of width `dim` and equally long."""
    if not part_path(folder, index).exists():
        return False
    try:
        table = read_part(part_path(folder, index), ["key"])
        open_array(array_path(folder, index), table.num_rows, dim)
    except UserError:
        return False
    return True


class Embeddings:
    """Finished embeddings. Opening reads the manifest and lists the parts, no more.

    Raises UserError when the folder is no finished output of prune.embed or lacks a part.

    Attributes:
        folder: where they are.
        dim: width d of a row.
        rows: number of rows n.
        encoder: fingerprint of the encoder (name, weights, preprocessing, libraries).
        fingerprint: the manifest's fingerprint, for stages that build on these embeddings.
    """

    def __init__(self, folder: Path | str) -> None:
        self.folder = Path(folder)
        manifest = read_manifest(self.folder)
        if manifest.get("stage") != "prune.embed":
            raise UserError(f"{folder}: made by {manifest.get('stage')}, not by prune.embed")
        summary = manifest["summary"]
        self.dim = int(summary["dim"])
        self.rows = int(summary["rows"])
        self.encoder: dict[str, Any] = summary["encoder"]
        self.fingerprint = str(manifest["fingerprint"])
        self._tables = part_paths(self.folder)
        if len(self._tables) != summary["parts"]:
            raise UserError(
                f"{folder}: {len(self._tables)} parts, its manifest says {summary['parts']}; "
                "run prune.embed again"
            )

    def __len__(self) -> int:
        return self.rows

    def parts(self) -> Iterator[tuple[NDArray[np.float16], pa.Table]]:
        """Each part as (memory-mapped float16 n x d, table of n rows), in order.

        Raises UserError when a part is damaged, of another shape, or has rows that are not of
        unit norm; also when the parts do not add up to `rows`.
        """
        seen = 0
        for index in range(len(self._tables)):
            array, table = self.part(index)
            check_norms(array, array_path(self.folder, index))
            seen += table.num_rows
            yield array, table
        self.require_all(seen)

    def part(self, index: int) -> tuple[NDArray[np.float16], pa.Table]:
        """One part as `parts` gives it, its norms unchecked. Raises UserError when damaged."""
        table = read_part(self._tables[index])
        return open_array(array_path(self.folder, index), table.num_rows, self.dim), table

    def prefetch(self, index: int) -> None:
        """Have a part read from the disk in the background; nothing happens beyond the end."""
        if index < len(self._tables):
            with contextlib.suppress(OSError), open(array_path(self.folder, index), "rb") as file:
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_WILLNEED)

    def require_all(self, seen: int) -> None:
        """Raise UserError unless `seen`, the rows found in all parts, is what was written."""
        if seen != self.rows:
            raise UserError(
                f"{self.folder}: {seen:,} rows in its parts, its manifest says {self.rows:,}; "
                "run prune.embed again"
            )

    @property
    def count(self) -> int:
        """Number of parts."""
        return len(self._tables)

    def part_sizes(self) -> list[int]:
        """Rows of each part, by its footer alone."""
        return [count_rows(path) for path in self._tables]

    def matrix(self) -> NDArray[np.float32]:
        """All rows, float32 n x d, as stored (norms are 1 within float16's precision)."""
        rows = np.empty((self.rows, self.dim), np.float32)
        start = 0
        for array, _ in self.parts():
            if start + len(array) <= self.rows:  # otherwise parts() is about to complain
                upcast(array, rows[start : start + len(array)])
            start += len(array)
        return rows

    def table(self, columns: Sequence[str] | None = None) -> pa.Table:
        """The tables of all parts, in order."""
        tables = [read_part(path, columns) for path in self._tables]
        plain = [table.replace_schema_metadata(None) for table in tables]
        return pa.concat_tables(plain).combine_chunks()


def require_same_encoder(
    first: Embeddings | Mapping[str, Any], second: Embeddings | Mapping[str, Any]
) -> None:
    """Refuse to compare features of different encoders.

    Args:
        first, second: embeddings, or encoder fingerprints (the `encoder` of a manifest).

    Raises:
        UserError: name, weights, preprocessing or width differ; the message says which. Other
            library versions only print a note, for they move features by rounding at most.
    """
    names, fingerprints = [], []
    for one in (first, second):
        names.append(str(one.folder) if isinstance(one, Embeddings) else "one of them")
        fingerprints.append(dict(one.encoder if isinstance(one, Embeddings) else one))
    a, b = fingerprints
    differing = [
        f"{key}: {a.get(key)} and {b.get(key)}"
        for key in sorted((set(a) | set(b)) - {"libraries"})
        if a.get(key) != b.get(key)
    ]
    if differing:
        raise UserError(
            f"{names[0]} and {names[1]} were made by different encoders:\n  "
            + "\n  ".join(differing)
            + "\nembed both with the same --encoder and weights"
        )
    if a.get("libraries") != b.get("libraries"):
        print(
            f"note: same encoder, other library versions: {a.get('libraries')} and "
            f"{b.get('libraries')}",
            file=sys.stderr,
        )


def open_array(path: Path, rows: int, dim: int) -> NDArray[np.float16]:
    """The array of a part, memory-mapped: float16 [rows, dim]. Raises UserError when damaged."""
    try:
        # An empty file cannot be mapped, and an array without rows has nothing to map.
        array = np.load(path, mmap_mode="r" if rows else None, allow_pickle=False)
    except FileNotFoundError:
        raise UserError(f"{path}: missing; run prune.embed again") from None
    except Exception as error:  # a damaged header is met with errors of every type
        raise UserError(f"{path}: damaged ({error}); delete it and run prune.embed again") from None
    if array.dtype != np.float16 or array.shape != (rows, dim):
        raise UserError(
            f"{path}: {array.dtype} {array.shape}, expected float16 {(rows, dim)}; "
            "delete it and run prune.embed again"
        )
    return array


def check_norms(array: NDArray[np.float16], path: Path) -> None:
    """Raise UserError, naming the first, when rows [n, d] are not of unit norm."""
    norms = np.empty(len(array), np.float32)
    wide = np.empty((min(BLOCK, len(array)), array.shape[1]), np.float32)
    for start in range(0, len(array), BLOCK):
        block = array[start : start + BLOCK]
        upcast(block, wide[: len(block)])
        norms[start : start + BLOCK] = squared_norms(wide[: len(block)])
    np.sqrt(norms, out=norms)
    wrong = np.flatnonzero(~(np.abs(norms - 1) <= NORM_TOLERANCE))  # ~ so that NaN is wrong
    if len(wrong):
        # By the usual cast, which keeps what is not finite.
        norm = np.linalg.norm(array[wrong[0]].astype(np.float32))
        raise UserError(
            f"{path}: row {wrong[0]} has norm {norm:.4g}, expected 1 "
            f"({len(wrong):,} such rows); delete the part and run prune.embed again"
        )


def squared_norms(wide: NDArray[np.float32]) -> NDArray[np.float32]:
    """[n] squared norms of rows [n, d] that `upcast` wrote; above 65536 where one is not finite."""
    return np.einsum("nd,nd->n", wide, wide)


def upcast(half: NDArray[np.float16], out: NDArray[np.float32]) -> None:
    """Write float16 numbers to `out` as float32, exactly, some five times as fast as a cast.

    The bits move to their places in a float32, where the exponent reads 112 too low; a product
    with 2^112 puts that right, for subnormal numbers too. Infinity and NaN are the exception: they
    become finite numbers of magnitude 65536 and above.
    """
    bits = out.view(np.int32)
    np.left_shift(half.view(np.int16), 13, out=bits, dtype=np.int32, casting="unsafe")
    np.bitwise_and(bits, np.int32(-0x70000001), out=bits)  # clears what the sign bit smeared
    np.multiply(out, np.float32(2.0**112), out=out)
