"""What of the data is here: each source found, odd, missing or not set.

Looks at names, counts and sizes, decodes and downloads nothing, and needs no package beyond yaml,
so that it answers in a second or two, before anything is installed.
"""

from __future__ import annotations

import functools
import itertools
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from core.errors import UserError
from data.corpus.folder import FolderCorpus, is_image_name, walk_folders
from data.corpus.specs import expand, open_corpus, split_options
from data.pairs.listing import open_sis, open_sr
from data.reference.sets import open_scenes
from data.sources.registry import Source

ENOUGH = 2_000_000  # files counted in a corpus of image files before 'at least' is said
SHARDS = (".arrow", ".parquet", ".tar")
TIFFS = (".tif", ".tiff")
LOOKED = 3  # rasters whose bands are counted
ABOUT = 0.2  # a corpus whose bytes differ from the published ones by more is odd


@dataclass
class Finding:
    """One line of the list.

    Attributes:
        name: variable that says where it is, or what it is.
        kind: heading that it stands under.
        state: 'found', 'odd', 'missing' or 'not set'.
        there: what is there.
        notes: what is odd, or what to do.
    """

    name: str
    kind: str
    state: str
    there: str = ""
    notes: list[str] = field(default_factory=list)

    @property
    def ready(self) -> bool:
        """Whether work can begin with it."""
        return self.state in ("found", "odd")


def check(source: Source, least: int = 0) -> Finding:
    """Look for one source where its variable, or its fixed place, points to.

    With `least`, one with fewer images is missing; a corpus's images are counted for it, shard by
    shard.
    """
    name = source.variable or source.name
    value = os.environ.get(source.variable or "", "")
    if source.place is not None and all((source.folder / n).is_file() for n in source.found):
        value = str(source.folder)
    if not value:
        size = f" ({source.size})" if source.fetchable else ""
        return Finding(name, source.kind, "not set", source.title, [source.how + size])
    look = functools.partial(_LOOKS[source.kind], source, value, least)
    return examine(name, source.kind, value, source.how, look, bool(least))


def examine(
    name: str,
    kind: str,
    value: str,
    way_out: str,
    look: Callable[[], tuple[str, list[str]]],
    needed: bool = True,
) -> Finding:
    """What `look` finds at a place: (what is there, notes on what is odd about it).

    Where it needs a package that is not installed, what is `needed` counts as missing.
    """
    try:
        there, notes = look()
    except (UserError, OSError) as error:
        why = str(error) if isinstance(error, UserError) else f"cannot be read: {error}"
        return Finding(name, kind, "missing", value, [why, way_out])
    except ImportError as error:
        note = f"cannot be looked into: {error}"
        return Finding(name, kind, "missing" if needed else "odd", value, [note])
    odd = [note for note in notes if not _expected(note)]
    return Finding(name, kind, "odd" if odd else "found", there, notes)


def _expected(note: str) -> bool:
    """Of a downstream set: xBD's images are not in the archive, test labels are withheld."""
    return note.startswith("left out, listed in") or "without a label" in note


def _require_bands(value: str, bands: int) -> None:
    """Raise UserError where a corpus is read with, or has, other bands than are needed."""
    stated = split_options(value)[1].get("bands", "")
    if stated and "n" not in stated.lower():
        raise UserError(f"bands={stated} leaves near infrared out; {bands} bands are needed")
    from data.images.raster import DAMAGE, opened

    for path in itertools.islice((p for p in _files(value) if p.suffix.lower() in TIFFS), LOOKED):
        try:
            with opened(str(path), "TIFF") as raster:
                there = raster.count
        except DAMAGE:
            continue  # prune.score says what is wrong with a file
        if there < bands:
            raise UserError(
                f"{path}: {there} bands; {bands} are needed (red, green, blue, near infrared)"
            )


def _corpus(source: Source, value: str, least: int) -> tuple[str, list[str]]:
    if source.bands is not None:
        _require_bands(value, source.bands)
    images = shards = size = 0
    enough = least or ENOUGH
    suffixes: set[str] = set()
    listed = False
    for path in _files(value):
        suffix = path.suffix.lower()
        if suffix in SHARDS:
            shards += 1
            suffixes.add(suffix)
            size += path.stat().st_size
        elif is_image_name(path.name) or not suffix:
            images += 1
            if images >= enough and not shards:
                break
        listed = listed or suffix == ".csv"
    if not images and not shards and listed:
        lines = count_images(value, enough)
        _require(lines, least)
        return f"{value}: {'at least ' if lines >= enough else ''}{lines:,} images listed", []
    if not images and not shards:
        raise UserError("no images, and no tar, Arrow or Parquet files in it")
    notes = []
    if shards:
        there = f"{shards:,} {' and '.join(sorted(suffixes))} files, {size / 1e9:,.1f} GB"
        if source.bytes and abs(size / source.bytes - 1) > ABOUT:
            notes.append(f"{size / 1e9:,.1f} GB, about {source.bytes / 1e9:,.0f} GB are published")
        if source.number_of_files and shards != source.number_of_files:
            notes.append(f"{shards:,} files, {source.number_of_files} are published")
        if len(suffixes) > 1:
            notes.append("several kinds of shards; name one kind by a pattern")
    else:
        there = f"{'at least ' if images >= enough else ''}{images:,} image files"
        if source.images and images < enough and images != source.images:
            notes.append(f"{images:,} images, {source.images:,} are published")
    if least:
        # Of shards, and of files that are cut in chips, the reader knows how many images they are.
        _require(images if images >= least and not shards else count_images(value, least), least)
    return f"{value}: {there}", notes


def _require(images: int, least: int) -> None:
    if images < least:
        raise UserError(f"{images:,} images; at least {least:,} are needed")


def count_images(spec: str, enough: int) -> int:
    """Images of a corpus, counted until there are enough: of a folder by the names of files."""
    corpus = open_corpus(spec)
    count = 0
    if isinstance(corpus, FolderCorpus):
        for _, _, names in walk_folders(corpus.root):
            count += sum(map(is_image_name, names))
            if count >= enough:
                return count
        return count
    corpus.check()
    for shard in corpus.shards():
        count += corpus.count(shard)
        if count >= enough:
            break
    return count


def _files(spec: str) -> Iterator[Path]:
    """The files of a corpus: of a folder, of a pattern, or of what comes after 'preset:'."""
    place = split_options(spec)[0]
    head, _, rest = place.partition(":")
    if rest and head.isalnum() and not Path(place).exists():
        place = rest
    place = os.path.expanduser(place)  # noqa: PTH111 (a text, as open_corpus takes it)
    if any(character in place for character in "*?[{"):
        yield from expand(place)
        return
    if Path(place).is_file():
        yield Path(place)
        return
    if not Path(place).is_dir():
        raise UserError("no such folder")
    for base, folders, names in walk_folders(place):
        folders[:] = [name for name in folders if not name.startswith(".")]
        yield from (Path(base) / name for name in names)


def _reference(source: Source, value: str, least: int) -> tuple[str, list[str]]:
    return look_at_scenes(f"{source.name}:{value}", value, least)


def look_at_scenes(spec: str, value: str, least: int = 0) -> tuple[str, list[str]]:
    """What a reference set holds, and what is not as published."""
    scenes = open_scenes(spec)
    listed, images = sum(part.listed for part in scenes.parts), len(scenes.locations)
    _require(images, least)
    drawn = any(part.place.n is not None for part in scenes.parts)
    there = f"{value}: {listed:,} images of {len(scenes.classes)} classes"
    there += f", {images:,} of them drawn" if drawn else ""
    notes = [note.removeprefix(f"{spec.partition(':')[0]}: ") for note in scenes.notes]
    notes += [f"empty class folders: {', '.join(scenes.empty[:5])}"] if scenes.empty else []
    return there, notes


def _downstream(source: Source, value: str, least: int) -> tuple[str, list[str]]:
    listing = open_sr(value) if source.task == "sr" else open_sis(value)
    _require(sum(map(len, listing.splits.values())), least)
    groups = {
        name: len({item.group for item in items}) if source.task == "sr" else len(items)
        for name, items in listing.splits.items()
    }
    what = "pairs" if source.task == "sr" else "images with masks"
    there = ", ".join(f"{name} {count:,}" for name, count in groups.items())
    notes = []
    if listing.layout != ("second" if source.task == "sr" else "openearthmap"):
        notes.append(f"not the layout of {source.title}, but '{listing.layout}'")
    else:
        for name, count in source.pairs.items():
            there_now = groups.get(name, 0)
            if there_now > count or (there_now < count and not source.pairs_at_most):
                notes.append(f"{name}: {there_now:,} {what}, {count:,} are published")
            elif not there_now:
                notes.append(f"{name}: none")
    notes += [line for line in listing.report.lines() if line.startswith("left out")]
    return f"{value}: {there} {what}", notes


def _weights(source: Source, value: str, least: int) -> tuple[str, list[str]]:
    folder = Path(value)
    if not folder.is_dir():
        if value.count("/") == 1 and not value.startswith((".", "/")):
            return f"{value}: a repository, fetched when first used", []
        raise UserError("no such folder")
    lacking = [
        name for name in source.found if not any((folder / n).is_file() for n in name.split("|"))
    ]
    if lacking:
        raise UserError(f"no {', '.join(lacking).replace('|', ' or ')} in it")
    sizes = {file: (folder / file.name).stat().st_size for file in source.files}
    return value, [
        f"{file.name}: {size:,} bytes"
        for file, size in sizes.items()
        if not size or (file.bytes is not None and size != file.bytes)
    ]


_LOOKS: dict[str, Callable[[Source, str, int], tuple[str, list[str]]]] = {
    "corpus": _corpus,
    "reference": _reference,
    "downstream": _downstream,
    "weights": _weights,
}
