"""What a corpus is to the stages: shards of named samples, read in order or fetched by name.

A corpus is opened from a specification (see data.corpus.specs.open_corpus).

Keys of a folder are POSIX paths relative to it, sorted by their bytes. So that a key is always
printable UTF-8, a backslash is written as two, and control characters and bytes that are no
UTF-8 as `\\xNN`; `key_of_path` and `path_of_key` go both ways.
"""

from __future__ import annotations

import errno
import os
import re
import stat
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from core.errors import UserError

Location = tuple[str, str, int]  # key, shard, row
WINDOW = 512  # images that `fetch` may hold to read them in the order of the disk


@dataclass(frozen=True, slots=True)
class Sample:
    """One entry of a corpus, with its encoded bytes or the reason why there are none."""

    key: str
    shard: str
    row: int
    data: bytes | None
    error: tuple[str, str] | None = None
    """(reason, detail) when `data` is None; reasons are those of data.images.decode, and of
    data.corpus.sharded.shards where shards are read."""
    name: str | None = None
    """File name whose extension the content must agree with, '' for none; None: the key's."""
    quality: float | None = None
    """Quality score that the corpus itself gives (Git-10M's img_quality_score)."""
    resolution_m: float | None = None
    """Ground size of a pixel in metres, where the corpus says it."""
    more: Mapping[str, Any] | None = None
    """Further columns of data.formats.scores.EXTRAS."""
    note: str = ""
    """What the reader had to decide about the image, for the score table's 'detail'."""


class Batch(ABC):
    """A stretch of a shard. Small and picklable, so that another process can read it."""

    @abstractmethod
    def __iter__(self) -> Iterator[Sample]: ...

    @abstractmethod
    def __len__(self) -> int: ...


@dataclass(frozen=True, slots=True)
class Rows(Batch):
    """A stretch that an importable function, with its arguments, reads."""

    start_reading: Callable[[], Iterator[Sample]]
    rows: int

    def __iter__(self) -> Iterator[Sample]:
        return self.start_reading()

    def __len__(self) -> int:
        return self.rows


class Corpus(ABC):
    """Named images in shards. The listing is taken once and does not change afterwards."""

    unique_keys = False
    """Whether no two samples can have the same key; otherwise the score's pass looks for them."""

    @property
    def extras(self) -> tuple[str, ...]:
        """Columns beyond the base of the score table: of those in data.formats.scores.EXTRAS."""
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

    def facts(self) -> dict[str, Any]:
        """What a record of the corpus should say of how it is read, by name.

        left_out: files that are no images of it, counted by kind; scale: the values that became 0
        and 255.
        """
        return {}

    def counts(self) -> list[int | None]:
        """Samples of each shard where that is known without reading, for progress; None: not."""
        return [None] * len(self.shards())

    def part_fingerprint(self, shards: Sequence[str]) -> str:
        """The fingerprint that a corpus of these shards alone, in this order, would have.

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
    def fingerprint(self) -> str:
        """Digest of the listing: every key and its size in bytes."""

    def listing(self) -> Iterator[tuple[str, int]]:
        """(key, bytes) of every sample in order."""
        for shard in self.shards():
            for sample in self.read(shard):
                yield sample.key, len(sample.data or b"")

    def read(self, shard: str) -> Iterator[Sample]:
        """The samples of a shard in row order."""
        return iter(self.batch(shard))

    def __len__(self) -> int:
        return sum(self.count(shard) for shard in self.shards())


def stat_files(
    base: Path, files: Sequence[Path], of: str
) -> tuple[dict[str, Path], dict[str, int]]:
    """Files and their sizes (bytes) by key, a path relative to `base`.

    Raises UserError, ending in `of`, for one that is not there or is no regular file.
    """
    paths, sizes = {}, {}
    for path in files:
        key = key_of_path(os.path.relpath(path, base))
        try:
            status = path.stat()
        except OSError as error:
            raise UserError(f"{path}: {error.strerror} ({of})") from None
        if not stat.S_ISREG(status.st_mode):  # reading a named pipe would wait for ever
            raise UserError(f"{path}: not a regular file ({of})")
        paths[key], sizes[key] = path, status.st_size
    return paths, sizes


_SYSTEM = {
    errno.EMFILE: "raise the limit on open files (ulimit -n)",
    errno.ENFILE: "too many files are open on this machine",
    errno.ENOMEM: "free memory, or take fewer --workers",
    **dict.fromkeys(
        (errno.EIO, errno.ESTALE, errno.ETIMEDOUT, errno.ENOTCONN, errno.EHOSTDOWN),
        "the disk or the network drive failed; see to it",
    ),
}


def unreadable(path: Path | str, error: OSError) -> tuple[str, str]:
    """(reason, detail) of a sample for what opening or reading a file raised.

    Raises UserError where that says nothing about the file (too many open files, a drive that is
    away): sound images would be rejected for it.
    """
    cause = error.strerror or str(error)
    if error.errno in _SYSTEM:
        raise UserError(
            f"{path}: cannot be read now ({cause}); {_SYSTEM[error.errno]}, and run the same "
            "command again to continue"
        ) from None
    return "unreadable", cause


def fetch_windows(
    locations: Sequence[Location],
    place: Callable[[Location], Any],
    fetch_one: Callable[[Location], Sample],
) -> Iterator[Sample]:
    """fetch_one of each location, in the order given, read in the order of their places.

    A few hundred images are held at a time.
    """
    remaining = iter(locations)
    while window := list(islice(remaining, WINDOW)):
        order = sorted(range(len(window)), key=lambda i: place(window[i]))
        found = {i: fetch_one(window[i]) for i in order}
        yield from (found[i] for i in range(len(window)))


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
