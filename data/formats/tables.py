"""Tables of parts: a folder of part-00000.parquet, part-00001.parquet, ..., one a shard.

The score table (`python -m prune.score`) has the columns of SCORES; assignments use the same
folder layout with columns of their own.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from core.atomic import atomic_path
from core.errors import UserError
from core.parallel import available_cpus

SCORES = pa.schema(
    [
        pa.field("key", pa.string(), nullable=False),  # stable, unique name in the corpus
        pa.field("shard", pa.string(), nullable=False),
        pa.field("row", pa.int64(), nullable=False),  # place in the shard
        pa.field("digest", pa.string()),  # hex SHA-256 of the encoded bytes; null: unreadable
        pa.field("bytes", pa.int64(), nullable=False),  # of the encoded image
        pa.field("width", pa.int32()),  # pixels; null: could not be told
        pa.field("height", pa.int32()),
        pa.field("entropy", pa.float64()),  # bits in [0, 8]; null: rejected
        pa.field("status", pa.string(), nullable=False),  # 'ok' or 'rejected'
        pa.field("reason", pa.string(), nullable=False),  # '' or why it was rejected
        pa.field("detail", pa.string(), nullable=False),  # one line; for 'ok' a note, or ''
    ]
)

EXTRAS = {
    # of the corpus itself, where it has them
    "quality": pa.field("quality", pa.float64()),  # its own quality score
    "resolution_m": pa.field("resolution_m", pa.float64()),  # metres a pixel
    # of chips cut from larger rasters
    "date": pa.field("date", pa.string()),  # of acquisition, YYYY-MM-DD
    "window": pa.field("window", pa.list_(pa.int32())),  # x, y, width, height in its raster
    "crs": pa.field("crs", pa.string()),  # 'EPSG:26914', or WKT
    "bounds": pa.field("bounds", pa.list_(pa.float64())),  # left, bottom, right, top in that CRS
    # of `prune.score --statistics`
    "bands": pa.field("bands", pa.int32()),  # 1: grey, 3: colour, 4: with near infrared
    "clipped": pa.field("clipped", pa.float64()),  # share of pixels whose grey is 0 or 255
}
"""Further columns of a score table; all are nullable and come after those of SCORES."""


def scores_schema(extras: Sequence[str] = ()) -> pa.Schema:
    """SCORES with some of EXTRAS after it."""
    return pa.schema([*SCORES, *(EXTRAS[name] for name in extras)])


_UNIQUE = ("key", "digest")
_PART = re.compile(r"part-(\d{5,})\.parquet")


def part_path(folder: Path | str, number: int) -> Path:
    """Where part `number` (from 0) of a table lives."""
    return Path(folder) / f"part-{number:05d}.parquet"


def write_part(
    folder: Path | str,
    number: int,
    table: pa.Table | Mapping[str, Sequence[Any]],
    schema: pa.Schema | None = None,
) -> Path:
    """Write one part atomically; the same table gives the same bytes. Returns its path.

    Args:
        folder: the table's folder.
        number: the part's number, from 0.
        table: the rows, as a pyarrow Table or as columns.
        schema: names, types and order of the columns; needed when `table` is columns.
    """
    if not isinstance(table, pa.Table):
        table = pa.table(dict(table), schema=schema)
    elif schema is not None:
        table = table.select(schema.names).cast(schema)
    path = part_path(folder, number)
    # A dictionary of values that do not repeat costs time and space.
    repeating = [f.name for f in table.schema if f.type == pa.string() and f.name not in _UNIQUE]
    with atomic_path(path) as temporary:
        pq.write_table(table, temporary, compression="zstd", use_dictionary=repeating)
    return path


def write_table(path: Path | str, table: pa.Table) -> None:
    """Write a table that is a file of its own atomically, such as a hold-out."""
    with atomic_path(path) as temporary:
        pq.write_table(table, temporary, compression="zstd")


def part_paths(folder: Path | str) -> list[Path]:
    """The parts of a table in order.

    Raises UserError when there is none, or when one is missing in between.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder; expected a folder of part-00000.parquet files")
    found = {int(m[1]): p for p in folder.iterdir() if (m := _PART.fullmatch(p.name))}
    if not found:
        raise UserError(f"{folder}: no part-00000.parquet in it; not a finished table")
    missing = sorted(set(range(max(found) + 1)) - set(found))
    if missing:
        raise UserError(f"{part_path(folder, missing[0])}: missing; run the command that makes it")
    return [found[number] for number in sorted(found)]


def count_rows(path: Path) -> int:
    """Rows of a part, by its footer alone. Raises UserError when it is damaged."""
    try:
        return pq.read_metadata(path).num_rows
    except (pa.ArrowException, OSError) as error:
        raise _damaged(path, error) from None


def _damaged(path: Path, error: Exception) -> UserError:
    why = (str(error).splitlines() or [type(error).__name__])[0]
    return UserError(f"{path}: damaged ({why}); delete it and run its command again")


def read_part(
    path: Path, columns: Sequence[str] | None = None, dictionary: Sequence[str] = ()
) -> pa.Table:
    """One part. Raises UserError when it is damaged or lacks a column.

    Text columns named in `dictionary` come dictionary-encoded (codes and distinct values).
    """
    try:
        with pq.ParquetFile(path, read_dictionary=list(dictionary)) as file:
            names = file.schema_arrow.names
            lacking = [name for name in columns or () if name not in names]
            if lacking:
                raise UserError(f"{path}: no column '{lacking[0]}' (it has {', '.join(names)})")
            wanted = None if columns is None else list(columns)
            # Parts are small: a thread for each column costs more than it gives.
            return file.read(columns=wanted, use_threads=False)
    except KeyError:  # a column to be dictionary-encoded
        names = pq.read_schema(path).names
        lacking = [name for name in dictionary if name not in names]
        raise UserError(f"{path}: no column '{lacking[0]}' (it has {', '.join(names)})") from None
    except (pa.ArrowException, OSError) as error:
        raise _damaged(path, error) from None


def read_parts(
    folder: Path | str,
    columns: Sequence[str] | None = None,
    dictionary: Sequence[str] = (),
    each: Callable[[pa.Table], pa.Table] | None = None,
    chunked: bool = False,
) -> pa.Table:
    """All parts of a table in part order, in one chunk a column.

    Args:
        folder: the table's folder.
        columns: the columns to read; all by default.
        dictionary: text columns that are to come dictionary-encoded: with few distinct values
            over millions of rows, such as 'shard', that is faster and smaller.
        each: what to make of each part as it is read, in threads: its columns and rows may be
            fewer.
        chunked: leave a chunk for each part, which saves a copy.

    Raises UserError for a missing folder, a missing or damaged part, or a missing column.
    """
    paths = part_paths(folder)

    def part(path: Path) -> pa.Table:
        table = read_part(path, columns, dictionary)
        return table if each is None else each(table)

    with ThreadPoolExecutor(min(len(paths), available_cpus())) as threads:
        tables = list(threads.map(part, paths))
    whole = pa.concat_tables(tables)
    if dictionary:
        whole = whole.unify_dictionaries()
    return whole if chunked else whole.combine_chunks()
