"""What of the data is here (`bash scripts/check_data.sh`): found, missing, odd.

Looks at names, counts and sizes, decodes and downloads nothing, and imports neither torch nor
array libraries, so that it answers in a second or two.
"""

from __future__ import annotations

import os
import sys
import textwrap
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from core.errors import UserError
from data.corpus.folder import walk_folders
from data.reference.folders import is_image_name
from data.sources.download import default_folder
from data.sources.registry import Source, sources

ENOUGH = 2_000_000  # files counted in a corpus of image files before 'at least' is said
SHARDS = (".arrow", ".parquet", ".tar")
ABOUT = 0.2  # a corpus whose bytes differ from the published ones by more is odd


@dataclass
class Finding:
    """One data set: its state ('found', 'odd', 'missing' or 'not set'), what is there, and notes
    (what is odd, or what to do)."""

    source: Source
    state: str
    there: str = ""
    notes: list[str] = field(default_factory=list)


def check(source: Source) -> Finding:
    """Look for one source where its variable, or its fixed place, points to."""
    value = os.environ.get(source.variable or "", "")
    if source.place is not None:
        value = str(default_folder(source))
        if not all((Path(value) / name).is_file() for name in source.found):
            return Finding(source, "not set", "", [_how(source)])
    if not value:
        return Finding(source, "not set", "", [_how(source)])
    try:
        return _CHECKS[source.kind](source, value)
    except UserError as error:
        return Finding(source, "missing", value, [str(error), source.how])
    except ImportError as error:
        return Finding(source, "odd", value, [f"cannot be looked into: {error}"])
    except OSError as error:
        return Finding(source, "missing", value, [f"cannot be read: {error}", source.how])


def _how(source: Source) -> str:
    return f"{source.how} ({source.size})" if source.fetchable else source.how


def _corpus(source: Source, value: str) -> Finding:
    images = shards = size = 0
    suffixes: set[str] = set()
    for path in _files(value):
        suffix = path.suffix.lower()
        if suffix in SHARDS:
            shards += 1
            suffixes.add(suffix)
            size += path.stat().st_size
        elif is_image_name(path.name) or not suffix:
            images += 1
            if images >= ENOUGH:
                break
    notes = []
    if not images and not shards:
        raise UserError("no images, and no tar, Arrow or Parquet files in it")
    if shards:
        there = f"{shards:,} {' and '.join(sorted(suffixes))} files, {size / 1e9:,.1f} GB"
        if source.bytes and abs(size / source.bytes - 1) > ABOUT:
            notes.append(f"{size / 1e9:,.1f} GB, about {source.bytes / 1e9:,.0f} GB are published")
        if source.number_of_files and shards != source.number_of_files:
            notes.append(f"{shards:,} files, {source.number_of_files} are published")
        if len(suffixes) > 1:
            notes.append("several kinds of shards; name one kind by a pattern")
    else:
        there = f"{'at least ' if images >= ENOUGH else ''}{images:,} image files"
        if source.images and images < ENOUGH and images != source.images:
            notes.append(f"{images:,} images, {source.images:,} are published")
    return Finding(source, "odd" if notes else "found", f"{value}: {there}", notes)


def _files(spec: str) -> Iterator[Path]:
    """The files of a corpus: of a folder, of a pattern, or of what comes after 'preset:'."""
    from data.corpus.specs import expand, split_options

    place = split_options(spec)[0]
    head, _, rest = place.partition(":")
    if rest and head.isalnum() and not Path(place).exists():
        place = rest
    if any(character in place for character in "*?[{"):
        yield from expand(place)
        return
    if not Path(place).is_dir():
        raise UserError("no such folder")
    for base, folders, names in walk_folders(place):
        folders[:] = [name for name in folders if not name.startswith(".")]
        yield from (Path(base) / name for name in names)


def _reference(source: Source, value: str) -> Finding:
    from data.reference.sets import open_scenes

    scenes = open_scenes(f"{source.name}:{value}")
    (part,) = scenes.parts
    drawn = f", {len(part.locations):,} of them drawn" if part.place.n is not None else ""
    there = f"{value}: {part.listed:,} images of {len(set(part.labels))} classes{drawn}"
    notes = [note.removeprefix(f"{source.name}: ") for note in scenes.notes]
    notes += [f"empty class folders: {', '.join(scenes.empty[:5])}"] if scenes.empty else []
    return Finding(source, "odd" if notes else "found", there, notes)


def _downstream(source: Source, value: str) -> Finding:
    from data.pairs.listing import open_sis, open_sr

    listing = open_sr(value) if source.task == "sr" else open_sis(value)
    groups = {
        name: len({item.group for item in items}) if source.task == "sr" else len(items)
        for name, items in listing.splits.items()
    }
    what = "pairs" if source.task == "sr" else "images with masks"
    there = ", ".join(f"{name} {count:,}" for name, count in groups.items())
    notes = []
    wanted = "second" if source.task == "sr" else "openearthmap"
    if listing.layout != wanted:
        notes.append(f"not the layout of {source.title}, but '{listing.layout}'")
    else:
        for name, count in source.pairs.items():
            there_now = groups.get(name, 0)
            if there_now > count or (there_now < count and not source.pairs_at_most):
                notes.append(f"{name}: {there_now:,} {what}, {count:,} are published")
            elif not there_now:
                notes.append(f"{name}: none")
    lines = listing.report.lines()
    notes += [line for line in lines if line.startswith("left out")]
    odd = any(not line.startswith("left out, listed in") and "without a label" not in line
              for line in notes)  # fmt: skip
    return Finding(source, "odd" if odd else "found", f"{value}: {there} {what}", notes)


def _weights(source: Source, value: str) -> Finding:
    folder = Path(value)
    if not folder.is_dir():
        if value.count("/") == 1 and not value.startswith((".", "/")):
            return Finding(source, "found", f"{value}: a repository, fetched when first used")
        raise UserError("no such folder")
    lacking = [name for name in source.found if not (folder / name).is_file()]
    if lacking:
        raise UserError(f"no {', '.join(lacking)} in it")
    notes = []
    for file in source.files:
        size = (folder / file.name).stat().st_size
        if not size or (file.bytes is not None and size != file.bytes):
            notes.append(f"{file.name}: {size:,} bytes")
    return Finding(source, "odd" if notes else "found", value, notes)


_CHECKS: dict[str, Callable[[Source, str], Finding]] = {
    "corpus": _corpus,
    "reference": _reference,
    "downstream": _downstream,
    "weights": _weights,
}


def _named_reference(spec: str) -> str:
    """What REFERENCE_ROOT, the experiments' reference, holds: lines to print."""
    from data.reference.sets import open_scenes

    scenes = open_scenes(spec)
    lines = [f"{spec}: {len(scenes.locations):,} images of {len(scenes.classes)} classes"]
    return "\n".join(lines + [f"- {note}" for note in scenes.notes])


def main(argv: Sequence[str] | None = None) -> int:
    """Print every source's state. 1: something named is missing, or nothing is named."""
    arguments = sys.argv[1:] if argv is None else list(argv)
    if arguments:
        print((__doc__ or "").strip() + "\n\nIt takes no arguments: set variables instead.")
        return 0 if arguments[0] in ("-h", "--help") else 2
    findings = [check(source) for source in sources().values()]
    kind = ""
    for finding in findings:
        source = finding.source
        if source.kind != kind:
            kind = source.kind
            print(f"{kind}:")
        name = source.variable or source.name
        print(f"  [{finding.state:>7}] {name:<16} {finding.there or source.title}")
        for note in finding.notes:
            print(textwrap.fill(
                note, 100, initial_indent=" " * 14 + "- ", subsequent_indent=" " * 16,
                break_on_hyphens=False, break_long_words=False,
            ))  # fmt: skip
    reference, wrong = os.environ.get("REFERENCE_ROOT", ""), False
    if reference:
        try:
            print(f"REFERENCE_ROOT (what the experiments read): {_named_reference(reference)}")
        except UserError as error:
            wrong = True
            print(f"REFERENCE_ROOT (what the experiments read): [missing] {error}")
    counts = {state: sum(f.state == state for f in findings)
              for state in ("found", "odd", "missing", "not set")}  # fmt: skip
    print(", ".join(f"{count} {state}" for state, count in counts.items()) + ".")
    named = counts["found"] + counts["odd"] + counts["missing"] + bool(reference)
    if not named:
        print("Nothing is set: export the variables of what you have, and look again.")
        print("Without any of it: bash experiments/git10m_85.sh runs a miniature world, offline.")
    return 1 if wrong or counts["missing"] or not named else 0
