"""Write the world's reference, SR and SIS sets in the other forms they are held in.

Encoded bytes stay as they are. SECOND's labels, which the world's own sr/ has none of, are
rendered from its truth: classes where the two dates differ, 'unchanged' elsewhere.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pyarrow.parquet as pq

from core.atomic import atomic_path, write_text
from core.errors import UserError
from core.stage import Result, Stage, read_manifest
from data.pairs.palettes import PALETTES
from world.paint.tiles import render
from world.plan.config import WorldConfig
from world.plan.sets import Item, plan_sets
from world.write.config import ConvertSetsConfig, SetForm
from world.write.encode import Pixels, png
from world.write.tables import image_column, with_features

ROWS = 50  # rows of a Parquet file
SECOND_OF_OEM = np.array((0, 2, 3, 2, 2, 4, 1, 3, 5), np.uint8)
"""SECOND's class (water 1, ground 2, low vegetation 3, tree 4, building 5) of each of
OpenEarthMap's; SECOND's playgrounds do not occur."""


def convert_sets(config: ConvertSetsConfig, stage: Stage) -> Result:
    """Write one of the sets in the form that is asked for."""
    stage.open()
    files = _WRITERS[config.form](config.world, config.out)
    return stage.finish(
        {"form": config.form},
        [path.relative_to(config.out) for path in files],
        line=f"{len(files):,} files as {config.form}",
    )


def _put(path: Path, data: bytes) -> Path:
    with atomic_path(path) as temporary:
        temporary.write_bytes(data)
    return path


def _require(found: list[Any], place: Path) -> list[Any]:
    if not found:
        raise UserError(f"{place}: no images; the world was made without them")
    return found


def _parquet(
    path: Path,
    images: Mapping[str, Sequence[bytes]],
    others: Mapping[str, Sequence[Any]],
    features: Mapping[str, Any] | None = None,
) -> Path:
    """A Parquet file as Hugging Face copies are: columns of encoded images, then others."""
    columns = {name: image_column(data, [None] * len(data)) for name, data in images.items()}
    described = {**{name: {"_type": "Image"} for name in images}, **(features or {})}
    with atomic_path(path) as temporary:
        table = with_features({**columns, **others}, described)
        pq.write_table(table, temporary, row_group_size=20)
    return path


def _reference(world: Path) -> list[Path]:
    place = world / "reference"
    return _require(sorted(place.glob("*/*.jpg")), place)


def _reference_parquet(world: Path, out: Path) -> list[Path]:
    files = _reference(world)
    names = sorted({path.parent.name for path in files})
    label = {"label": {"_type": "ClassLabel", "names": names}}
    parts = [files[start : start + ROWS] for start in range(0, len(files), ROWS)]
    return [
        _parquet(
            out / "data" / f"train-{index:05d}-of-{len(parts):05d}.parquet",
            {"image": [path.read_bytes() for path in part]},
            {"label": [names.index(path.parent.name) for path in part]},
            label,
        )
        for index, part in enumerate(parts)
    ]


def _reference_splits(world: Path, out: Path) -> list[Path]:
    scenes = out / "Scenes"
    return [
        _put(
            scenes / ("val" if index % 5 == 4 else "train") / path.parent.name / path.name,
            path.read_bytes(),
        )
        for index, path in enumerate(_reference(world))
    ]


@dataclasses.dataclass(frozen=True)
class _Place:
    """An SR place at two dates: its images, and what changed there (SECOND's ids at each date)."""

    name: str
    split: str
    images: list[bytes]
    labels: list[Pixels]


def _places(world: Path) -> list[_Place]:
    config = WorldConfig(out=world, **read_manifest(world)["params"])
    items = [item for item in plan_sets(config) if item.kind == "sr"]
    _require(items, world / "sr")
    return [
        _place(world, config.seed, dates) for dates in zip(items[::2], items[1::2], strict=True)
    ]


def _place(world: Path, seed: int, dates: Sequence[Item]) -> _Place:
    covers = [
        SECOND_OF_OEM[
            render(item.scene, seed, item.index, item.size, stream="sr", epoch=item.epoch).mask
        ]
        for item in dates
    ]
    changed = covers[0] != covers[1]
    labels = [np.where(changed, cover, 0).astype(np.uint8) for cover in covers]
    path = Path(dates[0].paths[0])
    split = "test" if "test" in path.parts else "train"
    images = [(world / item.paths[0]).read_bytes() for item in dates]
    return _Place(path.name, split, images, labels)


def _second(world: Path, out: Path, folders: dict[str, str], ids: bool) -> list[Path]:
    files = []
    for place in _places(world):
        side = out / folders[place.split]
        for date in (0, 1):
            files.append(_put(side / f"im{date + 1}" / place.name, place.images[date]))
            colours = png(PALETTES["second"].paint(place.labels[date]))
            label = side / f"label{date + 1}"
            if ids:
                files.append(_put(label / place.name, png(place.labels[date])))
                label = label.with_name(f"{label.name}_rgb")
            files.append(_put(label / place.name, colours))
    return files


def _second_parquet(world: Path, out: Path) -> list[Path]:
    files = []
    places = _places(world)
    for split in ("train", "test"):
        rows = [place for place in places if place.split == split]
        images = {f"t{date + 1}_image": [p.images[date] for p in rows] for date in (0, 1)}
        masks = {
            f"t{date + 1}_mask": [png(PALETTES["second"].paint(p.labels[date])) for p in rows]
            for date in (0, 1)
        }
        path = out / "data" / f"{split}-00000-of-00001.parquet"
        files.append(_parquet(path, {**images, **masks}, {"image_name": [p.name for p in rows]}))
    return files


def _regions(world: Path) -> tuple[Path, list[Path]]:
    root = world / "sis" / "OpenEarthMap_wo_xBD"
    return root, _require(sorted(root.glob("*/images/*.tif")), root)


def _label(image: Path) -> Path:
    return image.parent.parent / "labels" / image.name


def _openearthmap_flat(world: Path, out: Path) -> list[Path]:
    root, images = _regions(world)
    files = []
    for path in images:
        files.append(_put(out / "images" / path.name, path.read_bytes()))
        if _label(path).is_file():
            files.append(_put(out / "labels" / path.name, _label(path).read_bytes()))
    for split in ("train", "val", "test"):
        write_text(out / f"{split}.txt", (root / f"{split}.txt").read_text(encoding="utf-8"))
        files.append(out / f"{split}.txt")
    return files


def _openearthmap_parquet(world: Path, out: Path) -> list[Path]:
    root, images = _regions(world)
    by_name = {path.name: path for path in images}
    files = []
    for split in ("train", "val"):
        listed = (root / f"{split}.txt").read_text(encoding="utf-8").split()
        paths = [by_name[name] for name in listed if name in by_name]
        encoded = {
            "image": [path.read_bytes() for path in paths],
            "mask": [_label(path).read_bytes() for path in paths],
        }
        path = out / "data" / f"{split}-00000-of-00001.parquet"
        files.append(_parquet(path, encoded, {"image_name": [path.name for path in paths]}))
    return files


_WRITERS: dict[str, Callable[[Path, Path], list[Path]]] = {
    "reference-parquet": _reference_parquet,
    "reference-splits": _reference_splits,
    "second": functools.partial(_second, folders={"train": "", "test": "test"}, ids=False),
    "second-split": functools.partial(
        _second, folders={"train": "train", "test": "test"}, ids=True
    ),
    "second-parquet": _second_parquet,
    "openearthmap-flat": _openearthmap_flat,
    "openearthmap-parquet": _openearthmap_parquet,
}
assert set(_WRITERS) == set(get_args(SetForm))
