"""A folder of image files as a corpus: what is listed, in which order, and how a file is read."""

from __future__ import annotations

import hashlib
import os
import re
import stat
from collections import Counter
from collections.abc import Iterator, Sequence
from functools import cached_property, partial
from pathlib import Path, PurePosixPath
from typing import Any

from core.errors import UserError
from data.corpus.base import Corpus, Location, Rows, Sample, key_of_path, path_of_key, unreadable
from data.corpus.sidecars import THUMBNAILS, sidecar

IMAGES = frozenset({".jpg", ".jpeg", ".png", ".tif", ".tiff", ".jp2", ".webp", ".bmp", ".gif"})
SHARD_FILES = 4096  # files of a folder that make a shard
MAX_FILE_BYTES = 1 << 30  # a single file above this is not read into memory


class FolderCorpus(Corpus):
    """Every file below a folder, apart from hidden ones (a leading dot) and sidecars.

    Sidecars (data.corpus.sidecars) are counted, and `facts` says so. Nothing else is left out by
    name: what is no image is for the decoder to reject, with its reason. Links to files are
    followed. A link to a folder is followed unless it leads back into the corpus, or to where
    another link has led already.
    """

    unique_keys = True

    def __init__(self, root: Path) -> None:
        self._root = root
        self._left_out: Counter[str] = Counter()

    @property
    def root(self) -> Path:
        return self._root

    @cached_property
    def _files(self) -> tuple[list[str], list[int]]:
        """Keys and sizes, listed when first asked for: fetching by key needs no listing."""
        self._left_out.clear()
        found = []
        for key, size in walk(self.root, self._left_out):
            kind = sidecar(key)
            if kind:
                self._left_out[kind] += 1
            else:
                found.append((key, size))
        found.sort()
        if not found:
            raise UserError(f"{self.root}: no files in it (hidden ones and sidecars do not count)")
        return [key for key, _ in found], [size for _, size in found]

    def facts(self) -> dict[str, Any]:
        return {"left_out": dict(self._left_out)} if self._files and self._left_out else {}

    def counts(self) -> list[int | None]:
        return [self.count(shard) for shard in self.shards()]

    def shards(self) -> list[str]:
        return [f"files-{n:05d}" for n in range(-(-len(self) // SHARD_FILES))]

    def count(self, shard: str) -> int:
        start = self._start(shard)
        return min(SHARD_FILES, len(self) - start)

    def keys(self, shard: str) -> list[str]:
        """Keys of a shard in row order."""
        first = self._start(shard)
        return self._files[0][first : first + SHARD_FILES]

    def batch(self, shard: str, start: int = 0, stop: int | None = None) -> Rows:
        rows = range(self.count(shard))[start:stop]
        keys = self.keys(shard)[rows.start : rows.stop]
        read = partial(read_files, os.fspath(self.root), shard, rows.start, keys)
        return Rows(read, len(keys))

    def fetch(self, locations: Sequence[Location]) -> Iterator[Sample]:
        # The key is the place: a file that moved to another row, because others were added, is
        # still the same file, and one that is gone yields an error.
        for key, shard, row in locations:
            yield read_file(os.fspath(self.root), key, shard, row)

    def fingerprint(self) -> str:
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


def walk(root: Path, left_out: Counter[str] | None = None) -> Iterator[tuple[str, int]]:
    """(key, bytes) of every file below `root`, in no order that matters; FolderCorpus says which.

    Hidden files and folders of thumbnails are passed over, and counted in `left_out`.
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
            if entry.name.startswith(".") or entry.name in THUMBNAILS:
                if left_out is not None:
                    hidden = "hidden" if entry.name.startswith(".") else entry.name
                    left_out[hidden] += 1
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


def is_image_name(name: str) -> bool:
    """Whether a name, or a key, ends as an image's does."""
    return PurePosixPath(name).suffix.lower() in IMAGES


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


def read_files(root: str, shard: str, start: int, keys: Sequence[str]) -> Iterator[Sample]:
    """Consecutive files of a folder corpus."""
    for row, key in enumerate(keys, start):
        yield read_file(root, key, shard, row)


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
        return Sample(key, shard, row, None, unreadable(f"{root}/{key}", error))
    except ValueError as error:  # no file can have such a name: a zero byte in it
        return Sample(key, shard, row, None, ("unreadable", str(error)))
    return Sample(key, shard, row, data)
