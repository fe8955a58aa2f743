"""Parquet copies of the downstream sets as the folders that they come in.

    python -m data.unpack --parquet P --out FOLDER

SECOND (EVER-Z/torchange_second: t1_image, t2_image, t1_mask, t2_mask, image_name) becomes
im1 im2 label1 label2 and test/; OpenEarthMap (EVER-Z/open_earth_map: image, mask, image_name)
becomes <region>/{images,labels} with train.txt, val.txt and test.txt. The split of a row is the
first word of its file's name (train-00000-of-00004.parquet), as Hugging Face writes them. Encoded
bytes stay as they are; a file that is there already is not written again.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from core.atomic import atomic_path, write_text
from core.errors import UserError
from core.settings import parse, science, settings
from core.stage import Stage, digest_of, require_folder
from data.images.decode import Reject, sniff

SECOND = {"t1_image": "im1", "t2_image": "im2", "t1_mask": "label1", "t2_mask": "label2"}
OEM = {"image": "images", "mask": "labels"}
SUFFIXES = {"PNG": ".png", "TIFF": ".tif", "JPEG": ".jpg", "BMP": ".bmp", "WEBP": ".webp"}
ROWS = 16  # rows held at a time


@settings
class UnpackConfig:
    """What to unpack, and where to."""

    parquet: Path
    """Folder of the Parquet files (anywhere below it)."""
    out: Path
    """Output folder: the set as it comes in folders."""


def main(argv: Sequence[str] | None = None) -> int | None:
    """The command. Raises UserError for what the user can mend."""
    config = parse(
        UnpackConfig,
        argv,
        prog="python -m data.unpack",
        description="Write a Parquet copy of SECOND or OpenEarthMap as folders of images.",
    )
    require_folder(config.out)
    files = sorted(p for p in config.parquet.rglob("*.parquet") if "/." not in p.as_posix())
    if not files:
        raise UserError(f"{config.parquet}: no Parquet files in it")
    inputs = {"parquet": digest_of([[path.name, path.stat().st_size] for path in files])}
    stage = Stage(config.out, "data.unpack", science(config), inputs)
    if stage.done():
        return 0
    stage.open()
    from core.progress import progress
    from data.formats.tables import count_rows

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
                    _second(row, name, config.out, folder, path)
                else:
                    lists.setdefault(split, []).append(_oem(row, name, config.out, path))
                counts[split] += 1
                bar.update()
    if not seen:
        raise UserError(f"{config.parquet}: its Parquet files hold no rows")
    for split in ("train", "val", "test") if layout == "openearthmap" else ():
        write_text(config.out / f"{split}.txt", "".join(f"{n}\n" for n in lists.get(split, [])))
    line = f"{layout}: " + ", ".join(f"{split} {count:,}" for split, count in counts.items())
    stage.finish({"layout": layout, "rows": dict(counts)}, [], line)
    return 0


def _split(path: Path) -> str:
    word = re.split(r"[^a-z]", path.stem.lower())[0]
    split = {"validation": "val", "valid": "val", "training": "train"}.get(word, word)
    if split not in ("train", "val", "test"):
        raise UserError(f"{path}: of which split? expected train-..., val-... or test-....parquet")
    return split


def _rows(path: Path) -> Iterator[dict[str, Any]]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path) as file:
            wanted = [*SECOND, *OEM, "image_name"]
            columns = [name for name in file.schema_arrow.names if name in wanted]
            for batch in file.iter_batches(ROWS, columns=columns):
                yield from batch.to_pylist()
    except (pa.ArrowException, OSError) as error:
        why = str(error).splitlines()[0]
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


def _second(row: dict[str, Any], name: str, out: Path, folder: str, path: Path) -> None:
    for column, kind in SECOND.items():
        if row.get(column) is not None:
            data, suffix = _bytes(row[column], column, name, path)
            _write(out / folder / kind / (PurePosixPath(name).stem + suffix), data)


def _oem(row: dict[str, Any], name: str, out: Path, path: Path) -> str:
    stem = PurePosixPath(name).stem
    region = stem.rpartition("_")[0] or stem
    file_name = ""
    for column, kind in OEM.items():
        if row.get(column) is not None:
            data, suffix = _bytes(row[column], column, name, path)
            _write(out / region / kind / (stem + suffix), data)
            file_name = file_name or stem + suffix
    return file_name


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
