"""The layouts of the two downstream sets as people hold them: SECOND's and OpenEarthMap's.

SECOND: `im1 im2 label1 label2` are folders of the same names. They lie at the root (the training
pairs, as in the archive) with the test pairs below `test/`, or below `train/` and `test/`, or
below folders with these words in their names. `A B`, `T1 T2` and `time1 time2` are taken for
im1 im2 where they hold the same names. Labels are colours, in `label1_rgb` where `label1` holds
class ids.

OpenEarthMap: `<region>/{images,labels}/<region>_<n>.tif` beside train.txt, val.txt and test.txt
of bare file names; or all regions in one `images` and one `labels`.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from core.errors import UserError
from data.formats.names import listed_names, portable, read_text
from data.pairs.items import (
    IMAGE_FOLDERS,
    MASK_FOLDERS,
    SUFFIXES,
    Item,
    Listing,
    Report,
    by_stem,
    child,
    hash_split,
    partner,
)

DATES = {
    "im1": ("im1", "a", "t1", "time1"),
    "im2": ("im2", "b", "t2", "time2"),
}
LABELS = {"im1": ("label1_rgb", "label1"), "im2": ("label2_rgb", "label2")}
DEPTH = 3  # folders between the root and what is looked for


def second(root: Path, dates: Sequence[str], labels: bool = False) -> Listing | None:
    """SECOND below `root`, split by pair; None when it is not there.

    Args:
        root: folder.
        dates: 'im1', 'im2' or both: which images of a pair to list.
        labels: list only images with a label, as their mask, and call the split beside train
            'val' instead of 'test'.

    Raises UserError: a date is missing, or two folders hold pairs of one split.
    """
    sides: dict[str, Path] = {}
    for side in _sides(root):
        split = _split_of(side.relative_to(root))
        if split in sides:
            raise UserError(
                f"{root}: {sides[split]} and {side} both hold pairs of split '{split}'; name the "
                "folder above one train and one test"
            )
        sides[split] = side
    if not sides:
        return None
    report = Report()
    other = "val" if labels else "test"
    splits = {
        split: _second_side(root, side, dates, labels, report) for split, side in sides.items()
    }
    if len(splits) == 2 and "train" in splits:  # train with val, or with test
        (held,) = set(splits) - {"train"}
        splits = {"train": splits["train"], other: splits[held]}
        report.note(f"{root}: SECOND layout with its own split")
    elif len(splits) == 1 and "train" in splits:
        report.note(f"{root}: SECOND layout without a test folder")
        splits = hash_split(splits["train"], other, report)
    else:
        report.note(f"{root}: SECOND layout with splits {', '.join(sorted(splits))}")
    return Listing(root, "second", splits, report)


def _sides(root: Path) -> Iterator[Path]:
    """Folders that hold im1 and im2, the root first."""
    for folder in _folders(root):
        first, last = (child(folder, DATES[date]) for date in DATES)
        literal = child(folder, ("im1", "im2")) is not None
        if literal or (first is not None and last is not None and _same_names(first, last)):
            yield folder


def _folders(root: Path) -> Iterator[Path]:
    """A folder and those below it, breadth first, without folders of images."""
    level = [root]
    for _ in range(DEPTH + 1):
        yield from level
        known = {"im1", "im2", *LABELS["im1"], *LABELS["im2"]}
        level = [
            Path(entry.path)
            for folder in level
            for entry in sorted(os.scandir(folder), key=lambda entry: entry.name)
            if entry.is_dir() and entry.name[0] != "." and entry.name.lower() not in known
        ]


def _same_names(first: Path, second: Path) -> bool:
    """Whether two folders hold images, and mostly of the same names."""
    one, two = (
        {path.stem for path in folder.iterdir() if path.suffix.lower() in SUFFIXES}
        for folder in (first, second)
    )
    return 2 * len(one & two) > max(len(one), len(two))


def _split_of(path: Path) -> str:
    words = re.findall(r"[a-z]+", path.as_posix().lower())
    return next((split for split in ("test", "val", "train") if split in words), "train")


def _second_side(
    root: Path, side: Path, dates: Sequence[str], labels: bool, report: Report
) -> list[Item]:
    by_date, by_label = {}, {}
    for date in dates:
        folder = child(side, DATES[date])
        if folder is None:
            raise UserError(f"{side}: SECOND layout, but no {date}/ (dates: {', '.join(dates)})")
        by_date[date] = by_stem(folder, report)
        label = child(side, LABELS[date])
        by_label[date] = by_stem(label, report) if label is not None else {}
    items = []
    for stem in sorted(set().union(*by_date.values())):
        found = {date: files[stem] for date, files in by_date.items() if stem in files}
        if len(found) < len(dates):
            report.add("pair without its other date", next(iter(found.values())).name)
            continue
        place = (side / stem).relative_to(root).as_posix()
        for date, path in found.items():
            mask = by_label[date].get(stem)
            key = path.relative_to(root).as_posix()
            if labels and mask is None:
                report.add("image without a label", key)
                continue
            items.append(Item(key, path, mask if labels else None, place))
    return sorted(items, key=lambda item: item.key)


def open_earth_map(root: Path) -> Listing | None:
    """OpenEarthMap at or below `root`; None when it is not there.

    Names that are listed but absent (those of xBD, which is distributed apart) and images without
    a label (the test split's are withheld) are counted. Raises UserError when two images have one
    name, by which the lists could not tell them apart.
    """
    for folder in _folders(root):
        if (folder / "train.txt").is_file() and (regions := _regions(folder)):
            return _open_earth_map(folder, regions)
    return None


def _regions(root: Path) -> list[Path]:
    """Folders with an images folder in them: regions, or the root itself."""
    places = [root, *sorted(path for path in root.iterdir() if path.is_dir())]
    return [place for place in places if child(place, IMAGE_FOLDERS) is not None]


def _open_earth_map(root: Path, regions: list[Path]) -> Listing:
    report = Report()
    images: dict[str, Path] = {}
    for region in regions:
        folder = child(region, IMAGE_FOLDERS)
        for path in sorted(folder.iterdir()) if folder else ():
            if path.suffix.lower() in SUFFIXES and path.name[0] != ".":
                if path.name in images:
                    raise UserError(f"{path}: its name is taken by {images[path.name]}")
                images[path.name] = path
    xbd = _xbd_names(root)
    splits: dict[str, list[Item]] = {}
    seen: set[str] = set()
    for split in ("val", "test", "train"):  # an image in two lists stays out of training
        if not (root / f"{split}.txt").is_file():
            report.note(f"{root}: no {split}.txt, so nothing is in split '{split}'")
        items = []
        for name in listed_names(root / f"{split}.txt"):
            found = images.get(name) or images.get(f"{name}.tif")
            if found is None:
                of = " (an xBD image)" if Path(name).stem in xbd else ""
                report.add(f"listed in {split}.txt, not on disk{of}", name)
                continue
            if found.name in seen:
                report.add("listed twice", name)
                continue
            seen.add(found.name)
            # The label's path is built from the region's folder: replacing 'images' in the
            # whole path would break below any parent of that name.
            region = found.parent.parent
            folder = child(region, MASK_FOLDERS)
            mask = partner(folder, found) if folder else None
            if mask is None:
                report.add(f"{split} image without a label", name)
                continue
            group = region.name if region != root else found.stem.rpartition("_")[0] or found.stem
            items.append(Item(found.relative_to(root).as_posix(), found, mask, group))
        splits[split] = sorted(items, key=lambda item: item.key)
    for name in sorted(set(images) - seen):
        report.add("on disk, in no split list", name)
    report.note(f"{root}: OpenEarthMap layout with its own split")
    ordered = {split: splits[split] for split in ("train", "val", "test")}
    return Listing(root, "openearthmap", ordered, report)


def _xbd_names(root: Path) -> set[str]:
    """Stems of the images that xbd_files.csv names, whatever its columns are."""
    path = root / "xbd_files.csv"
    if not path.is_file():
        return set()
    found = re.findall(r"[^\s,;\"']+\.(?:tif|png)", read_text(path))
    return {Path(portable(name)).stem for name in found}
