"""Corpora of Arrow and Parquet shards, one image a row.

pyarrow is imported when a shard is opened and not before: a finished stage asks a corpus for its
fingerprint alone.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterator, Sequence
from functools import cached_property, partial
from typing import TYPE_CHECKING

from core.errors import UserError
from data.corpus.base import Rows, Sample
from data.corpus.sharded.columns import Layout, find_layout
from data.corpus.sharded.shards import ShardCorpus

if TYPE_CHECKING:
    from data.corpus.sharded.tables import Table


def _read(
    path: str, kind: str, shard: str, layout: Layout | None, start: int, stop: int
) -> Iterator[Sample]:
    """Consecutive rows of a shard."""
    from data.corpus.sharded.tables import open_table, read_rows

    return read_rows(open_table(path, kind), shard, layout, start, stop)


class TableCorpus(ShardCorpus):
    """Arrow or Parquet files with an image column."""

    options_known = ("image", "key")

    def check(
        self, shards: Sequence[str] | None = None, extras: tuple[str, ...] | None = None
    ) -> None:
        expected = self.extras if extras is None else extras
        for shard in self.shards() if shards is None else shards:
            layout = self._layout(shard)
            if layout is not None and layout.extras != expected and self._table(shard).rows:
                raise UserError(
                    f"{self.path(shard)}: has other columns than the files before it "
                    f"({', '.join(layout.columns)}); score the two kinds apart"
                )

    @cached_property
    def _extras(self) -> tuple[str, ...]:
        with_rows = (shard for shard in self.shards() if self._table(shard).rows)
        layouts = (self._layout(shard) for shard in with_rows)
        return next((layout.extras for layout in layouts if layout is not None), ())

    @property
    def extras(self) -> tuple[str, ...]:
        return self._extras

    def batch(self, shard: str, start: int = 0, stop: int | None = None) -> Rows:
        rows = range(self.count(shard))[start:stop]
        path, layout = os.fspath(self.path(shard)), self._layout(shard)
        read = partial(_read, path, self.kind, shard, layout, rows.start, rows.stop)
        return Rows(read, len(rows))

    def file_rows(self, shard: str) -> Sequence[int]:
        """Rows of the shard's file that are the samples of the shard, in order."""
        return range(self.count(shard))

    def _table(self, shard: str) -> Table:
        from data.corpus.sharded.tables import open_table

        return open_table(os.fspath(self.path(shard)), self.kind)

    def _layout(self, shard: str) -> Layout | None:
        from data.corpus.sharded.tables import has_levels

        table = self._table(shard)
        if table.schema is None:
            return None
        layout = find_layout(table.schema, os.fspath(self.path(shard)), self.options)
        if layout.text is not None and not has_levels(table, layout.text):
            layout = dataclasses.replace(layout, text=None)
        return layout

    def _rows(self, shard: str) -> int:
        table = self._table(shard)
        return table.rows + (table.damage is not None)


class ArrowCorpus(TableCorpus):
    """Arrow IPC streams or files."""

    kind = "arrow"


class ParquetCorpus(TableCorpus):
    """Parquet files."""

    kind = "parquet"
