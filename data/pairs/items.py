"""What a downstream set is made of: items, what was left out and why, files matched by name."""

from __future__ import annotations

import dataclasses
import hashlib
import re
from collections import Counter, defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from core.errors import UserError
from core.stage import digest_of
from data.corpus.folder import IMAGES

SUFFIXES = IMAGES - {".gif"}
TEST_FRACTION = 0.2  # of the images, or groups, of a set that comes without a split of its own

IMAGE_FOLDERS = ("images", "image", "imgs", "img")
MASK_FOLDERS = ("masks", "mask", "labels", "label")


@dataclasses.dataclass(frozen=True, slots=True)
class Item:
    """One image of a downstream set, with its mask for SIS.

    Attributes:
        key: path below the root with '/' between parts; unique and stable.
        image: the image file.
        mask: the mask file (SIS), or None (SR).
        group: what must not be cut by the split: an SR place (both dates), an SIS tile or region.
    """

    key: str
    image: Path
    mask: Path | None
    group: str


class Report:
    """Counts of what was left out, by reason, with the first few names of each."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self.examples: dict[str, list[str]] = defaultdict(list)
        self.notes: list[str] = []

    def add(self, reason: str, name: str) -> None:
        """Count one thing left out."""
        self.counts[reason] += 1
        if len(self.examples[reason]) < 3:
            self.examples[reason].append(name)

    def note(self, line: str) -> None:
        """Note what is no loss: the layout found, how the split was drawn."""
        self.notes.append(line)

    def lines(self) -> list[str]:
        """What to print, notes first."""
        return self.notes + [
            f"left out, {reason}: {count:,} (for example {', '.join(self.examples[reason])})"
            for reason, count in sorted(self.counts.items())
        ]


@dataclasses.dataclass(frozen=True)
class Listing:
    """A downstream set: its items by split, and the report of making it.

    Attributes:
        root: folder it was read from.
        layout: 'second', 'folder', 'openearthmap' or 'groups'.
        splits: split name -> items, ordered by key.
        report: what was left out and why.
    """

    root: Path
    layout: str
    splits: dict[str, list[Item]]
    report: Report

    def items(self, split: str) -> list[Item]:
        """Items of one split. Raises UserError when the set has no such split, or an empty one."""
        items = self.splits.get(split, [])
        if not items:
            have = ", ".join(f"{name} ({len(found):,})" for name, found in self.splits.items())
            raise UserError(
                "\n  ".join(
                    [f"{self.root}: nothing in split '{split}' (has: {have})", *self.report.lines()]
                )
            )
        return items

    def fingerprint(self, split: str) -> str:
        """Digest of a split's keys and file sizes: another listing is another input."""
        return digest_of(
            [
                [item.key, item.image.stat().st_size, item.mask.stat().st_size if item.mask else 0]
                for item in self.items(split)
            ]
        )

    def summary(self) -> dict[str, Any]:
        """JSON-able counts for a manifest."""
        return {
            "layout": self.layout,
            "splits": {name: len(items) for name, items in self.splits.items()},
            "left_out": dict(sorted(self.report.counts.items())),
            "notes": self.report.notes,
        }


def natural(name: str) -> list[tuple[int, int, str]]:
    """Sort key by which tile10 comes after tile9."""
    parts = re.split(r"(\d+)", name)
    return [(0, int(p), p) if p.isdigit() else (1, 0, p) for p in parts if p]


def hash_split(items: list[Item], held: str, report: Report) -> dict[str, list[Item]]:
    """Hold out a fifth of the groups, by SHA-256 of their names, at least one of two."""
    names = {item.group for item in items}
    groups = sorted(names, key=lambda name: hashlib.sha256(name.encode()).digest())
    count = max(1, round(TEST_FRACTION * len(groups))) if len(groups) > 1 else 0
    out = set(groups[:count])
    report.note(f"no split of its own: {count:,} of {len(groups):,} by hash are '{held}'")
    return {
        "train": [item for item in items if item.group not in out],
        held: [item for item in items if item.group in out],
    }


def child(folder: Path, names: Iterable[str]) -> Path | None:
    """The child folder with the first of these names that exists, in any case of letters."""
    children = {path.name.lower(): path for path in sorted(folder.iterdir()) if path.is_dir()}
    return next((children[name] for name in names if name in children), None)


def by_stem(folder: Path, report: Report) -> dict[str, Path]:
    """Image files directly in `folder` by stem; stems that two files share are left out."""
    found: dict[str, list[Path]] = defaultdict(list)
    for path in sorted(folder.iterdir()):
        if path.is_file() and path.suffix.lower() in SUFFIXES and path.name[0] != ".":
            found[path.stem].append(path)
    for stem, paths in found.items():
        if len(paths) > 1:
            report.add("two files with one stem", f"{folder.name}/{stem}")
    return {stem: paths[0] for stem, paths in found.items() if len(paths) == 1}


def partner(folder: Path, image: Path) -> Path | None:
    """The file of `folder` with the image's name, or else its stem, if there is one."""
    if (folder / image.name).is_file():
        return folder / image.name
    found = [path for path in sorted(folder.glob("*")) if path.stem == image.stem]
    return found[0] if len(found) == 1 else None
