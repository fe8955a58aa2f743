"""Parquet copies of the downstream sets as the folders that they come in.

SECOND (EVER-Z/torchange_second: t1_image, t2_image, t1_mask, t2_mask, image_name) becomes
im1 im2 label1 label2 and test/; OpenEarthMap (EVER-Z/open_earth_map: image, mask, image_name)
becomes <region>/{images,labels} with train.txt, val.txt and test.txt. The split of a row is the
first word of its file's name (train-00000-of-00004.parquet), as Hugging Face writes them. Encoded
bytes stay as they are; a file that is there already is not written again.
"""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

import pyarrow.parquet as pq

from core.atomic import atomic_path, write_text
from core.errors import UserError
from core.progress import progress
from core.stage import Result, Stage
from data.corpus.sharded.opened import ERRORS, damage_of
from data.formats.tables import count_rows
from data.images.decode import Reject, sniff
from data.pairs.config import UnpackConfig

SECOND = {"t1_image": "im1", "t2_image": "im2", "t1_mask": "label1", "t2_mask": "label2"}
OEM = {"image": "images", "mask": "labels"}
SUFFIXES = {"PNG": ".png", "TIFF": ".tif", "JPEG": ".jpg", "BMP": ".bmp", "WEBP": ".webp"}
ROWS = 16  # rows held at a time


def unpack(config: UnpackConfig, stage: Stage) -> Result:
    """Write every row's files. Raises UserError when two rows have one place, or one is no row."""
    files = config.files
    stage.open()
    counts: Counter[str] = Counter()
    lists: dict[str, list[str]] = {}
    layout = ""
    seen: dict[tuple[str, str], str] = {}
    total = sum(count_rows(path) for path in files)
    with progress(total=total, name="unpack") as bar:
        for path in files:
            split = _split(path)
            for row in _rows(path):
                layout = layout or _layout(row, path)
                name = _name(row, path)
                folder = "test" if layout == "second" and split != "train" else ""
                place = folder, PurePosixPath(name).stem
                if place in seen:  # one would be written over the other
                    raise UserError(
                        f"{path}: '{name}' has the place of '{seen[place]}'; give the files of one "
                        "set, each once, and rename what has the same name"
                    )
                seen[place] = f"{name} of {path.name}"
                if layout == "second":
                    _write_row(row, name, config.out / folder, SECOND, path)
                else:
                    region = place[1].rpartition("_")[0] or place[1]
                    written = _write_row(row, name, config.out / region, OEM, path)
                    lists.setdefault(split, []).append(written)
                counts[split] += 1
                bar.update()
    if not seen:
        raise UserError(f"{config.parquet}: its Parquet files hold no rows")
    for split in ("train", "val", "test") if layout == "openearthmap" else ():
        write_text(config.out / f"{split}.txt", "".join(f"{n}\n" for n in lists.get(split, [])))
    line = f"{layout}: " + ", ".join(f"{split} {count:,}" for split, count in counts.items())
    return stage.finish({"layout": layout, "rows": dict(counts)}, [], line)


def _split(path: Path) -> str:
    word = re.split(r"[^a-z]", path.stem.lower())[0]
    split = {"validation": "val", "valid": "val", "training": "train"}.get(word, word)
    if split not in ("train", "val", "test"):
        raise UserError(f"{path}: of which split? expected train-..., val-... or test-....parquet")
    return split


def _rows(path: Path) -> Iterator[dict[str, Any]]:
    try:
        with pq.ParquetFile(path) as file:
            wanted = [*SECOND, *OEM, "image_name"]
            columns = [name for name in file.schema_arrow.names if name in wanted]
            for batch in file.iter_batches(ROWS, columns=columns):
                yield from batch.to_pylist()
    except ERRORS as error:
        why = damage_of(os.fspath(path), error)
        raise UserError(f"{path}: damaged ({why}); fetch it again") from None


def _layout(row: dict[str, Any], path: Path) -> str:
    if {"t1_image", "t2_image", "image_name"} <= set(row):
        return "second"
    if {"image", "image_name"} <= set(row):
        return "openearthmap"
    raise UserError(
        f"{path}: neither SECOND (t1_image, t2_image, image_name) nor OpenEarthMap (image, "
        f"image_name); of these it has {', '.join(row) or 'none'}"
    )


def _name(row: dict[str, Any], path: Path) -> str:
    name = str(row["image_name"] or "")
    if not name or PurePosixPath(name).name != name or name.startswith("."):
        raise UserError(
            f"{path}: image_name '{name}' is no file name; it must not lead out of its folder"
        )
    return name


def _write_row(
    row: dict[str, Any], name: str, folder: Path, columns: dict[str, str], path: Path
) -> str:
    """Write the files of a row, each in its column's folder. Returns the first one's name."""
    first = ""
    for column, kind in columns.items():
        if row.get(column) is not None:
            data, suffix = _bytes(row[column], column, name, path)
            file_name = PurePosixPath(name).stem + suffix
            _write(folder / kind / file_name, data)
            first = first or file_name
    return first


def _bytes(value: Any, column: str, name: str, path: Path) -> tuple[bytes, str]:
    data = value.get("bytes") if isinstance(value, dict) else value
    if not isinstance(data, bytes):
        raise UserError(f"{path}: {column} of '{name}' holds no encoded image")
    try:
        return data, SUFFIXES[sniff(data)]
    except (Reject, KeyError) as error:
        raise UserError(f"{path}: {column} of '{name}' is no image ({error})") from None


def _write(path: Path, data: bytes) -> None:
    if path.is_file() and path.stat().st_size == len(data):
        return
    with atomic_path(path) as temporary:
        temporary.write_bytes(data)
