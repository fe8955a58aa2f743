"""Subset indices for other tools: a list of keys, Parquet, WebDataset, Croissant."""

from __future__ import annotations

import dataclasses
import io
import itertools
import json
import os
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from core.atomic import atomic_path, write_json, write_text
from core.errors import UserError
from core.parts import make_parts
from core.stage import Result, Stage, sha256_file
from data.corpus.base import Sample
from data.corpus.specs import open_corpus
from data.corpus.verified import check_corpus, images_of, verified
from data.formats.index import read_index
from data.images import chips
from data.images.decode import sniff
from prune.subsets.config import ExportConfig

EXTENSIONS = {"JPEG": "jpg", "TIFF": "tif"}  # by format; otherwise its name in lower case
GROUP = 256  # images a row group: a reader of one image need not read a thousand
Write = Callable[[Path, pa.Table, Iterator[Sample], int], None]
"""(file, rows, their images, index of the first row): writes one file of a subset."""


def export(config: ExportConfig, stage: Stage) -> Result:
    """Write the subset in the form that is asked for. A stopped export continues.

    Raises UserError for an image that cannot be read or has other bytes than when it was scored.
    """
    table, metadata = read_index(config.index)
    if config.with_images:
        assert config.corpus is not None
        corpus = open_corpus(config.corpus)
        check_corpus(corpus, table.num_rows, lambda rows: images_of(table.take(rows)))
    stage.open()
    out = config.out
    if config.to == "keys":
        write_text(out, "\n".join(table.column("key").to_pylist()) + "\n")
        files = [out]
    elif config.to == "croissant":
        write_json(out, croissant(config, table, metadata))
        files = [out]
    elif config.to == "webdataset":
        files = _with_images(table, config, "subset-{:06d}.tar", _write_tar)
    elif config.with_images:
        files = _with_images(table, config, "subset-{:05d}.parquet", _parquet_writer(metadata))
    else:
        files = [out / "subset-00000.parquet"]
        with atomic_path(files[0]) as temporary:
            described = table.replace_schema_metadata(_features(table.schema, metadata))
            pq.write_table(described, temporary, compression="zstd", row_group_size=1 << 18)
    size = sum(path.stat().st_size for path in files)
    line = f"{table.num_rows:,} images as {config.to}, {len(files):,} files ({size / 1e6:,.1f} MB)"
    return stage.finish(
        {"images": table.num_rows, "form": config.to}, [f.name for f in files], line
    )


def _with_images(table: pa.Table, config: ExportConfig, name: str, write: Write) -> list[Path]:
    """Write the files that are not there yet, each with the rows and images that belong to it."""
    assert config.corpus is not None
    corpus = open_corpus(config.corpus)
    size = config.shard_rows
    parts = [table.slice(start, size) for start in range(0, table.num_rows, size)]
    paths = [config.out / name.format(index) for index in range(len(parts))]

    def make(left: list[int], tick: Callable[[int], object]) -> Iterator[tuple[int, Path]]:
        for index in left:
            part = parts[index]
            places, digests = images_of(part)
            samples = verified(corpus.fetch(places), digests)
            with atomic_path(paths[index]) as temporary:
                write(temporary, part, _readable(samples, config), index * size)
            tick(part.num_rows)
            yield index, paths[index]

    return make_parts(
        [part.num_rows for part in parts],
        lambda index: paths[index] if paths[index].exists() else None,
        make,
        lambda _, path: path,
        name="export",
    )


def _readable(samples: Iterator[Sample], config: ExportConfig) -> Iterator[Sample]:
    for sample in samples:
        if sample.data is None:
            reason, detail = sample.error or ("unreadable", "")
            raise UserError(
                f"{config.corpus}: {sample.key} of the subset cannot be read ({reason}: {detail}); "
                "put it back, or score the corpus again"
            )
        if sample.data.startswith(chips.MAGIC):  # which Pillow and browsers do not read
            more = sample.more or {}
            data = chips.chip_to_file(sample.data, more.get("crs"), more.get("bounds"))
            sample = dataclasses.replace(sample, data=data)
        yield sample


def _parquet_writer(metadata: dict[str, Any]) -> Write:
    """Writes an Image column, as the library `datasets` has it, before the index's columns."""
    field = pa.field("image", pa.struct([("bytes", pa.binary()), ("path", pa.string())]))

    def write(path: Path, part: pa.Table, samples: Iterator[Sample], _: int) -> None:
        schema = pa.schema([field, *part.schema])
        schema = schema.with_metadata(_features(schema, metadata))
        with pq.ParquetWriter(path, schema, compression="zstd") as writer:
            for start in range(0, part.num_rows, GROUP):
                rows = part.slice(start, GROUP)
                images = [
                    {"bytes": sample.data, "path": sample.key}
                    for sample in itertools.islice(samples, rows.num_rows)
                ]
                rows = rows.add_column(0, field, pa.array(images, field.type))
                writer.write_table(rows.cast(schema), row_group_size=GROUP)

    return write


def _features(schema: pa.Schema, metadata: dict[str, Any]) -> dict[bytes, bytes]:
    """Schema metadata from which the library `datasets` knows the columns; and ours."""
    names = {"double": "float64", "float": "float32"}
    features: dict[str, Any] = {
        field.name: {"_type": "Image"}
        if field.name == "image"
        else {"dtype": names.get(str(field.type), str(field.type)), "_type": "Value"}
        for field in schema
    }
    return {
        b"huggingface": json.dumps({"info": {"features": features}}).encode(),
        b"rsprune": json.dumps(metadata, sort_keys=True, ensure_ascii=False).encode(),
    }


def _write_tar(path: Path, part: pa.Table, samples: Iterator[Sample], first: int) -> None:
    with tarfile.open(path, "w", format=tarfile.PAX_FORMAT) as tar:
        for index, (row, sample) in enumerate(zip(part.to_pylist(), samples, strict=True), first):
            assert sample.data is not None
            kind = sniff(sample.data)
            # By index: a key may hold dots and slashes, which WebDataset reads as structure.
            stem = f"{index:09d}"
            _add(tar, f"{stem}.{EXTENSIONS.get(kind, kind.lower())}", sample.data)
            _add(tar, f"{stem}.json", json.dumps(row, ensure_ascii=False).encode())


def _add(tar: tarfile.TarFile, name: str, data: bytes) -> None:
    info = tarfile.TarInfo(name)
    info.size = len(data)
    tar.addfile(info, io.BytesIO(data))


COLUMNS = {
    "key": ("sc:Text", "name of the image in its corpus"),
    "shard": ("sc:Text", "file or folder that the image is read from"),
    "row": ("sc:Integer", "place of the image in its shard, from 0"),
    "digest": ("sc:Text", "hex SHA-256 of its encoded bytes"),
    "entropy": ("sc:Float", "Shannon entropy of its grey levels, bits in [0, 8]"),
    "cluster": ("sc:Integer", "nearest reference centroid, -1 for a method without any"),
    "similarity": ("sc:Float", "cosine to that centroid"),
    "rank": ("sc:Integer", "place in its cluster or in the method's order, from 0"),
    "chosen": ("sc:Text", "how it was chosen, for example by quota or from the remainder"),
}


def croissant(config: ExportConfig, table: pa.Table, metadata: dict[str, Any]) -> dict[str, Any]:
    """The Croissant 1.0 description of an index file as a JSON-LD object."""
    counts, method = metadata["counts"], metadata["method"]
    settings = ", ".join(f"{key} {value}" for key, value in metadata["params"].items())
    fields = [
        {
            "@type": "cr:Field",
            "@id": f"images/{name}",
            "name": name,
            "description": text,
            "dataType": kind,
            "source": {"fileObject": {"@id": "index"}, "extract": {"column": name}},
        }
        for name, (kind, text) in COLUMNS.items()
        # An index of version 0.1 has no such column.
        if name != "digest" or table.column(name).null_count < table.num_rows
    ]
    return {
        "@context": _CONTEXT,
        "@type": "sc:Dataset",
        "conformsTo": "http://mlcommons.org/croissant/1.0",
        "name": config.name,
        "description": (
            f"{counts['B']:,} of {counts['N']:,} images of a remote-sensing corpus, chosen by "
            f"the method {method} ({settings or 'no settings'}); inputs "
            + ", ".join(f"{key} {value}" for key, value in sorted(metadata["inputs"].items()))
        ),
        "license": config.license,
        "url": config.url,
        "version": "1.0.0",
        "distribution": [
            {
                "@type": "cr:FileObject",
                "@id": "index",
                "name": "index",
                "description": "subset index: one row an image",
                "contentUrl": os.path.relpath(config.index, config.out.parent),
                "contentSize": f"{config.index.stat().st_size} B",
                "encodingFormat": "application/x-parquet",
                "sha256": sha256_file(config.index),
            }
        ],
        "recordSet": [
            {
                "@type": "cr:RecordSet",
                "@id": "images",
                "name": "images",
                "description": "the images of the subset, by shard and row",
                "key": {"@id": "images/key"},
                "field": fields,
            }
        ],
    }


_TERMS = """citeAs column extract field fileProperty fileObject fileSet format includes
isLiveDataset jsonPath key md5 parentField path recordSet references regex repeated replace
separator source subField transform"""
_CONTEXT = {
    "@language": "en",
    "@vocab": "https://schema.org/",
    "cr": "http://mlcommons.org/croissant/",
    "dct": "http://purl.org/dc/terms/",
    "rai": "http://mlcommons.org/croissant/RAI/",
    "sc": "https://schema.org/",
    "conformsTo": "dct:conformsTo",
    "data": {"@id": "cr:data", "@type": "@json"},
    "dataType": {"@id": "cr:dataType", "@type": "@vocab"},
    "examples": {"@id": "cr:examples", "@type": "@json"},
    **{term: f"cr:{term}" for term in _TERMS.split()},
}
"""That of Croissant 1.0."""
