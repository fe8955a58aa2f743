"""Tables of parts: a folder of part-00000.parquet, part-00001.parquet, ..., one a shard.

Score tables (data.formats.scores), embeddings' names and assignments are kept so.
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

_UNIQUE = ("key", "digest")
_PART = re.compile(r"part-(\d{5,})\.parquet")


def part_path(folder: Path | str, index: int) -> Path:
    """Where part `index` (from 0) of a table lives."""
    return Path(folder) / f"part-{index:05d}.parquet"


def write_part(
    folder: Path | str,
    index: int,
    table: pa.Table | Mapping[str, Sequence[Any]],
    schema: pa.Schema | None = None,
) -> Path:
    """Write one part atomically; the same table gives the same bytes. Returns its path.

    Args:
        folder: the table's folder.
        index: the part's index, from 0.
        table: the rows, as a pyarrow Table or as columns.
        schema: names, types and order of the columns; needed when `table` is columns.
    """
    if not isinstance(table, pa.Table):
        table = pa.table(dict(table), schema=schema)
    elif schema is not None:
        table = table.select(schema.names).cast(schema)
    path = part_path(folder, index)
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
    return [found[index] for index in sorted(found)]


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
    table = pa.concat_tables(tables)
    if dictionary:
        table = table.unify_dictionaries()
    return table if chunked else table.combine_chunks()
