"""Folders that the library `datasets` wrote: what save_to_disk made, and its cache.

Beside its shards the library keeps what it made of them: `cache-*.arrow` (the result of a map, or
the indices of a shuffle) and, of a data set whose rows were chosen or shuffled before it was
saved, an indices file. Only the shards that it names, in the rows that the indices name, are the
data set.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from core.errors import UserError
from data.corpus.base import Rows, Sample
from data.corpus.sharded.columnar import ArrowCorpus

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from data.corpus.sharded.columns import Layout

_MADE = re.compile(r"cache-\w+\.arrow")
Part = tuple[list[Path], Path | None]  # shards, and the file that says which of their rows count


def open_arrow(
    spec: str, base: Path, files: Sequence[Path], options: Mapping[str, str], root: Path | None
) -> ArrowCorpus:
    """The corpus of Arrow files that a folder or a pattern gave (see ShardCorpus).

    Raises UserError when a shard that its folder counts is not there, or when only some of the
    shards are named of a data set of which only some rows count.
    """
    parts: list[Part] = []
    for folder in dict.fromkeys(path.parent for path in files):
        beside = [path for path in files if path.parent == folder]
        if len(files) > 1 or root is not None:
            beside = _shards(folder, beside, whole=root is not None)
        parts.append(_saved_part(folder, beside))
    shards = [path for part, _ in parts for path in part]
    if all(indices is None for _, indices in parts):
        return ArrowCorpus(spec, base, shards, options, root)
    return ChosenRows(spec, base, parts, options, root)


def _shards(folder: Path, files: list[Path], whole: bool) -> list[Path]:
    """Of a folder's Arrow files those that are shards."""
    kept = [path for path in files if not _MADE.fullmatch(path.name)] or files
    named, there = _named_in_cache(folder), {path.name for path in kept}
    if not named & there:
        return kept
    gone = sorted(named - there)
    if gone and whole:
        raise UserError(
            f"{folder / gone[0]}: no such file ({len(gone):,} missing), but dataset_info.json "
            "counts it; let datasets prepare the data set again, or name the files by a pattern"
        )
    return [path for path in kept if path.name in named]


def _saved_part(folder: Path, files: list[Path]) -> Part:
    """A folder's shards, with the indices file that save_to_disk's state.json names."""
    state = folder / "state.json"
    said = read_json(state) if state.is_file() else {}
    if not said.get("_indices_data_files"):
        return files, None
    shards, indices = (
        [folder / name for name in _named(state, said, key)]
        for key in ("_data_files", "_indices_data_files")
    )
    if len(indices) > 1 or not {*shards} <= {*files}:
        raise UserError(
            f"{folder}: an indices file says which rows of all its shards are the data set; "
            "name the folder itself, or save it again after flatten_indices()"
        )
    return shards, indices[0]


def _named(state: Path, said: Mapping[str, Any], key: str) -> list[str]:
    try:
        names = [entry["filename"] for entry in said[key]]
        odd = sorted({name for entry in said[key] for name in entry} - {"filename"})
    except (KeyError, TypeError):
        raise UserError(f"{state}: does not list its files ('{key}'); save it again") from None
    if odd:
        raise UserError(f"{state}: '{odd[0]}' of a file in '{key}' is not read; save it again")
    return names


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file of a saved data set; UserError when it cannot be read."""
    try:
        loaded = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: unreadable ({error}); it belongs to a saved data set") from None
    return loaded if isinstance(loaded, dict) else {}


def _named_in_cache(folder: Path) -> set[str]:
    """Names of the shards of a folder in the cache of `datasets`; empty where none are said."""
    info = folder / "dataset_info.json"
    if not info.is_file():
        return set()
    said = read_json(info)
    splits = said.get("splits")
    names: set[str] = set()
    for split, facts in splits.items() if isinstance(splits, dict) else ():
        if not isinstance(facts, dict):
            continue
        stem = f"{facts.get('dataset_name') or said.get('dataset_name')}-{split}"
        count = len(facts.get("shard_lengths") or [])
        if count > 1:
            names |= {f"{stem}-{i:05d}-of-{count:05d}.arrow" for i in range(count)}
        else:
            names.add(f"{stem}.arrow")
    return names


class ChosenRows(ArrowCorpus):
    """Arrow shards of which an indices file says which rows are the data set.

    A shard's rows are those of its file that are chosen, in the order of the indices and as often
    as they name them; a row without a name of its own is called by its place in the file.
    """

    def __init__(
        self,
        spec: str,
        base: Path,
        parts: Sequence[Part],
        options: Mapping[str, str],
        root: Path | None,
    ) -> None:
        super().__init__(spec, base, [path for part, _ in parts for path in part], options, root)
        names = iter(self.shards())
        self._parts = [([next(names) for _ in part], indices) for part, indices in parts]

    @cached_property
    def _chosen(self) -> dict[str, NDArray[np.int64]]:
        """Rows of each shard's file, in order."""
        import numpy as np

        chosen: dict[str, NDArray[np.int64]] = {}
        for shards, indices in self._parts:
            ends = [0]
            for shard in shards:
                table = self._table(shard)
                if table.damage is not None and indices is not None:
                    raise UserError(
                        f"{self.path(shard)}: {table.damage[1]}; its rows cannot be told by "
                        f"{indices.name} any more; restore it"
                    )
                ends.append(ends[-1] + super()._rows(shard))
            rows = np.arange(ends[-1]) if indices is None else _indices(indices, ends[-1])
            for shard, first, end in zip(shards, ends, ends[1:], strict=False):
                chosen[shard] = rows[(rows >= first) & (rows < end)] - first
        return chosen

    def _rows(self, shard: str) -> int:
        return len(self._chosen[shard])

    def file_rows(self, shard: str) -> Sequence[int]:
        return self._chosen[shard].tolist()

    def batch(self, shard: str, start: int = 0, stop: int | None = None) -> Rows:
        places = range(self.count(shard))[start:stop]
        rows = self._chosen[shard][places.start : places.stop].tolist()
        path, layout = os.fspath(self.path(shard)), self._layout(shard)
        return Rows(partial(_read_chosen, path, shard, layout, places.start, rows), len(rows))

    def part_fingerprint(self, shards: Sequence[str]) -> str:
        plain = super().part_fingerprint(shards)
        if not plain:
            return ""
        digest = hashlib.sha256(plain.encode())
        for shard in shards:
            digest.update(self._chosen[shard].tobytes())
        return digest.hexdigest()


def _read_chosen(
    path: str, shard: str, layout: Layout | None, start: int, rows: Sequence[int]
) -> Iterator[Sample]:
    from data.corpus.sharded.tables import open_table, read_rows

    table = open_table(path, "arrow")
    for place, row in enumerate(rows, start):
        (sample,) = read_rows(table, shard, layout, row, row + 1)
        yield dataclasses.replace(sample, row=place)


def _indices(path: Path, rows: int) -> NDArray[np.int64]:
    """The rows that an indices file names. Raises UserError unless they are rows of the data."""
    import numpy as np

    from data.corpus.sharded.opened import ArrowTable

    table = ArrowTable(os.fspath(path))
    if table.damage is not None or table.schema is None or "indices" not in table.schema.names:
        why = table.damage[1] if table.damage is not None else "it has no column 'indices'"
        raise UserError(f"{path}: does not say which rows are the data set ({why}); save it again")
    parts = [table.chunk(i, ["indices"])["indices"].to_numpy() for i in range(len(table.ends))]
    found = np.concatenate([np.empty(0, np.int64), *parts]).astype(np.int64)
    if len(found) and not 0 <= found.min() <= found.max() < rows:
        raise UserError(
            f"{path}: names row {found.max() if found.max() >= rows else found.min()}, but the "
            f"shards have {rows:,} rows; save it again"
        )
    return found
