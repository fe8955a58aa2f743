"""Corpora kept as shard files: what tar, Arrow and Parquet have in common.

The fingerprint of such a corpus is that of its files (names and sizes), so that asking for it reads
none of them. Names of shards are paths relative to a base folder that the specification fixes.
At most a few shards are open at a time, whatever their number: memory does not grow with it.
"""

from __future__ import annotations

import functools
import hashlib
import json
from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

from core.errors import UserError
from data.corpus.base import Corpus, Location, Sample, fetch_windows, stat_files

OPEN_SHARDS = 4  # indices of shards that a process keeps at a time

REASONS: dict[str, str] = {
    "no-image": "a sample of a shard without an image, or with several to choose from",
    "unsafe-name": "a tar member whose name leads out of the tar",
    "damaged-shard": "the shard file is truncated or damaged here; what follows is lost",
    "duplicate-key": "an earlier sample of the corpus has the same name",
}
"""Why a sample of a shard has no image, besides the reasons of data.images.decode."""


class ShardCorpus(Corpus):
    """Shard files in a fixed order.

    Args:
        spec: the specification as the user wrote it, for messages.
        base: folder that shard names are relative to.
        files: the shard files, in order.
        options: what the specification says beyond the files ('image', 'key').
        root: the folder that was named, whose listing the files are; None for a pattern.

    Raises:
        UserError: a file is not there, or an option is unknown.
    """

    kind = ""
    options_known: tuple[str, ...] = ()

    def __init__(
        self,
        spec: str,
        base: Path,
        files: Sequence[Path],
        options: Mapping[str, str],
        root: Path | None = None,
    ) -> None:
        unknown = sorted(set(options) - set(self.options_known))
        if unknown:
            known = ", ".join(self.options_known) or "none"
            raise UserError(f"{spec}: unknown option '{unknown[0]}' ({self.kind} knows: {known})")
        self.spec = spec
        self.options = dict(options)
        self._root = root
        self._paths, self._sizes = stat_files(base, files, f"a shard of {spec}")
        self._counts: dict[str, int] = {}

    @property
    def root(self) -> Path | None:
        return self._root

    def shards(self) -> list[str]:
        return list(self._paths)

    def path(self, shard: str) -> Path:
        """The file of a shard. Raises UserError when the corpus has no such shard."""
        if shard not in self._paths:
            names = list(self._paths)
            raise UserError(
                f"{self.spec}: no shard '{shard}' in it; it has {len(names):,}, from '{names[0]}' "
                f"to '{names[-1]}'. Was the file moved or deleted, or is this another corpus?"
            )
        return self._paths[shard]

    def count(self, shard: str) -> int:
        if shard not in self._counts:
            self._counts[shard] = self._rows(shard)
        return self._counts[shard]

    def fingerprint(self) -> str:
        return self.part_fingerprint(list(self._sizes))

    def part_fingerprint(self, shards: Sequence[str]) -> str:
        digest = hashlib.sha256(json.dumps([self.kind, self.options], sort_keys=True).encode())
        for shard in shards:
            if shard not in self._sizes:
                return ""
            digest.update(f"{shard}\0{self._sizes[shard]}\n".encode())
        return digest.hexdigest()

    def fetch(self, locations: Sequence[Location]) -> Iterator[Sample]:
        return fetch_windows(locations, lambda location: location[1:], self._fetch_one)

    def _fetch_one(self, location: Location) -> Sample:
        _, shard, row = location
        self._require(location, self.count(shard))
        (sample,) = self.batch(shard, row, row + 1)
        self._verify(sample.key, location)
        return sample

    def _require(self, location: Location, rows: int) -> None:
        """Raise UserError unless the location is one of a shard's rows."""
        key, shard, row = location
        if not 0 <= row < rows:
            raise UserError(
                f"{self.spec}: shard '{shard}' has {rows:,} samples, but row {row} ('{key}') is "
                "asked for: the shard was truncated or replaced since it was scored"
            )

    def _verify(self, found: str, location: Location) -> None:
        """Raise UserError unless the key found at a location is the one asked for."""
        key, shard, row = location
        if found != key:
            raise UserError(
                f"{self.spec}: row {row} of shard '{shard}' is '{found}', not '{key}': "
                "not the corpus that was scored; give that one, or score this one"
            )

    @abstractmethod
    def _rows(self, shard: str) -> int:
        """Samples in a shard, what is known to be lost counted as one."""


Opened = TypeVar("Opened")


def once_a_file(function: Callable[..., Opened]) -> Callable[..., Opened]:
    """Cache f(path, ...) for the last few files; a file that changed is read again."""

    @functools.lru_cache(maxsize=OPEN_SHARDS)
    def cached(state: tuple[int, ...], path: str, *rest: str) -> Opened:
        return function(path, *rest)

    @functools.wraps(function)
    def wrapper(path: str, *rest: str) -> Opened:
        try:
            status = Path(path).stat()
        except OSError:
            return function(path, *rest)
        return cached((status.st_size, status.st_mtime_ns, status.st_ino), path, *rest)

    return wrapper
