"""Open Arrow and Parquet files: their rows as samples.

Arrow files (Hugging Face datasets keeps IPC streams; IPC files are read too) are mapped into
memory, so that only the rows asked for are read from the disk. Of a truncated file the
record batches before the cut are read and what is lost is one more row, rejected. Parquet keeps
its index at the end: truncated, nothing of it can be read. Its unit of reading is the row group,
and one or two of them are held at a time.
"""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from bisect import bisect_right
from collections.abc import Iterator
from itertools import accumulate
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from data.corpus import git10m
from data.corpus.base import Sample, key_of_path
from data.corpus.columns import Layout
from data.corpus.folder import MAX_FILE_BYTES
from data.corpus.shards import once_a_file

PIECE = 32  # rows taken out of Arrow's memory at a time
END_OF_STREAM = b"\xff\xff\xff\xff\0\0\0\0"
_ERRORS = (pa.ArrowException, OSError, ValueError)  # what pyarrow raises for damaged bytes


class Table(ABC):
    """An open shard: rows in chunks (record batches or row groups)."""

    def __init__(self) -> None:
        self.schema: pa.Schema | None = None
        self.damage: tuple[str, str] | None = None
        """Why there are no more rows than these; None when the file is complete."""
        self.ends: list[int] = []
        """Rows up to the end of each chunk."""

    @property
    def rows(self) -> int:
        return self.ends[-1] if self.ends else 0

    @abstractmethod
    def chunk(self, index: int, columns: list[str]) -> pa.RecordBatch | pa.Table:
        """Some columns of one chunk."""

    def close(self) -> None:  # noqa: B027 (nothing to close in general)
        """Let go of the file."""


class ArrowTable(Table):
    """An Arrow IPC stream or file, mapped."""

    def __init__(self, path: str) -> None:
        super().__init__()
        self.batches: list[pa.RecordBatch] = []
        try:
            source = pa.memory_map(path)
        except _ERRORS as error:
            self.damage = _unopened(path, error)
            return
        try:
            is_file = source.read(8).startswith(b"ARROW1")
            if not (is_file and self._read_file(source)):
                source.seek(8 if is_file else 0)
                self._read_stream(source)
        except _ERRORS as error:
            detail = f"{_first_line(error)} after {sum(map(len, self.batches)):,} rows: cut short"
            self.damage = ("damaged-shard", detail)
        self.ends = list(accumulate(len(batch) for batch in self.batches))

    def _read_file(self, source: pa.MemoryMappedFile) -> bool:
        try:
            reader = pa.ipc.open_file(source)
            batches = [reader.get_batch(i) for i in range(reader.num_record_batches)]
        except _ERRORS:
            return False  # the footer is lost; the stream before it may not be
        self.schema, self.batches = reader.schema, batches
        return True

    def _read_stream(self, source: pa.MemoryMappedFile) -> None:
        reader = pa.ipc.open_stream(source)
        self.schema = reader.schema
        for batch in reader:
            self.batches.append(batch)
        source.seek(max(0, source.tell() - len(END_OF_STREAM)))
        if source.read(len(END_OF_STREAM)) != END_OF_STREAM:
            raise ValueError("no end mark")

    def chunk(self, index: int, columns: list[str]) -> pa.RecordBatch:
        return self.batches[index].select(columns)


class ParquetTable(Table):
    """A Parquet file; the last row group read is kept."""

    def __init__(self, path: str) -> None:
        super().__init__()
        self._last: tuple[int, list[str], pa.Table] | None = None
        try:
            self._file = pq.ParquetFile(path, memory_map=True)
        except _ERRORS as error:
            self.damage = _unopened(path, error)
            return
        self.schema = self._file.schema_arrow
        metadata = self._file.metadata
        groups = (metadata.row_group(i).num_rows for i in range(metadata.num_row_groups))
        self.ends = list(accumulate(groups))

    def chunk(self, index: int, columns: list[str]) -> pa.Table:
        if self._last is None or self._last[:2] != (index, columns):
            self._last = None  # before the next one is read, not after
            self._last = index, columns, self._file.read_row_group(index, columns=columns)
        return self._last[2]


def _unopened(path: str, error: Exception) -> tuple[str, str]:
    try:
        size = Path(path).stat().st_size
    except OSError as why:
        return "unreadable", why.strerror or str(why)
    detail = "zero bytes" if not size else f"cannot be opened ({_first_line(error)}): cut short?"
    return "damaged-shard", detail


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:160]


@once_a_file
def open_table(path: str, kind: str) -> Table:
    """The open shard at `path`; kept, with a few others, until they are pushed out."""
    return ArrowTable(path) if kind == "arrow" else ParquetTable(path)


def has_levels(table: Table, column: str) -> bool:
    """Whether the first text of a shard is of Git-10M's early schema."""
    try:
        return bool(table.rows) and git10m.has_level(_texts(table.chunk(0, [column])[column])[0])
    except _ERRORS:
        return False


def read_rows(
    table: Table, shard: str, layout: Layout | None, start: int, stop: int
) -> Iterator[Sample]:
    """Rows [start, stop) of an open shard; the row after the last one stands for what is lost."""
    row = start
    while row < min(stop, table.rows) and layout is not None:
        index = bisect_right(table.ends, row)
        first = table.ends[index - 1] if index else 0
        until = min(stop, table.ends[index], row + PIECE)
        try:
            part = table.chunk(index, layout.columns).slice(row - first, until - row)
            samples = list(_samples(part, shard, layout, row))
        except _ERRORS as error:
            why = ("damaged-shard", _first_line(error))
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
    for chunk in _chunks(column):
        if not pa.types.is_struct(chunk.type):
            data += _bytes(chunk)
            paths += [""] * len(chunk)
            continue
        fields = dict(zip((field.name for field in chunk.type), chunk.flatten(), strict=True))
        data += _bytes(fields["bytes"])
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
    for chunk in _chunks(column):
        array = chunk.dictionary_decode() if pa.types.is_dictionary(chunk.type) else chunk
        if not _is_text(array.type):
            texts += [_text(value) for value in array.to_pylist()]
            continue
        raw = array.cast(pa.large_binary() if _is_large(array.type) else pa.binary())
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


def _is_text(kind: pa.DataType) -> bool:
    return pa.types.is_string(kind) or pa.types.is_large_string(kind)


def _is_large(kind: pa.DataType) -> bool:
    return pa.types.is_large_string(kind)
