"""Images of a corpus that a subset index or a score table lists. Light to import: no PIL."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa

from core.stage import fingerprint
from data.corpus.base import Location
from data.formats.index import read_index


@dataclass(frozen=True)
class Listing:
    """Images in order: their (key, shard, row), and digests of their bytes (None: unknown)."""

    places: list[Location]
    digests: list[str | None]

    def __len__(self) -> int:
        return len(self.places)

    @property
    def keys(self) -> list[str]:
        return [key for key, _, _ in self.places]

    def images(self, indices: Iterable[int]) -> tuple[list[Location], list[str | None]]:
        """Places and digests of these images."""
        chosen = self.take(indices)
        return chosen.places, chosen.digests

    def take(self, indices: Iterable[int]) -> Listing:
        """These images."""
        chosen = [int(index) for index in indices]
        return Listing([self.places[i] for i in chosen], [self.digests[i] for i in chosen])


def listing_of(table: pa.Table) -> Listing:
    """The rows of a subset index or a score table."""
    columns = [table[name].to_pylist() for name in ("key", "shard", "row")]
    known = "digest" in table.column_names  # not in the indices of version 0.1
    digests = table["digest"].to_pylist() if known else [None] * table.num_rows
    return Listing(list(zip(*columns, strict=True)), digests)


def read_subset(path: Path) -> Listing:
    """The images of a subset index. Raises UserError when it is none, or is not finished."""
    fingerprint(path)
    table, _ = read_index(path)
    return listing_of(table)
