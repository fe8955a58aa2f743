"""Write the corpus of a miniature world, or any folder of images, as shards.

The encoded bytes of every image stay as they are, broken ones included, so that what any reader
finds can be compared by content. (GeoTIFFs, form naip, keep the pixels instead.)
"""

from __future__ import annotations

import csv
import io
import itertools
import json
import tarfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, get_args

import pyarrow as pa
import pyarrow.parquet as pq

from core.atomic import atomic_path, write_text
from core.errors import UserError
from core.stage import Result, Stage
from data.corpus.base import Corpus, Sample
from world.write.config import ConvertConfig, Form
from world.write.tables import image_column, with_features

BATCH_ROWS = 100  # rows of a record batch or row group


def convert(config: ConvertConfig, stage: Stage) -> Result:
    """Write the corpus in the form that is asked for."""
    corpus = config.corpus()
    stage.open()
    images = len(corpus)
    if config.form == "naip":
        from world.write.naip import write_naip  # rasterio takes longer than all else here

        files, images = write_naip(config.world, config.out, config.shard_rows)
    else:
        files = write_shards(corpus, config.out, config.form, config.shard_rows)
    return stage.finish(
        {"images": images, "form": config.form},
        [path.relative_to(config.out) for path in files],
        line=f"{images:,} of {len(corpus):,} images as {config.form}, {len(files)} files",
    )


def write_shards(corpus: Corpus, out: Path, form: Form, shard_rows: int) -> list[Path]:
    """Write a corpus in any form but naip. Returns the files, or for rs5m-csv the list alone.

    Raises UserError for an image that cannot be read.
    """
    samples = _samples(corpus)
    if form == "rs5m-csv":
        return [_list(samples, out)]
    total = -(-len(corpus) // shard_rows)
    files: list[Path] = []
    while rows := list(itertools.islice(samples, shard_rows)):
        files.append(_WRITERS[form](out, len(files), total, rows))
    if form == "arrow-saved":
        state: dict[str, Any] = {
            "_data_files": [{"filename": path.name} for path in files],
            "_fingerprint": "0", "_format_columns": None, "_format_kwargs": {},
            "_format_type": None, "_output_all_columns": False, "_split": None,
        }  # fmt: skip
        write_text(out / "state.json", json.dumps(state, indent=2))
        write_text(out / "dataset_info.json", json.dumps({"features": _NOW}, indent=2))
    return files


def _samples(corpus: Corpus) -> Iterator[Sample]:
    for shard in corpus.shards():
        for sample in corpus.read(shard):
            if sample.data is None:
                raise UserError(f"{sample.key}: {': '.join(sample.error or ('', ''))}")
            yield sample


def caption(sample: Sample) -> str:
    """A caption, for the place of one: 'tile z17/000123'."""
    return f"tile {Path(sample.key).with_suffix('')}"


def level(sample: Sample) -> int:
    """The zoom level that the world's folder names carry (z17/...), else 0: not known."""
    head = sample.key.partition("/")[0]
    return int(head[1:]) if head[:1] == "z" and head[1:].isdigit() else 0


def quality(sample: Sample) -> float:
    """A made-up quality score in [0, 1): encoded bytes modulo 1,000."""
    return len(sample.data or b"") % 1000 / 1000


def _tar(path: Path, members: Iterable[tuple[str, bytes]]) -> Path:
    with atomic_path(path) as temporary, tarfile.open(temporary, "w") as tar:
        for name, data in members:
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return path


def _webdataset(out: Path, index: int, total: int, rows: list[Sample]) -> Path:
    members: list[tuple[str, bytes]] = []
    seen: set[str] = set()
    for sample in rows:
        path = Path(sample.key)
        # A WebDataset key: what follows the first dot would be the extension.
        stem = path.with_suffix("").as_posix().replace(".", "_")
        if stem in seen:
            raise UserError(f"{sample.key}: two images would be the WebDataset key '{stem}'")
        seen.add(stem)
        members.append((f"{stem}{path.suffix}", sample.data or b""))
        members.append((f"{stem}.txt", caption(sample).encode()))
    return _tar(out / f"train-{index:05d}.tar", members)


def _rs5m(out: Path, index: int, total: int, rows: list[Sample]) -> Path:
    members: list[tuple[str, bytes]] = []
    for place, sample in enumerate(rows):
        members.append((f"{place:08d}.caption", caption(sample).encode()))
        members.append((f"{place:08d}.img_content", sample.data or b""))
        members.append((f"{place:08d}.img_name", sample.key.encode()))
    return _tar(out / "train" / f"rs3-train-{index:04d}.tar", members)


def _list(samples: Iterator[Sample], out: Path) -> Path:
    text = io.StringIO()
    lines = csv.writer(text)
    lines.writerow(["img_name", "caption"])
    for sample in samples:
        path = out / "img_only" / "rs3" / sample.key
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(sample.data or b"")
        lines.writerow([sample.key, caption(sample)])
    write_text(out / "rs3_train.csv", text.getvalue())
    return out / "rs3_train.csv"


def _features(**kinds: str) -> dict[str, Any]:
    """Hugging Face's description of the columns, which datasets keeps in the schema."""
    values = {name: {"dtype": kind, "_type": "Value"} for name, kind in kinds.items()}
    return {"image": {"_type": "Image"}, **values}


_EARLY = _features(text="string")
_NOW = _features(
    img_name="string", img_quality_score="float64", caption="string", caption_length="int64",
    resolution="string", Google_location="string",
)  # fmt: skip


def table(rows: list[Sample], early: bool = False) -> pa.Table:
    """Git-10M's columns for some images: `early`, image and text; else the current ones.

    Every fifth image is one of a public data set: no tile, level 0.
    """
    levels = [0 if i % 5 == 4 else level(sample) for i, sample in enumerate(rows)]
    captions = [caption(sample) for sample in rows]
    columns: dict[str, Any] = {"image": image_column([s.data for s in rows], [s.key for s in rows])}
    if early:
        columns["text"] = [
            f"{z}_GOOGLE_LEVEL_{text}" for z, text in zip(levels, captions, strict=True)
        ]
        return with_features(columns, _EARLY)
    places = [f"{z}_{100 + i}_{200 + i}" if z else None for i, z in enumerate(levels)]
    columns |= {
        "img_name": [sample.key for sample in rows],
        "img_quality_score": [quality(sample) for sample in rows],
        "caption": captions,
        "caption_length": [len(text.split()) for text in captions],
        "resolution": pa.array([str(2.0 ** (17 - z)) if z else None for z in levels]),
        "Google_location": pa.array(places, pa.string()),
    }
    return with_features(columns, _NOW)


def write_stream(path: Path, rows: pa.Table) -> Path:
    """An Arrow IPC stream, as Hugging Face datasets writes them."""
    with (
        atomic_path(path) as temporary,
        pa.OSFile(str(temporary), "wb") as sink,
        pa.ipc.new_stream(sink, rows.schema) as writer,
    ):
        writer.write_table(rows, max_chunksize=BATCH_ROWS)
    return path


def _arrow(out: Path, index: int, total: int, rows: list[Sample]) -> Path:
    return write_stream(out / f"data-{index:05d}-of-{total:05d}.arrow", table(rows))


def _arrow_early(out: Path, index: int, total: int, rows: list[Sample]) -> Path:
    return write_stream(out / f"git10m-train-{index:05d}-of-{total:05d}.arrow", table(rows, True))


def _parquet(out: Path, index: int, total: int, rows: list[Sample]) -> Path:
    path = out / f"train-{index:05d}-of-{total:05d}.parquet"
    with atomic_path(path) as temporary:
        pq.write_table(table(rows), temporary, row_group_size=BATCH_ROWS)
    return path


_WRITERS: dict[str, Callable[[Path, int, int, list[Sample]], Path]] = {
    "webdataset": _webdataset,
    "rs5m": _rs5m,
    "arrow-early": _arrow_early,
    "arrow": _arrow,
    "arrow-saved": _arrow,
    "parquet": _parquet,
}
assert {*_WRITERS, "rs5m-csv", "naip"} == set(get_args(Form))
