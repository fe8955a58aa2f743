"""Write the world's reference, SR and SIS sets in the other forms they are held in.

    python -m world.convert_sets --world world --form second-split --out second

Encoded bytes stay as they are. SECOND's labels, which the world's own sr/ has none of, are
rendered from its truth: classes where the two dates differ, 'unchanged' elsewhere.
"""

from __future__ import annotations

import dataclasses
import functools
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from core.atomic import atomic_path, write_text
from core.errors import UserError
from core.settings import parse, science, settings
from core.stage import Stage, fingerprint, read_manifest, require_folder
from world.plan.config import WorldConfig

SetForm = Literal[
    "reference-parquet", "reference-splits", "second", "second-split", "second-parquet",
    "openearthmap-flat", "openearthmap-parquet",
]  # fmt: skip
ROWS = 50  # rows of a Parquet file
SECOND_OF_OEM = (0, 2, 3, 2, 2, 4, 1, 3, 5)
"""SECOND's class (water 1, ground 2, low vegetation 3, tree 4, building 5) of each of
OpenEarthMap's; SECOND's playgrounds do not occur."""


@settings
class ConvertSetsConfig:
    """What to write, and in which form."""

    world: Path
    """Miniature world (python -m world.build)."""
    out: Path
    """Output folder."""
    form: SetForm = "reference-parquet"
    """reference-parquet: image and label columns, as Hugging Face copies. reference-splits: the
    class folders below a wrapping folder's train/ and val/. second: im1 im2 label1 label2, and
    test/. second-split: train/ and test/, colours in label1_rgb and class ids in label1.
    second-parquet: t1_image t2_image t1_mask t2_mask. openearthmap-flat: images/ and labels/ of
    all regions. openearthmap-parquet: image mask image_name."""


def main(argv: Sequence[str] | None = None) -> int | None:
    """The command. Raises UserError for what the user can mend."""
    config = parse(
        ConvertSetsConfig,
        argv,
        prog="python -m world.convert_sets",
        description="Write the miniature world's reference, SR and SIS sets in other forms.",
    )
    require_folder(config.out)
    stage = Stage(
        config.out, "world.convert_sets", science(config), {"world": fingerprint(config.world)}
    )
    if stage.done():
        return 0
    stage.open()
    files = _WRITERS[config.form](config.world, config.out)
    stage.finish({"form": config.form}, files, f"{len(files):,} files as {config.form}")
    return 0


def _put(path: Path, data: bytes) -> Path:
    with atomic_path(path) as temporary:
        temporary.write_bytes(data)
    return path


def _reference(world: Path) -> list[Path]:
    files = sorted((world / "reference").glob("*/*.jpg"))
    if not files:
        raise UserError(f"{world}/reference: no images; the world was made without them")
    return files


def _table(
    path: Path, columns: dict[str, list[Any]], images: Sequence[str], features: dict[str, Any]
) -> Path:
    """A Parquet file as Hugging Face datasets writes it: `images` hold encoded bytes."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    arrays = {
        name: pa.array([{"bytes": v, "path": None} for v in values], kind)
        if name in images else pa.array(values)
        for name, values in columns.items()
    }  # fmt: skip
    described = {**{name: {"_type": "Image"} for name in images}, **features}
    metadata = {"huggingface": json.dumps({"info": {"features": described}})}
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_path(path) as temporary:
        table = pa.table(arrays).replace_schema_metadata(metadata)
        pq.write_table(table, temporary, row_group_size=20)
    return path


def _reference_parquet(world: Path, out: Path) -> list[Path]:
    files = _reference(world)
    names = sorted({path.parent.name for path in files})
    features = {"label": {"_type": "ClassLabel", "names": names}}
    made = []
    total = -(-len(files) // ROWS)
    for number, start in enumerate(range(0, len(files), ROWS)):
        part = files[start : start + ROWS]
        columns: dict[str, list[Any]] = {
            "image": [path.read_bytes() for path in part],
            "label": [names.index(path.parent.name) for path in part],
        }
        path = out / "data" / f"train-{number:05d}-of-{total:05d}.parquet"
        made.append(_table(path, columns, ["image"], features))
    return made


def _reference_splits(world: Path, out: Path) -> list[Path]:
    return [
        _put(
            out / "Scenes" / ("val" if number % 5 == 4 else "train") / path.parent.name / path.name,
            path.read_bytes(),
        )
        for number, path in enumerate(_reference(world))
    ]


@dataclasses.dataclass(frozen=True)
class _Place:
    """An SR place: its two images, and the land cover that changed at either date (SECOND ids)."""

    name: str
    split: str
    images: tuple[bytes, bytes]
    labels: tuple[NDArray[np.uint8], NDArray[np.uint8]]


def _places(world: Path) -> list[_Place]:
    from world.paint.tiles import render
    from world.plan.sets import plan_sets

    params = read_manifest(world)["params"]
    config = WorldConfig(out=world, **params)
    classes = np.array(SECOND_OF_OEM, np.uint8)
    firsts = [item for item in plan_sets(config) if item.kind == "sr" and item.epoch == 0]
    if not firsts:
        raise UserError(f"{world}/sr: no images; the world was made without them")
    places = []
    for item in firsts:
        first = world / item.paths[0]
        images = tuple(
            (first.parent.parent / date / first.name).read_bytes() for date in ("im1", "im2")
        )
        covers = [
            classes[
                render(
                    item.scene, config.seed, item.index, item.size, stream="sr", epoch=epoch
                ).mask
            ]
            for epoch in (0, 1)
        ]
        changed = covers[0] != covers[1]
        labels = tuple(np.where(changed, cover, 0).astype(np.uint8) for cover in covers)
        split = "test" if "test" in first.relative_to(world).parts else "train"
        places.append(_Place(first.name, split, images, labels))  # type: ignore[arg-type]
    return places


def _second(world: Path, out: Path, folders: dict[str, str], ids: bool) -> list[Path]:
    from data.pairs.palettes import PALETTES
    from world.write.encode import png

    made = []
    for place in _places(world):
        for date in (0, 1):
            side = out / folders[place.split]
            made.append(_put(side / f"im{date + 1}" / place.name, place.images[date]))
            colours = png(PALETTES["second"].paint(place.labels[date]))
            label = side / f"label{date + 1}"
            if ids:
                made.append(_put(label / place.name, png(place.labels[date])))
                label = label.with_name(f"{label.name}_rgb")
            made.append(_put(label / place.name, colours))
    return made


def _second_parquet(world: Path, out: Path) -> list[Path]:
    from data.pairs.palettes import PALETTES
    from world.write.encode import png

    columns = ("t1_image", "t2_image", "t1_mask", "t2_mask")
    made = []
    places = _places(world)
    for split in ("train", "test"):
        rows = [place for place in places if place.split == split]
        masks = [[png(PALETTES["second"].paint(p.labels[date])) for p in rows] for date in (0, 1)]
        values = [[p.images[0] for p in rows], [p.images[1] for p in rows], *masks]
        table = dict(zip(columns, values, strict=True))
        path = out / "data" / f"{split}-00000-of-00001.parquet"
        names = {"image_name": [place.name for place in rows]}
        made.append(_table(path, {**table, **names}, columns, {}))
    return made


def _regions(world: Path) -> tuple[Path, list[Path]]:
    root = world / "sis" / "OpenEarthMap_wo_xBD"
    files = sorted(root.glob("*/images/*.tif"))
    if not files:
        raise UserError(f"{root}: no images; the world was made without them")
    return root, files


def _openearthmap_flat(world: Path, out: Path) -> list[Path]:
    root, files = _regions(world)
    made = []
    for path in files:
        made.append(_put(out / "images" / path.name, path.read_bytes()))
        label = path.parent.parent / "labels" / path.name
        if label.is_file():
            made.append(_put(out / "labels" / path.name, label.read_bytes()))
    for split in ("train", "val", "test"):
        write_text(out / f"{split}.txt", (root / f"{split}.txt").read_text(encoding="utf-8"))
        made.append(out / f"{split}.txt")
    return made


def _openearthmap_parquet(world: Path, out: Path) -> list[Path]:
    root, files = _regions(world)
    by_name = {path.name: path for path in files}
    made = []
    for split in ("train", "val"):
        listed = (root / f"{split}.txt").read_text(encoding="utf-8").split()
        paths = [by_name[name] for name in listed if name in by_name]
        columns: dict[str, list[Any]] = {
            "image": [path.read_bytes() for path in paths],
            "mask": [(p.parent.parent / "labels" / p.name).read_bytes() for p in paths],
            "image_name": [path.name for path in paths],
        }
        path = out / "data" / f"{split}-00000-of-00001.parquet"
        made.append(_table(path, columns, ("image", "mask"), {}))
    return made


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
