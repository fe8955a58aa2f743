"""A corpus that has grown: its score table, made from the old one and the new images alone.

    python -m prune.score --corpus C --out scores-2 --extend scores-1

The result is what scoring everything again would give, byte for byte (its manifest has the same
fingerprint), as long as what is old has not changed. That is judged as everywhere else, by names
and sizes: the listing of the grown corpus, reduced to what the old table is of, must have the
fingerprint that the old table records. Old images are not opened.

Shard files keep their parts. In a folder of images the shards are stretches of the sorted listing,
which new files shift, so there the old rows move to their new places.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from core.atomic import atomic_path
from core.errors import UserError
from core.stage import Stage, read_manifest
from data.corpus.base import Batch, Corpus, Sample
from data.corpus.folder import FolderCorpus, read_file
from data.corpus.prepared import PreparedCorpus
from data.formats.scores import EXTRAS, SCORES
from data.formats.tables import part_path, part_paths, read_part, read_parts
from prune.stage1.config import ScoreConfig

STATISTICS = ("bands", "clipped", "border")  # columns of --statistics


@dataclass
class Reuse:
    """What an old score table gives to a new one.

    Attributes:
        corpus: what is left to score: the corpus itself, or the new files of a folder.
        extras: columns after those of SCORES, without those of --statistics.
        old: rows of the old table (folders only), by their places in it.
        rows: shard -> positions in `old` of its old rows (folders only).
        places: shard -> their rows in the new listing (folders only).
        images: old rows in use.
        source: fingerprint of the old table.
    """

    corpus: Corpus | NewFiles
    extras: tuple[str, ...]
    old: pa.Table | None = None
    rows: dict[str, NDArray[np.int64]] = field(default_factory=dict)
    places: dict[str, NDArray[np.int64]] = field(default_factory=dict)
    images: int = 0
    source: str = ""

    def with_old_rows(self, shard: str, fresh: pa.Table) -> pa.Table:
        """All rows of a shard, in order, from its new ones."""
        if self.old is None:
            return fresh
        kept = self.old.take(pa.array(self.rows[shard]))
        moved = {"shard": pa.repeat(shard, kept.num_rows), "row": pa.array(self.places[shard])}
        for name, values in moved.items():
            at = fresh.schema.get_field_index(name)
            kept = kept.set_column(at, fresh.schema.field(at), values)
        both = pa.concat_tables([kept.cast(fresh.schema), fresh])
        return both.take(pa.array(np.argsort(both["row"].to_numpy()))).combine_chunks()


def extend(corpus: Corpus, config: ScoreConfig, stage: Stage) -> Reuse:
    """Begin an extension: check it, then open the stage and put the old shards' parts there.

    Raises UserError when the old table is not of a part of the corpus, by the same settings,
    saying why.
    """
    old = config.extend
    assert old is not None
    if old.resolve() == stage.out.resolve():
        raise UserError(f"--extend {old}: the grown corpus needs another --out")
    manifest = read_manifest(old)
    if manifest["stage"] != stage.name:
        raise UserError(f"--extend {old}: made by {manifest['stage']}, not by {stage.name}")
    there = manifest["params"]
    differing = [
        f"{name}: {there.get(name)} there, {stage.params.get(name)} now"
        for name in sorted({*there, *stage.params})
        if there.get(name) != stage.params.get(name)
    ]
    if differing:
        raise UserError(f"--extend {old}: made with other settings: {'; '.join(differing)}")
    names = read_part(part_paths(old)[0]).column_names[len(SCORES) :]
    own = STATISTICS if config.statistics else ()
    if lacking := [name for name in own if name not in names]:
        raise UserError(
            f"--extend {old}: an older table, without the column '{lacking[0]}' that --statistics "
            "records now; score it again, without --extend"
        )
    extras = tuple(name for name in names if name in EXTRAS and name not in own)
    recorded = manifest["inputs"]["corpus"]
    if isinstance(corpus, PreparedCorpus) and not corpus.part_fingerprint(corpus.shards()):
        raise UserError(
            f"--extend {old}: a folder that is read with ?bands= or ?scale= is scored as a whole, "
            "without --extend"
        )
    if isinstance(corpus, FolderCorpus):
        found = _new_files(corpus, old, recorded, extras)
        stage.open()
    else:
        parts = _parts(old)
        if corpus.part_fingerprint(list(parts)) != recorded:
            raise _changed(old)
        corpus.check([shard for shard in corpus.shards() if shard not in parts], extras)
        stage.open()
        found = Reuse(corpus, extras, images=_copy_parts(corpus, parts, stage.out))
    found.source = manifest["fingerprint"]
    return found


def _changed(old: Path) -> UserError:
    return UserError(
        f"--extend {old}: the corpus does not hold all that this table is of, unchanged (names "
        "and sizes); score it again, without --extend"
    )


def _parts(old: Path) -> dict[str, Path]:
    """shard -> part of a table, in order. Raises UserError for a part that names no shard."""
    parts = {}
    for path in part_paths(old):
        shard = read_part(path, ["shard"])["shard"]
        if not len(shard):
            raise UserError(
                f"--extend {old}: {path.name} is of a shard without images; score it again, "
                "without --extend"
            )
        parts[shard[0].as_py()] = path
    return parts


def _copy_parts(corpus: Corpus, parts: dict[str, Path], out: Path) -> int:
    """Copy the old shards' parts to their new places. Returns their rows."""
    rows = 0
    for index, shard in enumerate(corpus.shards()):
        if shard in parts:
            if not part_path(out, index).exists():
                with atomic_path(part_path(out, index)) as temporary:
                    temporary.write_bytes(parts[shard].read_bytes())
            rows += read_part(parts[shard], ["row"]).num_rows
    return rows


def _new_files(corpus: Corpus, old: Path, recorded: str, extras: tuple[str, ...]) -> Reuse:
    table = read_parts(old)
    keys = [key for key, _ in corpus.listing()]
    at = pc.index_in(pa.array(keys, pa.string()), value_set=table["key"].combine_chunks())
    there = at.is_valid().to_numpy(zero_copy_only=False)
    digest = hashlib.sha256()
    for (key, size), known in zip(corpus.listing(), there, strict=True):
        if known:
            digest.update(f"{key}\0{size}\n".encode())
    if digest.hexdigest() != recorded:
        raise _changed(old)
    positions = at.fill_null(-1).to_numpy().astype(np.int64)
    found = Reuse(corpus, extras, old=table, images=int(there.sum()))
    fresh: dict[str, tuple[tuple[int, str], ...]] = {}
    start = 0
    for shard in corpus.shards():
        count = corpus.count(shard)
        known = there[start : start + count]
        found.rows[shard] = positions[start : start + count][known]
        found.places[shard] = np.flatnonzero(known)
        fresh[shard] = tuple((int(i), keys[start + i]) for i in np.flatnonzero(~known))
        start += count
    found.corpus = NewFiles(corpus.root, fresh)
    return found


class NewFiles:
    """The new files of a folder, at the places that they have in its complete listing."""

    def __init__(self, root: Path | None, files: dict[str, tuple[tuple[int, str], ...]]) -> None:
        self._root, self._files = str(root), files

    def count(self, shard: str) -> int:
        """Number of new files in a shard."""
        return len(self._files[shard])

    def batch(self, shard: str, start: int = 0, stop: int | None = None) -> NewBatch:
        """New files [start, stop) of a shard."""
        return NewBatch(self._root, shard, self._files[shard][start:stop])


@dataclass(frozen=True, slots=True)
class NewBatch(Batch):
    """Files of a folder with their row numbers."""

    root: str
    shard: str
    files: tuple[tuple[int, str], ...]

    def __iter__(self) -> Iterator[Sample]:
        for row, key in self.files:
            yield read_file(self.root, key, self.shard, row)

    def __len__(self) -> int:
        return len(self.files)
