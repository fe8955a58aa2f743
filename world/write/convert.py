"""Write the corpus of a miniature world again as shards (`python -m world.convert --help`).

The encoded bytes of every image stay as they are, broken ones included, so that what any reader
finds can be compared by content. (GeoTIFFs, form naip, keep the pixels instead.)
"""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

from core.atomic import atomic_path, write_text
from core.errors import UserError
from core.settings import parse, science, settings
from core.stage import Stage, require_folder
from data.corpus.base import Corpus, Sample
from data.corpus.specs import open_corpus

if TYPE_CHECKING:
    import pyarrow as pa

Form = Literal[
    "webdataset", "rs5m", "rs5m-csv", "arrow-early", "arrow", "arrow-saved", "parquet", "naip"
]  # fmt: skip


@settings
class ConvertConfig:
    """What to write, and in which form."""

    world: Path
    """Miniature world (its corpus/ is read), or any folder of images."""
    out: Path
    """Output folder."""
    form: Form = "webdataset"
    """webdataset: tars of KEY.jpg, KEY.png, ... rs5m: tars of .img_content, .img_name and
    .caption. rs5m-csv: img_only/ and a list of its images. arrow-early: Git-10M's first columns,
    image and text, as Arrow streams; arrow: its current columns; arrow-saved: the same as
    save_to_disk leaves them. parquet: the current columns. naip: GeoTIFFs of four bands, of a world
    made with --write-truth-rasters; pixels are kept, bytes are not."""
    shard_rows: int = 1000
    """Images in a shard."""


def main(argv: Sequence[str] | None = None) -> int | None:
    """The command. Raises UserError for what the user can mend."""
    config = parse(
        ConvertConfig,
        argv,
        prog="python -m world.convert",
        description="Write a corpus of image files as the shards in which data sets come.",
    )
    if config.shard_rows < 1:
        raise UserError(f"--shard-rows {config.shard_rows}: must be at least 1")
    folder = config.world / "corpus" if (config.world / "corpus").is_dir() else config.world
    corpus = open_corpus(f"folder:{folder}")
    if config.out.resolve().is_relative_to(folder.resolve()):
        raise UserError(f"--out {config.out} lies inside {folder}; move it out")
    require_folder(config.out)
    stage = Stage(config.out, "world.convert", science(config), {"corpus": corpus.fingerprint()})
    if stage.done():
        return 0
    stage.open()
    if config.form == "naip":
        from world.write.naip import write_naip

        outputs, images = write_naip(config.world, config.out, config.shard_rows)
    else:
        outputs = convert(corpus, config.out, config.form, config.shard_rows)
        images = len(corpus)
    line = f"{images:,} of {len(corpus):,} images as {config.form}, {len(outputs)} files"
    stage.finish({"images": images, "form": config.form}, outputs, line)
    return 0


def convert(corpus: Corpus, out: Path, form: Form, shard_rows: int) -> list[Path]:
    """Write a corpus in one form. Returns the files, or for rs5m-csv the list alone.

    Raises UserError for an image that cannot be read.
    """
    if form == "rs5m-csv":
        return _list(_samples(corpus), out)
    write = _WRITERS[form]
    made: list[Path] = []
    total = -(-len(corpus) // shard_rows)
    rows: list[Sample] = []
    for sample in _samples(corpus):
        rows.append(sample)
        if len(rows) == shard_rows:
            made.append(write(out, len(made), total, rows))
            rows = []
    if rows:
        made.append(write(out, len(made), total, rows))
    if form == "arrow-saved":
        state: dict[str, Any] = {
            "_data_files": [{"filename": path.name} for path in made],
            "_fingerprint": "0", "_format_columns": None, "_format_kwargs": {},
            "_format_type": None, "_output_all_columns": False, "_split": None,
        }  # fmt: skip
        write_text(out / "state.json", json.dumps(state, indent=2))
        write_text(out / "dataset_info.json", json.dumps({"features": features()}, indent=2))
    return made


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


def _tar(path: Path, members: Iterator[tuple[str, bytes]]) -> Path:
    with atomic_path(path) as temporary, tarfile.open(temporary, "w") as tar:
        for name, data in members:
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return path


def _webdataset(out: Path, number: int, total: int, rows: list[Sample]) -> Path:
    def members() -> Iterator[tuple[str, bytes]]:
        seen: set[str] = set()
        for sample in rows:
            path = Path(sample.key)
            stem = _stem(path)
            if stem in seen:
                raise UserError(f"{sample.key}: two images would be the WebDataset key '{stem}'")
            seen.add(stem)
            yield f"{stem}{path.suffix}", sample.data or b""
            yield f"{stem}.txt", caption(sample).encode()

    return _tar(out / f"train-{number:05d}.tar", members())


def _stem(path: Path) -> str:
    """A WebDataset key: what follows the first dot would be the extension."""
    return path.with_suffix("").as_posix().replace(".", "_")


def _rs5m(out: Path, number: int, total: int, rows: list[Sample]) -> Path:
    def members() -> Iterator[tuple[str, bytes]]:
        for place, sample in enumerate(rows):
            yield f"{place:08d}.caption", caption(sample).encode()
            yield f"{place:08d}.img_content", sample.data or b""
            yield f"{place:08d}.img_name", sample.key.encode()

    return _tar(out / "train" / f"rs3-train-{number:04d}.tar", members())


def _list(samples: Iterator[Sample], out: Path) -> list[Path]:
    import csv

    text = io.StringIO()
    lines = csv.writer(text)
    lines.writerow(["img_name", "caption"])
    for sample in samples:
        path = out / "img_only" / "rs3" / sample.key
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(sample.data or b"")
        lines.writerow([sample.key, caption(sample)])
    write_text(out / "rs3_train.csv", text.getvalue())
    return [out / "rs3_train.csv"]


def features(early: bool = False) -> dict[str, Any]:
    """Hugging Face's description of the columns, which datasets keeps in the schema."""
    value = {"_type": "Value"}
    if early:
        return {"image": {"_type": "Image"}, "text": {"dtype": "string", **value}}
    return {
        "image": {"_type": "Image"},
        "img_name": {"dtype": "string", **value},
        "img_quality_score": {"dtype": "float64", **value},
        "caption": {"dtype": "string", **value},
        "caption_length": {"dtype": "int64", **value},
        "resolution": {"dtype": "string", **value},
        "Google_location": {"dtype": "string", **value},
    }


def table(rows: list[Sample], early: bool = False) -> pa.Table:
    """Git-10M's columns for some images: `early`, image and text; else the current ones.

    Every fifth image is one of a public data set: no tile, level 0.
    """
    import pyarrow as pa

    levels = [0 if i % 5 == 4 else level(sample) for i, sample in enumerate(rows)]
    images = [{"bytes": s.data, "path": s.key} for s in rows]
    image = pa.array(images, pa.struct([("bytes", pa.binary()), ("path", pa.string())]))
    metadata = {"huggingface": json.dumps({"info": {"features": features(early)}})}
    columns: dict[str, Any] = {"image": image}
    captions = [caption(sample) for sample in rows]
    if early:
        columns["text"] = [
            f"{z}_GOOGLE_LEVEL_{text}" for z, text in zip(levels, captions, strict=True)
        ]
    else:
        columns |= {
            "img_name": [sample.key for sample in rows],
            "img_quality_score": [quality(sample) for sample in rows],
            "caption": captions,
            "caption_length": [len(text.split()) for text in captions],
            "resolution": pa.array([str(2.0 ** (17 - z)) if z else None for z in levels]),
            "Google_location": pa.array(
                [f"{z}_{100 + i}_{200 + i}" if z else None for i, z in enumerate(levels)],
                pa.string(),
            ),
        }
    return pa.table(columns).replace_schema_metadata(metadata)


BATCH_ROWS = 100  # rows of a record batch or row group


def write_stream(path: Path, rows: pa.Table) -> Path:
    """An Arrow IPC stream, as Hugging Face datasets writes them."""
    import pyarrow as pa

    with (
        atomic_path(path) as temporary,
        pa.OSFile(str(temporary), "wb") as sink,
        pa.ipc.new_stream(sink, rows.schema) as writer,
    ):
        writer.write_table(rows, max_chunksize=BATCH_ROWS)
    return path


def _arrow(out: Path, number: int, total: int, rows: list[Sample]) -> Path:
    return write_stream(out / f"data-{number:05d}-of-{total:05d}.arrow", table(rows))


def _arrow_early(out: Path, number: int, total: int, rows: list[Sample]) -> Path:
    return write_stream(out / f"git10m-train-{number:05d}-of-{total:05d}.arrow", table(rows, True))


def _parquet(out: Path, number: int, total: int, rows: list[Sample]) -> Path:
    import pyarrow.parquet as pq

    path = out / f"train-{number:05d}-of-{total:05d}.parquet"
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
