"""Reference sets: labelled scenes (D_ref), alone or as a union.

    FOLDER                 class folders, whatever lies above them (data/reference/folders.py)
    FOLDER or PATTERN      of Parquet or Arrow files with an image and a label column
    SET:PLACE              the same, as one of ucm, nwpu, aid, whurs19, rsd46: its counts are
                           compared with what is published, and its keys and labels carry its name
    SET:                   where the set's variable points to (UCM_ROOT, NWPU_ROOT, ...)
    union3:  union5:       Table 4: ucm, nwpu, aid; and whurs19, rsd46 beside them, each where its
                           variable points to; union5:FOLDER looks for them in one folder first

Several are given one after another, or in one with commas: ucm:/data/UCM,nwpu:/data/NWPU.
`?n=1000&seed=0` after a place draws a stratified sample: equally many of each class, the rest one
by one in the order of their names, and within a class by a hash of seed and name. RSD46-WHU is
drawn down to 11,000 of its 117,000 by itself, as the paper's counts ask; `?n=all` takes all of it.
"""

from __future__ import annotations

import dataclasses
import hashlib
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

from core.errors import UserError
from core.stage import digest_of
from data.corpus.base import Corpus, Location, Sample
from data.corpus.folder import FolderCorpus, is_folder, is_image_name
from data.reference.folders import class_parents, empty_classes, split_key
from data.reference.specs import EXPECTED, Place, compare, compare_union, open_place, resolve


@dataclass(frozen=True)
class Part:
    """One set of a reference: `place` says which and where; `listed` counts its images before a
    part of them was drawn; `notes` say what is not as published."""

    place: Place
    corpus: Corpus
    locations: list[Location]
    labels: list[str]
    empty: list[str]
    loose: list[str]
    listed: int
    notes: list[str]

    @property
    def fingerprint(self) -> str:
        """Digest of the listing and of what was drawn."""
        name, n, seed = self.place.prefix, self.place.n, self.place.seed
        plain = not name and n is None
        corpus = self.corpus.fingerprint()
        return corpus if plain else digest_of([name, corpus, n, seed, self.place.label])


@dataclass(frozen=True)
class Scenes:
    """The listing of a reference set, or of several together.

    Attributes:
        parts: the sets.
        locations: (key, shard, row) of every file in a class, by set and key. Nothing is left
            out for its name unless a part is drawn: what is no image is for the decoder to reject.
        labels: class of each location.
        empty: class folders without a file.
        loose: keys of what has no class.
        notes: what is not as published, one line each.
        fingerprint: digest of keys and sizes.
    """

    parts: list[Part]
    notes: list[str]

    @property
    def locations(self) -> list[Location]:
        return [location for part in self.parts for location in part.locations]

    @property
    def labels(self) -> list[str]:
        return [label for part in self.parts for label in part.labels]

    @property
    def empty(self) -> list[str]:
        return [name for part in self.parts for name in part.empty]

    @property
    def loose(self) -> list[str]:
        return [key for part in self.parts for key in part.loose]

    @property
    def fingerprint(self) -> str:
        fingerprints = [part.fingerprint for part in self.parts]
        return fingerprints[0] if len(fingerprints) == 1 else digest_of(fingerprints)

    @property
    def specs(self) -> tuple[str, ...]:
        """The specification with every place spelled out, for `open_reader`."""
        return tuple(str(part.place) for part in self.parts)

    @property
    def classes(self) -> list[str]:
        """Names of the classes that have files, sorted."""
        return sorted(set(self.labels))

    def describe(self) -> list[dict[str, object]]:
        """JSON-able counts of each set."""
        return [
            {
                "set": part.place.prefix or None,
                "images": len(part.locations),
                "listed": part.listed,
                "classes": len(set(part.labels)),
                "sample": part.place.n,
                "seed": part.place.seed if part.place.n is not None else None,
            }
            for part in self.parts
        ]


def open_scenes(spec: Path | str | Sequence[str]) -> Scenes:
    """List a reference set: a specification, or several (see the module's top).

    Raises:
        UserError: no such place, no class in it, no file in any class, a set named twice.
    """
    places, union = resolve(spec)
    parts = [_open(place) for place in places]
    notes = [
        f"{part.place.prefix or part.place.where}: {note}" for part in parts for note in part.notes
    ]
    if union is not None:
        notes += compare_union(union, sum(len(part.locations) for part in parts))
    return Scenes(parts, notes)


class SceneReader:
    """The images of a reference by key. Opening it lists nothing, so that workers can."""

    def __init__(self, specs: Sequence[str]) -> None:
        self._corpora = {place.prefix: open_place(place) for place in resolve(specs)[0]}

    def fetch(self, locations: Sequence[Location]) -> Iterator[Sample]:
        """The samples at (key, shard, row), in the order given; see Corpus.fetch."""
        for prefix, group in groupby(locations, self._prefix):
            start = f"{prefix}/" if prefix else ""
            inner = [(key[len(start) :], shard, row) for key, shard, row in group]
            for sample in self._corpora[prefix].fetch(inner):
                yield dataclasses.replace(sample, key=start + sample.key)

    def _prefix(self, location: Location) -> str:
        return "" if "" in self._corpora else location[0].partition("/")[0]


def open_reader(specs: Sequence[str]) -> SceneReader:
    """A reader of what `open_scenes(specs)` lists; give it `Scenes.specs`."""
    return SceneReader(specs)


def stratified(keys: Sequence[str], labels: Sequence[str], n: int, seed: int) -> list[int]:
    """Places of n keys, in order: the classes share n equally, as far as they have images.

    Args:
        keys: names that do not depend on where the set lies.
        labels: class of each.
        n: how many; all of them when there are fewer.
        seed: of the draw within each class, by the smallest SHA-256 of 'seed|key'.
    """
    order = sorted(
        range(len(keys)),
        key=lambda i: (hashlib.sha256(f"{seed}|{keys[i]}".encode()).digest(), keys[i], i),
    )
    ranked: dict[str, list[int]] = {label: [] for label in sorted(set(labels))}
    for i in order:
        ranked[labels[i]].append(i)
    taken = dict.fromkeys(ranked, 0)
    left = min(n, len(keys))
    while left:
        open_ = [label for label in ranked if taken[label] < len(ranked[label])]
        each = left // len(open_)
        for label in open_ if each else open_[:left]:
            more = min(max(each, 1), len(ranked[label]) - taken[label])
            taken[label] += more
            left -= more
    return sorted(i for label, count in taken.items() for i in ranked[label][:count])


def _open(place: Place) -> Part:
    corpus = open_place(place)
    if isinstance(corpus, FolderCorpus):
        locations, labels, names, loose, empty = _folders(place, corpus)
        listed = sum(is_image_name(key) for key, _, _ in locations) or len(locations)
    else:
        from data.reference.tables import table_scenes

        locations, labels, loose = table_scenes(corpus, place.label)  # type: ignore[arg-type]
        names, empty, listed = [key for key, _, _ in locations], [], len(locations)
    if not locations:
        raise UserError(f"{place.where}: {_lacking(Path(place.where))}; {EXPECTED}")
    notes = compare(place, listed, Counter(labels), len(locations) - listed)
    if place.n is not None:
        sizes = dict(corpus.listing()) if isinstance(corpus, FolderCorpus) else None
        usable = [
            i for i, (key, _, _) in enumerate(locations)
            if sizes is None or (is_image_name(key) and sizes[key])
        ]  # fmt: skip
        drawn = stratified(
            [f"{labels[i]}/{names[i]}" for i in usable], [labels[i] for i in usable],
            place.n, place.seed,
        )  # fmt: skip
        kept = [usable[i] for i in drawn]
        locations, labels = [locations[i] for i in kept], [labels[i] for i in kept]
        loose = []  # where a sample is drawn, what is not drawn is no reject
    start = f"{place.prefix}/" if place.prefix else ""
    return Part(
        place, corpus, [(start + key, shard, row) for key, shard, row in locations],
        [start + label for label in labels], [start + name for name in empty],
        [start + key for key in loose], listed, notes,
    )  # fmt: skip


def _lacking(root: Path) -> str:
    """What is wrong with a place without labelled images."""
    if not root.is_dir():
        return "no row with a label"
    folders = sum(is_folder(entry) for entry in os.scandir(root))
    if not folders:
        return "no class folders in it"
    return f"{folders} class folders, but no file in any of them"


def _folders(
    place: Place, corpus: FolderCorpus
) -> tuple[list[Location], list[str], list[str], list[str], list[str]]:
    """(locations, labels, paths below the class, loose keys, empty classes)."""
    try:
        keys = [key for key, _ in corpus.listing()]
    except UserError:  # no file at all
        return [], [], [], [], []
    parents = class_parents(keys)
    locations: list[Location] = []
    labels: list[str] = []
    names: list[str] = []
    loose: list[str] = []
    for shard in corpus.shards():
        for row, key in enumerate(corpus.keys(shard)):
            label, name = split_key(key, parents)
            if label:
                locations.append((key, shard, row))
                labels.append(label)
                names.append(name)
            else:
                loose.append(key)
    return locations, labels, names, loose, empty_classes(corpus.root, parents, labels)


def describe(scenes: Scenes) -> str:
    """What a reference holds and what is not as published, for the terminal."""
    lines = [f"{'set':<10}{'images':>9}{'listed':>9}{'classes':>9}  a class      where"]
    for part in scenes.parts:
        counts = Counter(part.labels).values()
        span = f"{min(counts):,} to {max(counts):,}"
        lines.append(
            f"{part.place.prefix or '-':<10}{len(part.locations):>9,}{part.listed:>9,}"
            f"{len(counts):>9}  {span:<11}  {part.place.where}"
        )
    lines.append(f"{'all':<10}{len(scenes.locations):>9,}{'':>9}{len(scenes.classes):>9}")
    for kind, names in (("without a class", scenes.loose), ("empty class folders", scenes.empty)):
        if names:
            lines.append(f"{kind}: {len(names):,}, for example {', '.join(names[:3])}")
    lines += [f"note: {note}" for note in scenes.notes]
    if not scenes.notes and any(part.place.source for part in scenes.parts):
        lines.append("counts are as published")
    return "\n".join(lines)
