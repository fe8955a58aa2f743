"""Pairs for the two downstream tasks: where they lie on disk, and how they are split.

Super-resolution (SR) needs high-resolution images: the SECOND change-detection set, or any
folder of images. Semantic image synthesis (SIS) needs images with class masks: OpenEarthMap,
or any `<group>/{images,masks}` tree. This module lists and pairs files by name, never by
position, and decodes none; whatever cannot be used is counted with its reason.
"""

from __future__ import annotations

import dataclasses
import hashlib
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from core.errors import UserError
from core.stage import digest_of
from data.corpus.folder import walk_folders

SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp", ".webp"})
TEST_FRACTION = 0.2  # of the images, or groups, of a set that comes without a split of its own

IMAGE_FOLDERS = ("images", "image", "imgs", "img")
MASK_FOLDERS = ("masks", "mask", "labels", "label")
_SPLITS = {"train": "train", "training": "train", "val": "val", "valid": "val", "validation": "val"}


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
        """Say something that is no loss: the layout found, how the split was drawn."""
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


def open_sr(root: Path | str, dates: Sequence[str] = ("im1", "im2")) -> Listing:
    """High-resolution images for super-resolution: SECOND's layout, else a folder of images.

    SECOND (see data/pairs/layouts.py): every date in `dates` gives an image, and a pair never has
    its dates on two sides. Elsewhere a fifth of the images, those with the smallest SHA-256 of
    their key, are the test split.

    Raises UserError for a missing folder, an unknown date, or a folder without images.
    """
    root = _folder(root)
    if not dates or any(date not in ("im1", "im2") for date in dates):
        raise UserError(f"dates {list(dates)}: expected im1, im2 or both")
    from data.pairs.layouts import second  # layouts build on this module

    found = second(root, dates)
    if found is not None:
        return found
    report = Report()
    paths = []
    for path in _walk(root):
        if path.suffix.lower() in SUFFIXES:
            if path.is_file():
                paths.append(path)
            else:  # a link to nowhere
                report.add("unreadable", path.relative_to(root).as_posix())
    if not paths:
        raise UserError(f"{root}: no images ({', '.join(sorted(SUFFIXES))}) at or below it")
    keys = [path.relative_to(root).as_posix() for path in paths]
    items = [Item(key, path, None, key) for key, path in zip(keys, paths, strict=True)]
    report.note(f"{root}: a folder of {len(items):,} images")
    return Listing(root, "folder", hash_split(items, "test", report), report)


def open_sis(root: Path | str) -> Listing:
    """Images with class masks: OpenEarthMap, else SECOND, else `<group>/{images,masks}`.

    OpenEarthMap and SECOND: see data/pairs/layouts.py. SECOND's labels name the classes of what
    changed between the dates and nothing else.

    Groups: image and mask are paired by stem. The split goes by group (tile, region, scene):
    folders called train and val say it themselves; else the last fifth of the groups, in
    natural order and at least one, is val.

    Raises UserError for a missing folder or one in neither layout.
    """
    root = _folder(root)
    from data.pairs.layouts import open_earth_map, second  # layouts build on this module

    return open_earth_map(root) or second(root, ("im1", "im2"), labels=True) or _groups(root)


def _groups(root: Path) -> Listing:
    report = Report()
    groups: dict[str, list[Item]] = {}
    for folder in _folders(root):
        images, masks = child(folder, IMAGE_FOLDERS), child(folder, MASK_FOLDERS)
        if images is None or masks is None:
            continue
        group = folder.relative_to(root).as_posix()
        groups[group] = _pair_up(root, images, masks, group, report)
    if not groups:
        raise UserError(
            f"{root}: neither OpenEarthMap (train.txt beside <region>/images, <region>/labels) "
            "nor SECOND (im1, im2, label1, label2) nor <group>/images with <group>/masks"
        )
    stated = {group: _SPLITS.get(group.split("/")[0].lower()) for group in groups}
    splits: dict[str, list[Item]] = {"train": [], "val": []}
    if "train" in stated.values() and "val" in stated.values():
        for group, split in stated.items():
            if split is None:
                report.add("group in neither train nor val", group)
            else:
                splits[split] += groups[group]
        report.note(f"{root}: {len(groups)} groups, split by their folders train and val")
    elif len(groups) == 1:
        (items,) = groups.values()
        report.note(f"{root}: a single group, so parts of one tile may fall on both sides")
        alone = [dataclasses.replace(item, group=item.key) for item in items]
        splits = hash_split(alone, "val", report)
    else:
        names = sorted(groups, key=natural)
        val = set(names[-max(1, round(TEST_FRACTION * len(names))) :])
        for group in names:
            splits["val" if group in val else "train"] += groups[group]
        shown = sorted(val, key=natural)
        report.note(
            f"{root}: {len(groups)} groups; val: {', '.join(shown[:5])}"
            + (f" and {len(shown) - 5} more" if len(shown) > 5 else "")
        )
    for items in splits.values():
        items.sort(key=lambda item: item.key)
    return Listing(root, "groups", splits, report)


def _pair_up(root: Path, images: Path, masks: Path, group: str, report: Report) -> list[Item]:
    image_of, mask_of = by_stem(images, report), by_stem(masks, report)
    for stem in sorted(set(image_of) - set(mask_of)):
        report.add("image without a mask", image_of[stem].relative_to(root).as_posix())
    for stem in sorted(set(mask_of) - set(image_of)):
        report.add("mask without an image", mask_of[stem].relative_to(root).as_posix())
    return [
        Item(image_of[stem].relative_to(root).as_posix(), image_of[stem], mask_of[stem], group)
        for stem in sorted(set(image_of) & set(mask_of))
    ]


def natural(name: str) -> list[tuple[int, int, str]]:
    """Sort key by which tile10 comes after tile9."""
    parts = re.split(r"(\d+)", name)
    return [(0, int(p), p) if p.isdigit() else (1, 0, p) for p in parts if p]


def file_names(keys: Sequence[str]) -> list[str]:
    """One flat, unique file name (without suffix) for each key, the same on every run."""
    bare = [Path(key).with_suffix("").as_posix().replace("/", "__") for key in keys]
    count = Counter(bare)
    names = [
        name if count[name] == 1 else f"{name}-{hashlib.sha256(key.encode()).hexdigest()[:8]}"
        for name, key in zip(bare, keys, strict=True)
    ]
    if len(set(names)) != len(names):
        raise UserError("two images would be written under one name; rename one of them")
    return names


def hash_split(items: list[Item], held: str, report: Report) -> dict[str, list[Item]]:
    """Hold out a fifth of the groups, by SHA-256 of their names, at least one of two."""
    names = {item.group for item in items}
    groups = sorted(names, key=lambda name: hashlib.sha256(name.encode()).digest())
    number = max(1, round(TEST_FRACTION * len(groups))) if len(groups) > 1 else 0
    out = set(groups[:number])
    report.note(f"no split of its own: {number:,} of {len(groups):,} by hash are '{held}'")
    return {
        "train": [item for item in items if item.group not in out],
        held: [item for item in items if item.group in out],
    }


def _folder(root: Path | str) -> Path:
    root = Path(root)
    if not root.is_dir():
        raise UserError(f"{root}: no such folder (--data)")
    return root


def child(folder: Path, names: Iterable[str]) -> Path | None:
    """The child folder with the first of these names that exists, in any case of letters."""
    children = {path.name.lower(): path for path in sorted(folder.iterdir()) if path.is_dir()}
    return next((children[name] for name in names if name in children), None)


def _folders(root: Path) -> list[Path]:
    found = [Path(base) for base, _, _ in walk_folders(root)]
    return sorted(found, key=lambda path: natural(path.relative_to(root).as_posix()))


def _walk(root: Path) -> list[Path]:
    found = [
        Path(base) / name
        for base, _, names in walk_folders(root)
        for name in names
        if not name.startswith(".")
    ]
    return sorted(found, key=lambda path: path.relative_to(root).as_posix())


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


def listed_names(path: Path) -> list[str]:
    if not path.is_file():
        return []
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not UTF-8 text ({error}); save it as UTF-8") from None
    return [Path(line.strip()).name for line in text.splitlines() if line.strip()]
