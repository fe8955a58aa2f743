"""How a reference set is named, where it lies, and what it should hold."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from core.errors import UserError
from data.corpus.base import Corpus
from data.corpus.folder import FolderCorpus, is_image_name, walk_folders
from data.corpus.specs import expand, split_options
from data.sources.registry import Source, sources

UNIONS = {"union3": ("ucm", "nwpu", "aid"), "union5": ("ucm", "nwpu", "aid", "whurs19", "rsd46")}
"""Table 4's unions; its single sets are ucm: (21 classes) and nwpu: (45)."""
FOLDERS = {
    "ucm": ("ucm", "ucmerced", "ucmercedlanduse"),
    "nwpu": ("nwpu", "nwpuresisc45", "resisc45"),
    "aid": ("aid",),
    "whurs19": ("whurs19", "rs19"),
    "rsd46": ("rsd46", "rsd46whu"),
}
"""What people call their folders, without case and punctuation, for union5:FOLDER."""
EXPECTED = "expected ROOT/CLASS/IMAGE, or Parquet files with an image and a label column"
ABOUT = 0.1  # how far a count that is published as 'about' may be off


@dataclass(frozen=True)
class Place:
    """One set of a reference, spelled out.

    Attributes:
        where: folder, file or pattern.
        prefix: what its keys and labels begin with; '' for a folder that stands alone.
        source: what is published of it, if it is a known set.
        n, seed: images of a stratified draw (None: all) and its seed.
        image, label: columns of Parquet files, if named.
    """

    where: str
    prefix: str = ""
    source: Source | None = None
    n: int | None = None
    seed: int = 0
    image: str | None = None
    label: str | None = None

    def __str__(self) -> str:
        options = {"n": "all" if self.n is None else self.n, "seed": self.seed,
                   "image": self.image, "label": self.label}  # fmt: skip
        tail = "&".join(f"{name}={value}" for name, value in options.items() if value is not None)
        return f"{self.prefix + ':' if self.prefix else ''}{self.where}?{tail}"


def known_sets() -> dict[str, Source]:
    """The reference sets of data/sources/sources.yaml."""
    return {name: source for name, source in sources().items() if source.kind == "reference"}


def resolve(spec: Path | str | Sequence[str]) -> tuple[list[Place], str | None]:
    """The places that a specification means, and the union's name when it is one alone.

    Raises UserError: no such place, a variable that is not set, or a set named twice.
    """
    words = [str(spec)] if isinstance(spec, str | Path) else [str(word) for word in spec]
    names = "|".join([*known_sets(), *UNIONS])
    words = [w for word in words for w in re.split(rf",(?=(?:{names}):)", word)]
    if not words or not all(words):
        raise UserError("the reference is empty; give a folder of class folders, or ucm:FOLDER")
    places: list[Place] = []
    union = None
    for word in words:
        head, colon, rest = word.partition(":")
        if colon and head in UNIONS:
            union = head if len(words) == 1 else None
            places += _union(head, rest)
        elif colon and head in known_sets():
            places.append(_known(head, rest))
        else:
            places.append(_plain(word, alone=len(words) == 1))
    twice = [name for name, count in Counter(p.prefix for p in places).items() if count > 1]
    if twice:
        raise UserError(f"the reference names '{twice[0]}' twice; its keys would not be unique")
    return places, union


def _plain(word: str, alone: bool) -> Place:
    where, options = split_options(word)
    head, _, rest = where.partition(":")
    if rest and re.fullmatch(r"[\w.-]+", head) and not Path(where).exists():
        return _options(rest, head, None, options)  # under a name of the user's own
    if alone:
        return _options(where, "", None, options)
    return _options(where, re.sub(r"[^\w.-]", "_", Path(where).name) or "set", None, options)


def _known(name: str, rest: str) -> Place:
    source = known_sets()[name]
    where, options = split_options(rest)
    if not where:
        assert source.variable is not None
        where = os.environ.get(source.variable, "")
        if not where:
            raise UserError(
                f"{name}: give its folder ({name}:FOLDER), or set {source.variable}; "
                f"{source.how}"
            )
    return _options(where, name, source, options)


def _union(name: str, folder: str) -> Iterator[Place]:
    if not folder:
        yield from (_known(member, "") for member in UNIONS[name])
        return
    if not Path(folder).is_dir():
        members = ", ".join(UNIONS[name])
        raise UserError(f"{name}:{folder}: no such folder; it should hold {members}")
    there: dict[str, list[str]] = {}
    for entry in sorted(os.scandir(folder), key=lambda entry: entry.name):
        if entry.is_dir():
            there.setdefault(re.sub(r"[^a-z0-9]", "", entry.name.lower()), []).append(entry.path)
    for member in UNIONS[name]:
        found = [path for known in FOLDERS[member] for path in there.get(known, [])]
        if len(found) > 1:
            raise UserError(f"{name}:{folder}: {' and '.join(found)} may both be {member}")
        if not found and not os.environ.get(known_sets()[member].variable or ""):
            raise UserError(
                f"{name}:{folder}: no folder of {member} in it (named as {FOLDERS[member][-1]}), "
                f"and {known_sets()[member].variable} is not set"
            )
        yield _known(member, found[0] if found else "")


def _options(
    where: str, prefix: str, source: Source | None, options: Mapping[str, str]
) -> Place:
    unknown = sorted(set(options) - {"n", "seed", "image", "label"})
    if unknown:
        raise UserError(f"{where}: unknown option '{unknown[0]}'; there are n, seed, image, label")
    n: int | None = source.sample if source is not None else None
    try:
        if "n" in options:
            n = None if options["n"] == "all" else int(options["n"])
        seed = int(options.get("seed", "0"))
    except ValueError:
        raise UserError(f"{where}: ?n= and &seed= are whole numbers, or n=all") from None
    if n is not None and n < 1:
        raise UserError(f"{where}: ?n={n}: draw at least one image")
    where = os.path.expanduser(where)  # noqa: PTH111 (a shell leaves the tilde of ucm:~/UCM alone)
    return Place(where, prefix, source, n, seed, options.get("image"), options.get("label"))


def open_place(place: Place) -> Corpus:
    """The images of a set: a folder of images, or Parquet or Arrow files anywhere below it.

    Raises UserError when nothing is there.
    """
    path = Path(place.where)
    if path.is_dir():
        files = [] if _holds_images(path) else _table_files(path)
        return _tables(place, path, files) if files else FolderCorpus(path)
    if path.suffix.lower() in (".parquet", ".arrow"):
        return _tables(place, path.parent, [path] if path.is_file() else expand(place.where))
    known = ", ".join([*known_sets(), *UNIONS])
    raise UserError(
        f"{place.where}: no such folder; {EXPECTED} (sets that have a name: {known})"
    )


def _tables(place: Place, base: Path, files: list[Path]) -> Corpus:
    from data.corpus.sharded.columnar import ParquetCorpus, TableCorpus
    from data.corpus.sharded.hub import open_arrow

    options = {"key": "row", **({"image": place.image} if place.image else {})}
    if files[0].suffix.lower() == ".parquet":
        corpus: TableCorpus = ParquetCorpus(place.where, base, files, options)
    else:
        corpus = open_arrow(place.where, base, files, options, None)
    corpus.check()
    return corpus


def _holds_images(folder: Path) -> bool:
    """Whether an image lies in a subfolder of a folder (beside Parquet files it is a picture)."""
    for base, folders, names in walk_folders(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        if Path(base) != folder and any(map(is_image_name, names)):
            return True
    return False


def _table_files(folder: Path) -> list[Path]:
    """Parquet files anywhere below a folder, or else Arrow files, in order."""
    for suffix in (".parquet", ".arrow"):
        below = (Path(base) / name for base, _, names in walk_folders(folder) for name in names)
        found = [
            path for path in below
            if path.suffix.lower() == suffix
            and not any(part.startswith(".") for part in path.relative_to(folder).parts)
        ]  # fmt: skip
        if found:
            return sorted(found)
    return []


def compare(place: Place, images: int, counts: Counter[str], others: int) -> list[str]:
    """What is not as published: one line each, with both numbers."""
    notes = []
    source = place.source
    if others:
        notes.append(f"{others:,} files in class folders are not named as images")
    if source is None:
        return notes
    expected = source.images
    near = expected is not None and source.images_about and abs(images / expected - 1) <= ABOUT
    if expected not in (None, images) and not near and images not in source.also_images:
        about = "about " if source.images_about else ""
        notes.append(f"{images:,} images, {about}{expected:,} are published")
    if source.classes is not None and len(counts) != source.classes:
        notes.append(f"{len(counts)} classes, {source.classes} are published")
    if source.per_class is not None:
        low, high = source.per_class
        odd = {name: count for name, count in counts.items() if not low <= count <= high}
        if odd:
            shown = ", ".join(f"{name} {count:,}" for name, count in sorted(odd.items())[:3])
            more = f" and {len(odd) - 3} more" if len(odd) > 3 else ""
            span = f"{low:,}" if low == high else f"{low:,} to {high:,}"
            notes.append(f"{shown}{more}: {span} images a class are published")
    if place.n is not None and images < place.n:
        notes.append(f"{place.n:,} were to be drawn; all {images:,} are taken")
    return notes


def compare_union(union: str, images: int) -> list[str]:
    """The size of a union against the paper's (2,100 to 55,605 images in Table 4)."""
    members = [known_sets()[name] for name in UNIONS[union]]
    expected = sum(member.sample or member.images or 0 for member in members)
    if images == expected:
        return []
    return [f"{union}: {images:,} images, the paper's has {expected:,}"]
