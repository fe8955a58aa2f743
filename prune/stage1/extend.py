"""A corpus that has grown: its score table, made from the old one and the new images alone.

    python -m prune.score --corpus C --out scores-2 --extend scores-1

The result is what scoring everything again would give, byte for byte (its manifest has the same
fingerprint), as long as what is old has not changed. That it has not is told as everywhere else, by
names and sizes: the listing of the grown corpus, cut down to what the old table is of, must have
the fingerprint that the old table records. Old images are not opened.

Shard files keep their parts. In a folder of images the shards are stretches of the sorted listing,
which new files shift, so there the old rows move to their new places.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from core.atomic import atomic_path
from core.errors import UserError
from core.stage import Stage, read_manifest
from data.corpus.base import Batch, Corpus, Sample
from data.corpus.folder import FolderCorpus, read_file
from data.formats.scores import EXTRAS, SCORES
from data.formats.tables import (
    part_path,
    part_paths,
    read_part,
    read_parts,
    write_part,
)

if TYPE_CHECKING:
    import pyarrow as pa
    from numpy.typing import NDArray


@dataclass
class Reuse:
    """What an old score table gives to a new one.

    Attributes:
        corpus: what is left to score: the corpus itself, or the new files of a folder.
        extras: columns after those of SCORES, without those of --statistics.
        old: rows of the old table (folders only), by their places in it.
        rows: shard -> positions in `old` of its old rows (folders only).
        places: shard -> their row numbers in the new listing (folders only).
        images: old rows in use.
        source: fingerprint of the old table.
    """

    corpus: Corpus
    extras: tuple[str, ...]
    old: pa.Table | None = None
    rows: dict[str, NDArray[np.int64]] = field(default_factory=dict)
    places: dict[str, NDArray[np.int64]] = field(default_factory=dict)
    images: int = 0
    source: str = ""

    def whole(self, shard: str, columns: dict[str, list[Any]], schema: pa.Schema) -> pa.Table:
        """The rows of a shard, old and new, from the columns of the new ones."""
        import pyarrow as pa

        fresh = pa.table(columns, schema=schema)
        if self.old is None:
            return fresh
        kept = self.old.take(pa.array(self.rows[shard]))
        at = {name: schema.get_field_index(name) for name in ("shard", "row")}
        kept = kept.set_column(at["shard"], schema.field("shard"), pa.repeat(shard, kept.num_rows))
        kept = kept.set_column(at["row"], schema.field("row"), pa.array(self.places[shard]))
        both = pa.concat_tables([kept.cast(schema), fresh])
        return both.take(pa.array(np.argsort(both["row"].to_numpy()))).combine_chunks()


def reuse(corpus: Corpus, old: Path, stage: Stage, statistics: bool) -> Reuse:
    """Check that an old table is of a part of the corpus, by the same settings.

    Raises UserError when it is not, saying why.
    """
    if old.resolve() == stage.out.resolve():
        raise UserError(f"--extend {old}: the grown corpus needs another --out")
    manifest = read_manifest(old)
    if manifest["stage"] != stage.name:
        raise UserError(f"--extend {old}: made by {manifest['stage']}, not by {stage.name}")
    differing = [
        f"{name}: {manifest['params'].get(name)} there, {stage.params.get(name)} now"
        for name in sorted({*manifest["params"], *stage.params})
        if manifest["params"].get(name) != stage.params.get(name)
    ]
    if differing:
        raise UserError(f"--extend {old}: made with other settings: {'; '.join(differing)}")
    names = read_part(part_paths(old)[0]).column_names[len(SCORES) :]
    extras = tuple(n for n in names if n in EXTRAS and not (statistics and n in _STATISTICS))
    recorded = manifest["inputs"]["corpus"]
    of = _folder if isinstance(corpus, FolderCorpus) else _shards
    found = of(corpus, old, recorded, extras)
    found.source = manifest["fingerprint"]
    return found


_STATISTICS = ("bands", "clipped")


def _refuse(old: Path) -> UserError:
    return UserError(
        f"--extend {old}: the corpus does not hold all that this table is of, unchanged (names "
        "and sizes); score it anew, without --extend"
    )


def _shards(corpus: Corpus, old: Path, recorded: str, extras: tuple[str, ...]) -> Reuse:
    parts = _parts(old)
    if corpus.part_fingerprint(list(parts)) != recorded:
        raise _refuse(old)
    new = [shard for shard in corpus.shards() if shard not in parts]
    corpus.check(new, extras)
    return Reuse(corpus, extras)


def _parts(old: Path) -> dict[str, Path]:
    """shard -> part of a table, in order. Raises UserError for a part that names no shard."""
    parts = {}
    for path in part_paths(old):
        shard = read_part(path, ["shard"])["shard"]
        if not len(shard):
            raise UserError(f"--extend {old}: {path.name} is of a shard without images; score anew")
        parts[shard[0].as_py()] = path
    return parts


def copy_parts(corpus: Corpus, old: Path, out: Path) -> int:
    """Copy the parts of shards that the old table has to their new numbers. Returns their rows."""
    parts = _parts(old)
    rows = 0
    for number, shard in enumerate(corpus.shards()):
        if shard in parts:
            if not part_path(out, number).exists():
                with atomic_path(part_path(out, number)) as temporary:
                    temporary.write_bytes(parts[shard].read_bytes())
            rows += read_part(parts[shard], ["row"]).num_rows
    return rows


def _folder(corpus: Corpus, old: Path, recorded: str, extras: tuple[str, ...]) -> Reuse:
    import pyarrow as pa
    import pyarrow.compute as pc

    table = read_parts(old)
    keys = [key for key, _ in corpus.listing()]
    at = pc.index_in(pa.array(keys, pa.string()), value_set=table["key"].combine_chunks())
    there = at.is_valid().to_numpy(zero_copy_only=False)
    digest = hashlib.sha256()
    for (key, size), known in zip(corpus.listing(), there, strict=True):
        if known:
            digest.update(f"{key}\0{size}\n".encode())
    if digest.hexdigest() != recorded:
        raise _refuse(old)
    positions = at.fill_null(-1).to_numpy().astype(np.int64)
    found = Reuse(corpus, extras, old=table)
    fresh: dict[str, tuple[tuple[int, str], ...]] = {}
    start = 0
    for shard in corpus.shards():
        count = corpus.count(shard)
        known = there[start : start + count]
        found.rows[shard] = positions[start : start + count][known]
        found.places[shard] = np.flatnonzero(known)
        fresh[shard] = tuple((int(i), keys[start + i]) for i in np.flatnonzero(~known))
        start += count
    found.images = int(there.sum())
    found.corpus = NewFiles(corpus, fresh)
    return found


class NewFiles(Corpus):
    """The new files of a folder, at the places that they have in its whole listing."""

    unique_keys = True

    def __init__(self, whole: Corpus, files: dict[str, tuple[tuple[int, str], ...]]) -> None:
        assert whole.root is not None
        self._whole, self._files, self._root = whole, files, str(whole.root)

    def shards(self) -> list[str]:
        return list(self._files)

    def count(self, shard: str) -> int:
        return len(self._files[shard])

    def batch(self, shard: str, start: int = 0, stop: int | None = None) -> NewBatch:
        return NewBatch(self._root, shard, self._files[shard][start:stop])

    def fetch(self, locations: Sequence[tuple[str, str, int]]) -> Iterator[Sample]:
        return self._whole.fetch(locations)

    def fingerprint(self) -> str:
        return self._whole.fingerprint()

    def listing(self) -> Iterator[tuple[str, int]]:
        return self._whole.listing()


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


def start(config: Any, corpus: Corpus, stage: Stage) -> Reuse:
    """Begin an extension: check it, then open the stage and put the old shards' parts there."""
    found = reuse(corpus, config.extend, stage, config.statistics)
    stage.open()
    if found.old is None:
        found.images = copy_parts(corpus, config.extend, config.out)
    return found


def write(
    out: Path, number: int, shard: str, columns: dict[str, list[Any]], schema: pa.Schema,
    reused: Reuse | None,
) -> None:  # fmt: skip
    """Write the part of a shard whose new rows are in `columns`."""
    if reused is None:
        write_part(out, number, columns, schema)
    else:
        write_part(out, number, reused.whole(shard, columns, schema), schema)
