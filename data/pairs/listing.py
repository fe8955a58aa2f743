"""Pairs for the two downstream tasks: where they lie on disk, and how they are split.

Super-resolution (SR) needs high-resolution images: the SECOND change-detection set, or any
folder of images. Semantic image synthesis (SIS) needs images with class masks: OpenEarthMap,
or any `<group>/{images,masks}` tree. This module lists and pairs files by name, never by
position, and decodes none; whatever cannot be used is counted with its reason.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from core.errors import UserError
from data.corpus.folder import walk_folders
from data.pairs.items import (
    IMAGE_FOLDERS,
    MASK_FOLDERS,
    SUFFIXES,
    TEST_FRACTION,
    Item,
    Listing,
    Report,
    by_stem,
    child,
    hash_split,
    natural,
)
from data.pairs.layouts import open_earth_map, second

_SPLITS = {"train": "train", "training": "train", "val": "val", "valid": "val", "validation": "val"}


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


def _folder(root: Path | str) -> Path:
    root = Path(root)
    if not root.is_dir():
        raise UserError(f"{root}: no such folder (--data)")
    return root


def _folders(root: Path) -> list[Path]:
    found = [Path(base) for base, _, _ in walk_folders(root)]
    return sorted(found, key=lambda path: natural(path.relative_to(root).as_posix()))


def _walk(root: Path) -> list[Path]:
    files = (Path(base) / name for base, _, names in walk_folders(root) for name in names)
    found = (path for path in files if path.name[0] != ".")
    return sorted(found, key=lambda path: path.relative_to(root).as_posix())


