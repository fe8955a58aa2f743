"""What a corpus is to the stages: shards of named samples, read in order or fetched by name.

A corpus is opened from a specification (see `open_corpus`). A folder of images is read here;
tar, Arrow and Parquet shards, CSV lists and the presets are in data/readers/.

Keys of a folder are POSIX paths relative to it, sorted by their bytes. So that a key is always
printable UTF-8, a backslash is written as two, and control characters and bytes that are no
UTF-8 as `\\xNN`; `key_of_path` and `path_of_key` go both ways.
"""

from __future__ import annotations

import hashlib
import os
import re
import stat
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from data.errors import UserError

SHARD_FILES = 4096  # files of a folder that make a shard
MAX_FILE_BYTES = 1 << 30  # a single file above this is not read into memory

Location = tuple[str, str, int]  # key, shard, row


@dataclass(frozen=True, slots=True)
class Sample:
    """One entry of a corpus, with its encoded bytes or the reason why there are none."""

    key: str
    shard: str
    row: int
    data: bytes | None
    error: tuple[str, str] | None = None
    """(reason, detail) when `data` is None; reasons are those of data.decode, and of
    data.readers.shards where shards are read."""
    name: str | None = None
    """File name whose extension the content must agree with, '' for none; None: the key's."""
    quality: float | None = None
    """Quality score that the corpus itself gives (Git-10M's img_quality_score)."""
    resolution_m: float | None = None
    """Ground size of a pixel in metres, where the corpus says it."""
    more: Mapping[str, Any] | None = None
    """Further columns of data.tables.EXTRAS."""


class Batch(ABC):
    """A stretch of a shard. Small and picklable, so that another process can read it."""

    @abstractmethod
    def __iter__(self) -> Iterator[Sample]: ...

    @abstractmethod
    def __len__(self) -> int: ...


class Corpus(ABC):
    """Named images in shards. The listing is taken once and does not change afterwards."""

    unique_keys = False
    """Whether no two samples can have the same key; otherwise the score's pass looks for them."""

    @property
    def extras(self) -> tuple[str, ...]:
        """Columns beyond the base of the score table: of those in data.tables.EXTRAS."""
        return ()

    @property
    def root(self) -> Path | None:
        """Folder whose files, all of them, are the corpus: nothing may be written into it."""
        return None

    def check(  # noqa: B027 (most corpora need none)
        self, shards: Sequence[str] | None = None, extras: tuple[str, ...] | None = None
    ) -> None:
        """Raise UserError for what is wrong in kind, not in places, before a long pass begins.

        With `shards` only these are looked at, and `extras` are the columns that they should have.
        """

    def part_identity(self, shards: Sequence[str]) -> str:
        """The identity that a corpus of these shards alone, in this order, would have.

        '' when one of them is not there, or where shards are no files of their own.
        """
        return ""

    @abstractmethod
    def shards(self) -> list[str]:
        """Names of the shards in order."""

    @abstractmethod
    def count(self, shard: str) -> int:
        """Number of samples in a shard."""

    @abstractmethod
    def batch(self, shard: str, start: int = 0, stop: int | None = None) -> Batch:
        """Rows [start, stop) of a shard."""

    @abstractmethod
    def fetch(self, locations: Sequence[Location]) -> Iterator[Sample]:
        """The samples at (key, shard, row), in the order given, each the one named `key`.

        One that is no longer there comes with an error; UserError when the corpus does not
        have that shape (another shard, another key in that row).
        """

    @abstractmethod
    def identity(self) -> str:
        """Digest of the listing: every key and its size in bytes."""

    @abstractmethod
    def listing(self) -> Iterator[tuple[str, int]]:
        """(key, bytes) of every sample in order."""

    def read(self, shard: str) -> Iterator[Sample]:
        """The samples of a shard in row order."""
        return iter(self.batch(shard))

    def __len__(self) -> int:
        return sum(self.count(shard) for shard in self.shards())


class FolderCorpus(Corpus):
    """Every file below a folder, hidden ones (a leading dot) apart.

    Nothing else is left out by name: what is no image is for the decoder to reject, with its
    reason, and not to be overlooked here. Links to files are followed. A link to a folder is
    followed unless it leads back into the corpus, or to where another link has led already.
    """

    unique_keys = True

    def __init__(self, root: Path) -> None:
        self._root = root

    @property
    def root(self) -> Path:
        return self._root

    @cached_property
    def _files(self) -> tuple[list[str], list[int]]:
        """Keys and sizes, listed when first asked for: fetching by key needs no listing."""
        found = sorted(walk(self.root))
        if not found:
            raise UserError(f"{self.root}: no files in it (hidden ones do not count)")
        return [key for key, _ in found], [size for _, size in found]

    def shards(self) -> list[str]:
        return [f"files-{n:05d}" for n in range(-(-len(self) // SHARD_FILES))]

    def count(self, shard: str) -> int:
        start = self._start(shard)
        return min(SHARD_FILES, len(self) - start)

    def batch(self, shard: str, start: int = 0, stop: int | None = None) -> FolderBatch:
        first = self._start(shard)
        rows = range(self.count(shard))[start:stop]
        keys = tuple(self._files[0][first + rows.start : first + rows.stop])
        return FolderBatch(os.fspath(self.root), shard, rows.start, keys)

    def fetch(self, locations: Sequence[Location]) -> Iterator[Sample]:
        # The key is the place: a file that moved to another row, because others were added, is
        # still the same file, and one that is gone yields an error.
        for key, shard, row in locations:
            yield read_file(os.fspath(self.root), key, shard, row)

    def identity(self) -> str:
        digest = hashlib.sha256()
        for key, size in self.listing():
            digest.update(f"{key}\0{size}\n".encode())
        return digest.hexdigest()

    def listing(self) -> Iterator[tuple[str, int]]:
        return zip(*self._files, strict=True)

    def __len__(self) -> int:
        return len(self._files[0])

    def _start(self, shard: str) -> int:
        match = re.fullmatch(r"files-(\d{5,})", shard)
        if match is None or int(match[1]) * SHARD_FILES >= len(self):
            raise UserError(f"{self.root}: no shard '{shard}' in this folder")
        return int(match[1]) * SHARD_FILES


@dataclass(frozen=True, slots=True)
class FolderBatch(Batch):
    """Consecutive files of a folder corpus."""

    root: str
    shard: str
    start: int
    keys: tuple[str, ...]

    def __iter__(self) -> Iterator[Sample]:
        for row, key in enumerate(self.keys, self.start):
            yield read_file(self.root, key, self.shard, row)

    def __len__(self) -> int:
        return len(self.keys)


def open_corpus(spec: Path | str) -> Corpus:
    """Open a corpus.

    Args:
        spec: a folder, a shard file, a pattern of shard files, or a preset; data/readers/specs.py
            has them all.

    Raises:
        UserError: nothing is there, nothing is in it, or it is of no kind that is understood.
    """
    from data.readers.specs import open_spec  # readers build on this module

    return open_spec(os.fspath(spec))


def keep_apart(out: Path, corpus: Corpus, spec: Path | str) -> None:
    """Raise UserError when an output would lie among the images of a corpus.

    The next listing would take it for images. Hidden folders are not listed, and may be used.
    """
    root = corpus.root
    if root is None or not out.resolve().is_relative_to(root.resolve()):
        return
    inside = out.resolve().relative_to(root.resolve()).parts
    if not any(part.startswith(".") for part in inside):
        raise UserError(f"--out {out} lies inside --corpus {spec}; move it out")


def key_of_path(path: str) -> str:
    """The key of a relative path as `os` gives it (see the module's top)."""
    if path.isprintable() and "\\" not in path:
        return path
    return "".join(_escape(character) for character in path)


def path_of_key(key: str) -> str:
    """The relative path, as `os` takes it, of a key. Raises UserError if it leaves the folder."""
    path = key
    if "\\" in key:
        raw = re.sub(rb"\\(?:\\|x([0-9a-f]{2}))", _unescape, key.encode())
        path = os.fsdecode(raw)
    if path.startswith("/") or ".." in path.split("/"):
        raise UserError(f"'{key}': a key must not lead out of its corpus")
    return path


def _escape(character: str) -> str:
    code = ord(character)
    if character == "\\":
        return "\\\\"
    if code < 0x20 or code == 0x7F:
        return f"\\x{code:02x}"
    if 0xDC80 <= code <= 0xDCFF:  # how Python carries a byte that is no UTF-8
        return f"\\x{code - 0xDC00:02x}"
    return character


def _unescape(match: re.Match[bytes]) -> bytes:
    return b"\\" if match[1] is None else bytes.fromhex(match[1].decode())


def walk(root: Path) -> Iterator[tuple[str, int]]:
    """(key, bytes) of every file below `root`, in no order that matters; FolderCorpus says which.

    Raises UserError for a folder that cannot be listed.
    """
    top = os.path.realpath(root)
    linked: set[tuple[int, int]] = set()  # folders seen by way of links out of the corpus
    pending = [("", os.fspath(root), False)]
    while pending:
        prefix, folder, outside = pending.pop()
        try:
            entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
        except OSError as error:
            raise UserError(f"{folder}: cannot be listed ({error.strerror})") from None
        below = []
        for entry in entries:
            if entry.name.startswith("."):
                continue
            if not is_folder(entry):
                yield key_of_path(prefix + entry.name), _size(entry)
                continue
            away = outside
            if entry.is_symlink():
                target = os.path.realpath(entry.path)
                if target == top or target.startswith(top + os.sep):
                    continue
                away = True
            if away:
                status = entry.stat()
                if (status.st_dev, status.st_ino) in linked:
                    continue
                linked.add((status.st_dev, status.st_ino))
            below.append((prefix + entry.name + "/", entry.path, away))
        pending += reversed(below)  # depth first, by name: which of two links wins is fixed


def walk_folders(root: Path | str) -> Iterator[tuple[str, list[str], list[str]]]:
    """`os.walk` that follows links to folders, to each folder once, so that none leads round."""
    seen: set[tuple[int, int]] = set()
    for base, folders, names in os.walk(root, followlinks=True):
        status = Path(base).stat()
        if (status.st_dev, status.st_ino) in seen:
            folders.clear()
            continue
        seen.add((status.st_dev, status.st_ino))
        yield base, folders, names


def is_folder(entry: os.DirEntry[str]) -> bool:
    """Whether an entry is a folder, or a link to one. Never raises."""
    try:
        return entry.is_dir()
    except OSError:  # a link that leads in a circle: to be listed, and rejected on reading
        return False


def _size(entry: os.DirEntry[str]) -> int:
    try:
        return entry.stat().st_size
    except OSError:  # a broken link, or gone already: reading it will say so
        return 0


def read_file(root: str, key: str, shard: str, row: int) -> Sample:
    """The file `key` below a folder. What cannot be read comes with an error."""
    try:
        # Non-blocking, for a named pipe would otherwise wait for a writer for ever.
        descriptor = os.open(
            f"{root}/{path_of_key(key)}", os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC
        )
        try:
            status = os.fstat(descriptor)
            if not stat.S_ISREG(status.st_mode):
                return Sample(key, shard, row, None, ("unreadable", "not a regular file"))
            if status.st_size > MAX_FILE_BYTES:
                detail = f"{status.st_size:,} bytes, limit {MAX_FILE_BYTES:,}"
                return Sample(key, shard, row, None, ("too-large", detail))
            data = os.read(descriptor, status.st_size + 1)
            if len(data) != status.st_size:  # a signal cut in, or the file is growing
                with os.fdopen(os.dup(descriptor), "rb") as stream:
                    data += stream.read(MAX_FILE_BYTES)
        finally:
            os.close(descriptor)
    except OSError as error:
        return Sample(key, shard, row, None, ("unreadable", error.strerror or str(error)))
    except ValueError as error:  # no file can have such a name: a zero byte in it
        return Sample(key, shard, row, None, ("unreadable", str(error)))
    return Sample(key, shard, row, data)
