"""Images named in a CSV file, in folders beside it (RS5M's second form on disk).

The first column is the image's name, the key; a header line is passed over. A name may be a
path from the CSV's folder or from any folder below it; the first folder that has it, level by
level and by name, counts. An absolute path below the CSV's folder is one from there, and where no
file has a backslash in its name, backslashes are those of Windows, between folders. What is named
and not there is a row with an error, so that the counts are those of the list.
"""

from __future__ import annotations

import codecs
import csv
import errno
import hashlib
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property, partial
from pathlib import Path

from core.errors import UserError
from core.stage import sha256_file
from data.corpus.base import Corpus, Location, Rows, Sample, key_of_path
from data.corpus.folder import SHARD_FILES, is_folder, read_file

DEPTH = 4  # levels of folders below the list that images are looked for in
HEADERS = {"img_name", "image_name", "filename", "file_name", "image", "img"}
FOLDERS = 256  # each is looked into for each name


class ListedCorpus(Corpus):
    """The images that a CSV file names."""

    def __init__(
        self, spec: str, path: Path, roots: Sequence[Path], options: Mapping[str, str]
    ) -> None:
        if options:
            raise UserError(f"{spec}: a CSV list has no option '{next(iter(options))}'")
        self._path = path
        self._roots = roots

    @cached_property
    def _starts(self) -> tuple[list[int], int, str]:
        """Byte offset of every SHARD_FILES-th line, the number of lines, and the first name with
        a backslash ('' if none has one)."""
        starts, rows, backslash = [], 0, ""
        for offset, name in _lines(self._path, 0):
            if rows % SHARD_FILES == 0:
                starts.append(offset)
            rows += 1
            if not backslash and "\\" in name:
                backslash = name
        if not rows:
            raise UserError(f"{self._path}: names no images")
        return starts, rows, backslash

    @cached_property
    def _folders(self) -> tuple[str, ...]:
        found: list[str] = []
        for root in self._roots:
            pending = [(os.fspath(root), 0)]
            while pending:
                folder, depth = pending.pop(0)
                found.append(folder)
                if len(found) > FOLDERS:
                    raise UserError(
                        f"{self._path}: more than {FOLDERS} folders below it to look into; "
                        f"give paths instead of names, or read folder:{root} without the list"
                    )
                if depth < DEPTH:
                    below = sorted(e.name for e in os.scandir(folder) if is_folder(e))
                    pending += [(f"{folder}/{n}", depth + 1) for n in below if n[0] != "."]
        return tuple(found)

    def counts(self) -> list[int | None]:
        return [self.count(shard) for shard in self.shards()]

    def shards(self) -> list[str]:
        return [f"lines-{n:05d}" for n in range(len(self._starts[0]))]

    def count(self, shard: str) -> int:
        return min(SHARD_FILES, self._starts[1] - self._index(shard) * SHARD_FILES)

    def batch(self, shard: str, start: int = 0, stop: int | None = None) -> Rows:
        rows = range(self.count(shard))[start:stop]
        keys = self._keys(self._index(shard))[rows.start : rows.stop]
        return Rows(partial(_read, self._folders, shard, rows.start, keys), len(keys))

    def fetch(self, locations: Sequence[Location]) -> Iterator[Sample]:
        # As in a folder of images, the key is the place.
        for key, shard, row in locations:
            yield _find(self._folders, key, shard, row)

    def fingerprint(self) -> str:
        return hashlib.sha256(f"list {sha256_file(self._path)}".encode()).hexdigest()

    def _from_here(self, name: str) -> str:
        """A name in the list as a path from one of its folders."""
        if self._windows:
            name = name.replace("\\", "/")
        for root in map(os.path.abspath, self._roots) if name.startswith("/") else ():
            if name.startswith(f"{root}/"):
                return name.removeprefix(f"{root}/")
        return name

    @cached_property
    def _windows(self) -> bool:
        """Whether backslashes stand between folders: no file has the first name that has one."""
        first = self._starts[2]
        there = (os.path.lexists(f"{folder}/{first}") for folder in self._folders)
        return bool(first) and not any(there)

    def _index(self, shard: str) -> int:
        index = shard.removeprefix("lines-")
        if not index.isdigit() or int(index) >= len(self._starts[0]):
            raise UserError(f"{self._path}: no shard '{shard}' in this list")
        return int(index)

    def _keys(self, index: int) -> list[str]:
        if self._cached[0] != index:
            lines = _lines(self._path, self._starts[0][index])
            names = [name for (_, name), _ in zip(lines, range(SHARD_FILES), strict=False)]
            self._cached = index, [key_of_path(self._from_here(name)) for name in names]
        return self._cached[1]

    _cached: tuple[int, list[str]] = (-1, [])


def _lines(path: Path, offset: int) -> Iterator[tuple[int, str]]:
    """(byte offset, name) of every named image from a line's offset on."""
    with open(path, "rb") as stream:
        if stream.read(2) in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE):
            raise UserError(f"{path}: is UTF-16; save it again as UTF-8 CSV")
        stream.seek(offset)
        place = [offset, offset]  # of this record and of the next

        def texts() -> Iterator[str]:
            for line in stream:
                # Before a quote the mark would hide it.
                text = line.removeprefix(codecs.BOM_UTF8) if place[1] == 0 else line
                place[1] += len(line)
                yield text.decode("utf-8", "surrogateescape")

        reader = csv.reader(texts())
        try:
            for record in reader:
                here, place[0] = place[0], place[1]
                name = record[0].strip() if record else ""
                if not name or (here == 0 and name.lower() in HEADERS):
                    continue
                yield here, name
        except csv.Error as error:
            raise UserError(
                f"{path}: not a CSV file ({error}, byte {place[0]:,}): is a quote left open there, "
                "or the line ended by a carriage return alone? save it again as UTF-8 CSV"
            ) from None


def _read(
    folders: Sequence[str], shard: str, start: int, keys: Sequence[str]
) -> Iterator[Sample]:
    """Consecutive lines of a list."""
    for row, key in enumerate(keys, start):
        yield _find(folders, key, shard, row)


def _find(folders: Sequence[str], key: str, shard: str, row: int) -> Sample:
    """Read `key` below the first folder that has it."""
    try:
        for folder in folders:
            sample = read_file(folder, key, shard, row)
            if sample.error is None or sample.error[1] not in _NOT_HERE:
                return sample
    except UserError as error:
        return Sample(key, shard, row, None, ("unsafe-name", str(error)))
    detail = f"not in the list's folder, nor in the {len(folders) - 1:,} below it"
    if _DRIVE.match(key):
        detail += ": the name begins with a Windows drive; make it a path from the list's folder"
    return Sample(key, shard, row, None, ("unreadable", detail))


_DRIVE = re.compile(r"[A-Za-z]:[\\/]")
_NOT_HERE = {os.strerror(code) for code in (errno.ENOENT, errno.ENOTDIR)}
