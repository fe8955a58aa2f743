"""Open Arrow and Parquet files: their columns, stretch by stretch.

Arrow files (Hugging Face datasets keeps IPC streams; IPC files, Feather among them, are read too)
are mapped into memory, so that only the rows asked for are read from the disk. Of a truncated file
the record batches before the cut are read, and of several that were joined all. Parquet keeps its
index at the end: truncated, nothing of it can be read. Its unit of reading is the row group, of
which one or two are held at a time, or pieces of one that is too large for that.
"""

from __future__ import annotations

import mmap
import os
from abc import ABC, abstractmethod
from collections.abc import Iterator
from itertools import accumulate
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from core.errors import UserError
from data.corpus.base import unreadable

PIECE = 32  # rows taken out of Arrow's memory at a time
WHOLE_GROUP = 1 << 28  # bytes of values; a larger row group is read piece by piece
PIECE_BYTES = 1 << 26  # of such a one, at a time
LOOKED_THROUGH = 1 << 20  # bytes up to which a Parquet file is searched for a second one
FOOTER = 1 << 28  # bytes that an IPC file's footer may have
END_OF_STREAM = b"\xff\xff\xff\xff\0\0\0\0"
ERRORS = (pa.ArrowException, OSError, ValueError, MemoryError)  # damage, and what is none
_LIMITS = (pa.ArrowNotImplementedError, pa.ArrowCapacityError)  # what pyarrow cannot do


class Table(ABC):
    """An open shard: rows in chunks (record batches or row groups)."""

    def __init__(self, path: str) -> None:
        self.path = path
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

    def piece(self, index: int) -> int:
        """How many rows of a chunk to take at a time."""
        return PIECE

    def slice(self, index: int, start: int, rows: int, columns: list[str]) -> Any:
        """Some columns of rows [start, start + rows) of one chunk."""
        return self.chunk(index, columns).slice(start, rows)


class ArrowTable(Table):
    """Arrow IPC streams or files, mapped; several that were joined are read one after the other."""

    def __init__(self, path: str) -> None:
        super().__init__(path)
        self.batches: list[pa.RecordBatch] = []
        try:
            source = pa.memory_map(path)
        except ERRORS as error:
            self.damage = _unopened(path, error)
            return
        try:
            self._read(source)
        except ERRORS as error:
            cause, rows = damage_of(path, error), sum(map(len, self.batches))
            self.damage = ("damaged-shard", f"{cause} after {rows:,} rows: cut short")
        self.ends = list(accumulate(len(batch) for batch in self.batches))

    def _read(self, source: pa.MemoryMappedFile) -> None:
        at, size = 0, source.size()
        while at < size or not at:
            source.seek(at)
            head = source.read(8)
            if head.startswith(b"FEA1"):
                raise pa.ArrowNotImplementedError("Feather V1")
            is_file, first = head.startswith(b"ARROW1"), not at
            try:
                at = self._read_stream(source, at + 8 * is_file)
                at = _after_footer(source, at, size) if is_file else at
            except ERRORS:
                if is_file and first and self._read_file(source):
                    return  # of a writer that leaves the stream's end mark out
                raise
            at = _after_zeros(source, at, size)

    def _read_file(self, source: pa.MemoryMappedFile) -> bool:
        try:
            reader = pa.ipc.open_file(source)
            batches = [reader.get_batch(i) for i in range(reader.num_record_batches)]
        except ERRORS:
            return False  # the footer is lost; the stream before it may not be
        self.schema, self.batches = reader.schema, batches
        return True

    def _read_stream(self, source: pa.MemoryMappedFile, at: int) -> int:
        """Read the stream at a place. Returns where it ends."""
        source.seek(at)
        reader = pa.ipc.open_stream(source)
        if self.schema is not None and not reader.schema.equals(self.schema):
            raise ValueError(f"at byte {at:,} another table with other columns")
        self.schema = reader.schema
        for batch in reader:
            self.batches.append(batch)
        source.seek(max(0, source.tell() - len(END_OF_STREAM)))
        if source.read(len(END_OF_STREAM)) != END_OF_STREAM:
            raise ValueError("no end mark")
        return source.tell()

    def chunk(self, index: int, columns: list[str]) -> pa.RecordBatch:
        return self.batches[index].select(columns)


def _after_footer(source: pa.MemoryMappedFile, at: int, size: int) -> int:
    """Where an IPC file ends whose footer begins at a place: length and magic are at its end."""
    source.seek(at)
    rest = source.read(min(size - at, FOOTER))
    end = rest.find(b"ARROW1")
    if end < 4 or int.from_bytes(rest[end - 4 : end], "little") != end - 4:
        raise ValueError("no footer")
    return at + end + 6


def _after_zeros(source: pa.MemoryMappedFile, at: int, size: int) -> int:
    """Where the first byte that is no padding lies, from a place on; `size` if there is none."""
    source.seek(at)
    while at < size:
        rest = source.read(1 << 16)
        if found := rest.lstrip(b"\0"):
            return at + len(rest) - len(found)
        at += len(rest)
    return at


class ParquetTable(Table):
    """A Parquet file; the last row group read is kept, or the place in one too large for that."""

    def __init__(self, path: str) -> None:
        super().__init__(path)
        self._last: tuple[int, list[str], pa.Table] | None = None
        self._stream: _Stream | None = None
        self._pieces: dict[int, int] = {}
        try:
            self._file = pq.ParquetFile(path, memory_map=True)
        except ERRORS as error:
            self.damage = _unopened(path, error)
            return
        metadata = self._file.metadata
        groups = [metadata.row_group(i) for i in range(metadata.num_row_groups)]
        rows = [group.num_rows for group in groups]
        wrong = _joined(path, metadata)
        if min(rows, default=0) < 0 or sum(rows) != metadata.num_rows:
            wrong = f"its index says {metadata.num_rows:,} rows, its row groups {sum(rows):,}"
        if wrong:
            self.damage = ("damaged-shard", wrong)
            return
        self.schema = self._file.schema_arrow
        self.ends = list(accumulate(rows))
        for index, group in enumerate(groups):
            if group.total_byte_size > WHOLE_GROUP:
                each = group.total_byte_size // max(1, group.num_rows)
                self._pieces[index] = min(PIECE, max(1, PIECE_BYTES // max(1, each)))

    def chunk(self, index: int, columns: list[str]) -> pa.Table:
        if self._last is None or self._last[:2] != (index, columns):
            self._last = None  # before the next one is read, not after
            self._last = index, columns, self._file.read_row_group(index, columns=columns)
        return self._last[2]

    def piece(self, index: int) -> int:
        return self._pieces.get(index, PIECE)

    def slice(self, index: int, start: int, rows: int, columns: list[str]) -> Any:
        if index not in self._pieces:
            try:
                return super().slice(index, start, rows, columns)
            except _LIMITS:  # a dictionary may hide how large it is
                self._pieces[index] = 1
        try:
            return self._from_stream(index, start, rows, columns)
        except _LIMITS:
            if self._pieces[index] == 1:
                raise
            self._pieces[index], self._stream = 1, None
            return self._from_stream(index, start, rows, columns)

    def _from_stream(self, index: int, start: int, rows: int, columns: list[str]) -> pa.Table:
        stream, self._stream = self._stream, None  # kept only when all went well
        if stream is None or (stream.index, stream.columns) != (index, columns) or (
            start < stream.first
        ):  # fmt: skip
            self._last = None
            batches = self._file.iter_batches(self._pieces[index], [index], columns)
            stream = _Stream(index, columns, batches)
        found = stream.take(start, rows)
        self._stream = stream
        return found


class _Stream:
    """A row group that is read piece by piece, forwards."""

    def __init__(self, index: int, columns: list[str], batches: Iterator[pa.RecordBatch]) -> None:
        self.index, self.columns, self._batches = index, columns, batches
        self.first = 0  # row of the group that the piece at hand begins with
        self._piece: pa.RecordBatch | None = None

    def take(self, start: int, rows: int) -> pa.Table:
        """Rows [start, start + rows), none before those of the last call's end."""
        parts: list[pa.RecordBatch] = []
        while rows:
            size = 0 if self._piece is None else len(self._piece)
            if self._piece is None or start >= self.first + size:
                self.first += size
                self._piece = None  # before the next one is read, not after
                self._piece = next(self._batches, None)
                if self._piece is None:
                    raise ValueError(f"the row group has {self.first:,} rows, fewer than it states")
                continue
            parts.append(self._piece.slice(start - self.first, rows))
            start, rows = start + len(parts[-1]), rows - len(parts[-1])
        return pa.Table.from_batches(parts)


def _joined(path: str, metadata: pq.FileMetaData) -> str:
    """Why a file is several that were joined: the last one's index leads to the first one's rows.

    '' for a sound file. Looked through are small files, and those with more bytes than their
    rows and index explain. (The columns' own places would say it too, but in a damaged index
    pyarrow ends the process over them.)
    """
    size = Path(path).stat().st_size
    values = sum(metadata.row_group(i).total_byte_size for i in range(metadata.num_row_groups))
    if size > LOOKED_THROUGH and size - values - metadata.serialized_size < size // 100:
        return ""
    with (
        open(path, "rb") as stream,
        mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as view,
    ):
        at = view.find(b"PAR1PAR1") + 4
    if at < 4:
        return ""
    return (
        f"another Parquet file was joined to it at byte {at:,}, so that its rows cannot be found: "
        "cut them apart"
    )


def _unopened(path: str, error: Exception) -> tuple[str, str]:
    cause = damage_of(path, error)
    try:
        size = Path(path).stat().st_size
    except OSError as why:
        return unreadable(path, why)
    if isinstance(error, OSError) and error.errno is not None:
        return "unreadable", os.strerror(error.errno)
    detail = "zero bytes" if not size else f"cannot be opened ({cause}): cut short?"
    return "damaged-shard", detail


def damage_of(path: str, error: BaseException) -> str:
    """What pyarrow says of damaged bytes, in a line.

    Raises UserError for what is no damage: what pyarrow or this machine cannot do.
    """
    if isinstance(error, OSError) and error.errno is not None:
        unreadable(path, error)
    line = (str(error).splitlines() or [type(error).__name__])[0][:160]
    if isinstance(error, MemoryError):
        raise UserError(
            f"{path}: not enough memory to read it ({line}); take fewer --workers, or write it "
            "again with fewer rows in a row group"
        ) from None
    if isinstance(error, _LIMITS):
        raise UserError(
            f"{path}: pyarrow {pa.__version__} cannot read it ({line}); write it again with fewer "
            "rows in a row group, plain columns and a common compression (zstd)"
        ) from None
    return line
