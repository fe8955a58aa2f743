"""The rows of open Arrow and Parquet files as samples."""

from __future__ import annotations

import os
from bisect import bisect_right
from collections.abc import Iterator
from typing import Any

import pyarrow as pa

from data.corpus.base import Sample, key_of_path
from data.corpus.folder import MAX_FILE_BYTES
from data.corpus.sharded import git10m
from data.corpus.sharded.columns import Layout
from data.corpus.sharded.opened import ERRORS, ArrowTable, ParquetTable, Table, damage_of
from data.corpus.sharded.shards import once_a_file


@once_a_file
def open_table(path: str, kind: str) -> Table:
    """The open shard at `path`; kept, with a few others, until they are pushed out."""
    return ArrowTable(path) if kind == "arrow" else ParquetTable(path)


def has_levels(table: Table, column: str) -> bool:
    """Whether the first text of a shard, empty ones apart, is of Git-10M's early schema."""
    try:
        texts = _texts(table.chunk(0, [column])[column]) if table.rows else []
        return git10m.has_level(next(filter(None, texts), ""))
    except ERRORS:
        return False


def read_rows(
    table: Table, shard: str, layout: Layout | None, start: int, stop: int
) -> Iterator[Sample]:
    """Rows [start, stop) of an open shard; the row after the last one stands for what is lost."""
    row = start
    while row < min(stop, table.rows) and layout is not None:
        index = bisect_right(table.ends, row)
        first = table.ends[index - 1] if index else 0
        until = min(stop, table.ends[index], row + table.piece(index))
        try:
            part = table.slice(index, row - first, until - row, layout.columns)
            samples = list(_samples(part, shard, layout, row))
        except ERRORS as error:
            why = ("damaged-shard", damage_of(table.path, error))
            samples = [Sample(f"{shard}#{i}", shard, i, None, why) for i in range(row, until)]
        yield from samples
        row = until
    if row < stop:
        yield Sample(f"{shard}#{row}", shard, row, None, table.damage or _GONE)


_GONE = ("damaged-shard", "fewer rows than when it was listed")


def _samples(
    part: pa.RecordBatch | pa.Table, shard: str, layout: Layout, first: int
) -> Iterator[Sample]:
    images, paths = _images(part[layout.image])
    keys = paths if layout.by_path else [""] * len(images)
    if layout.key is not None:
        keys = _texts(part[layout.key])
    qualities = _plain(part, layout.quality)
    locations, texts = _plain(part, layout.location), _plain(part, layout.text)
    for i, data in enumerate(images):
        key = key_of_path(keys[i]) if keys[i] else f"{shard}#{first + i}"
        error = None
        if data is None:
            path = f", only a path to '{key_of_path(paths[i])}'" if paths[i] else ""
            error = ("no-image", f"no bytes in column '{layout.image}'{path}")
        elif len(data) > MAX_FILE_BYTES:
            error = ("too-large", f"{len(data):,} bytes, limit {MAX_FILE_BYTES:,}")
        resolution = git10m.resolution_of_location(locations[i])
        if layout.text is not None:
            resolution = git10m.resolution_of_text(texts[i])
        yield Sample(
            key, shard, first + i, None if error else data, error,
            name=key_of_path(paths[i]) if paths[i] else None,
            quality=git10m.score(qualities[i]), resolution_m=resolution,
        )  # fmt: skip


def _images(column: Any) -> tuple[list[bytes | None], list[str]]:
    """Encoded bytes and, where the column has them, file names."""
    data: list[bytes | None] = []
    paths: list[str] = []
    for chunk in map(_decoded, _chunks(column)):
        if not pa.types.is_struct(chunk.type):
            data += _bytes(chunk)
            paths += [""] * len(chunk)
            continue
        fields = dict(zip((field.name for field in chunk.type), chunk.flatten(), strict=True))
        data += _bytes(_decoded(fields["bytes"]))
        path = fields.get("path")
        has_paths = path is not None and _is_text(path.type)
        paths += _texts(path) if has_paths else [""] * len(chunk)
    return data, paths


def _bytes(array: pa.Array) -> list[bytes | None]:
    array.validate(full=True)  # offsets of a damaged file would lead anywhere in memory
    return array.to_pylist()


def _texts(column: Any) -> list[str]:
    """Values as text, '' for null; bytes that are no UTF-8 as `os` carries them."""
    texts: list[str] = []
    for array in map(_decoded, _chunks(column)):
        if not _is_text(array.type):
            texts += [_text(value) for value in array.to_pylist()]
            continue
        raw = array.cast(pa.binary() if pa.types.is_string(array.type) else pa.large_binary())
        texts += [os.fsdecode(value or b"") for value in _bytes(raw)]
    return texts


def _text(value: Any) -> str:
    if isinstance(value, bytes):
        return os.fsdecode(value)
    return "" if value is None else str(value)


def _plain(part: Any, name: str | None) -> list[Any]:
    if name is None:
        return [None] * len(part)
    kind = part.schema.field(name).type
    return _texts(part[name]) if _is_text(kind) else part[name].to_pylist()


def _chunks(column: Any) -> list[pa.Array]:
    return column.chunks if isinstance(column, pa.ChunkedArray) else [column]


def _decoded(array: pa.Array) -> pa.Array:
    return array.dictionary_decode() if pa.types.is_dictionary(array.type) else array


def _is_text(kind: pa.DataType) -> bool:
    kinds = pa.types
    return kinds.is_string(kind) or kinds.is_large_string(kind) or kinds.is_string_view(kind)
