"""Subset indices for other tools: `python -m prune.index export INDEX --to FORM --out OUT`.

    --to keys --out subset.txt         one key a line, in the order of the index
    --to parquet --out FOLDER          for load_dataset("parquet", data_files="FOLDER/*.parquet");
                                       with --corpus C the images are in it, as an Image column
    --to webdataset --corpus C --out FOLDER     tars of 000000000.jpg, 000000000.json, ...
    --to croissant --out subset.json   a Croissant 1.0 description of the index (JSON-LD)

The bytes of an image are those of the corpus. A stopped export continues after its last file.
"""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import tyro

from core.atomic import atomic_path, write_json, write_text
from core.errors import UserError
from core.settings import parse, place, science, settings
from core.stage import Stage, sha256_file

if TYPE_CHECKING:
    import pyarrow as pa

    from data.corpus.base import Corpus, Sample

Form = Literal["keys", "parquet", "webdataset", "croissant"]
EXTENSIONS = {"JPEG": "jpg", "TIFF": "tif"}  # by format; otherwise its name in lower case
GROUP = 256  # images a row group: a reader of one image need not read a thousand


@settings
class ExportConfig:
    """Settings of prune.index export."""

    index: tyro.conf.Positional[Path]
    """Subset index (Parquet)."""
    out: Path
    """keys: a .txt file; croissant: a .json file; parquet, webdataset: a folder."""
    to: Form = "keys"
    """keys | parquet | webdataset | croissant."""
    corpus: str | None = place(None)
    """webdataset, parquet: the corpus that was scored, as prune.score takes it."""
    shard_rows: int = 1000
    """webdataset, parquet with images: images in a file."""
    name: str = "rs-prune-subset"
    """croissant: name of the data set."""
    license: str = "unknown"
    """croissant: licence of the corpus (SPDX identifier or URL); a subset does not change it."""
    url: str = "https://arxiv.org/abs/2512.23239"
    """croissant: page of the data set."""


def export(argv: Sequence[str]) -> int:
    """The command. Raises UserError for what the user can mend."""
    config = parse(
        ExportConfig,
        argv,
        prog="python -m prune.index export",
        description="Write a subset for other tools.",
    )
    single = {"keys": ".txt", "croissant": ".json"}.get(config.to)
    if config.out.suffix != (single or ""):
        wanted = f"a name ending in {single}" if single else "the name of a folder"
        raise UserError(f"--out {config.out}: --to {config.to} takes {wanted}")
    if config.shard_rows < 1:
        raise UserError(f"--shard-rows {config.shard_rows}: must be at least 1")
    if config.to == "webdataset" and config.corpus is None:
        raise UserError("--to webdataset needs --corpus: the images are read from it")
    from data.formats.index import read_index

    table, metadata = read_index(config.index)
    corpus = None
    inputs = {"index": sha256_file(config.index)}
    if config.corpus is not None and single is None:
        from data.corpus.specs import open_corpus

        corpus = open_corpus(config.corpus)
        inputs["corpus"] = corpus.fingerprint()
        root = corpus.root
        if root is not None and config.out.resolve().is_relative_to(root.resolve()):
            raise UserError(f"--out {config.out} lies inside --corpus {config.corpus}; move it out")
    stage = Stage(config.out, "prune.export", science(config), inputs)
    if stage.done():
        return 0
    stage.open()
    files = _WRITERS[config.to](table, metadata, corpus, config)
    size = sum(path.stat().st_size for path in files)
    line = f"{table.num_rows:,} images as {config.to}, {len(files):,} files ({size / 1e6:,.1f} MB)"
    stage.finish({"images": table.num_rows, "form": config.to}, [f.name for f in files], line)
    return 0


def _keys(table: pa.Table, metadata: Any, corpus: Any, config: ExportConfig) -> list[Path]:
    write_text(config.out, "\n".join(table.column("key").to_pylist()) + "\n")
    return [config.out]


def _parquet(
    table: pa.Table, metadata: dict[str, Any], corpus: Corpus | None, config: ExportConfig
) -> list[Path]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    if corpus is None:
        path = config.out / "subset-00000.parquet"
        with atomic_path(path) as temporary:
            whole = table.replace_schema_metadata(_features(table.schema, metadata))
            pq.write_table(whole, temporary, compression="zstd", row_group_size=1 << 18)
        return [path]
    field = pa.field("image", pa.struct([("bytes", pa.binary()), ("path", pa.string())]))
    schema = pa.schema([field, *table.schema])
    schema = schema.with_metadata(_features(schema, metadata))

    def write(path: Path, part: pa.Table, samples: Iterator[Sample]) -> None:
        with pq.ParquetWriter(path, schema, compression="zstd") as writer:
            for start in range(0, part.num_rows, GROUP):
                rows = part.slice(start, GROUP)
                images = [
                    {"bytes": sample.data, "path": sample.key}
                    for sample, _ in zip(samples, range(rows.num_rows), strict=False)
                ]
                rows = rows.add_column(0, field, pa.array(images, field.type))
                writer.write_table(rows.cast(schema), row_group_size=GROUP)

    return _in_parts(table, corpus, config, "subset-{:05d}.parquet", write)


def _features(schema: pa.Schema, metadata: dict[str, Any]) -> dict[bytes, bytes]:
    """Schema metadata from which the library `datasets` knows the columns; and ours."""
    features: dict[str, Any] = {
        field.name: {"dtype": str(field.type).replace("double", "float64"), "_type": "Value"}
        for field in schema
        if field.name != "image"
    }
    for value in features.values():
        value["dtype"] = {"float": "float32"}.get(value["dtype"], value["dtype"])
    if "image" in schema.names:
        features = {"image": {"_type": "Image"}, **features}
    return {
        b"huggingface": json.dumps({"info": {"features": features}}).encode(),
        b"rsprune": json.dumps(metadata, sort_keys=True, ensure_ascii=False).encode(),
    }


def _webdataset(
    table: pa.Table, metadata: dict[str, Any], corpus: Corpus | None, config: ExportConfig
) -> list[Path]:
    from data.images.decode import sniff

    assert corpus is not None

    def write(path: Path, part: pa.Table, samples: Iterator[Sample]) -> None:
        with tarfile.open(path, "w", format=tarfile.PAX_FORMAT) as tar:
            for row, sample in zip(part.to_pylist(), samples, strict=False):
                assert sample.data is not None
                kind = sniff(sample.data)
                # By number: a key may hold dots and slashes, which WebDataset reads as structure.
                stem = f"{row.pop('number'):09d}"
                _add(tar, f"{stem}.{EXTENSIONS.get(kind, kind.lower())}", sample.data)
                _add(tar, f"{stem}.json", json.dumps(row, ensure_ascii=False).encode())

    return _in_parts(table, corpus, config, "subset-{:06d}.tar", write)


def _add(tar: tarfile.TarFile, name: str, data: bytes) -> None:
    info = tarfile.TarInfo(name)
    info.size = len(data)
    tar.addfile(info, io.BytesIO(data))


def _in_parts(
    table: pa.Table,
    corpus: Corpus,
    config: ExportConfig,
    pattern: str,
    write: Callable[[Path, pa.Table, Iterator[Sample]], None],
) -> list[Path]:
    """Write the files that are not there yet, each with the rows and images that belong to it."""
    import numpy as np
    import pyarrow as pa

    from core.progress import progress

    if config.to == "webdataset":
        table = table.append_column("number", pa.array(np.arange(table.num_rows)))
    paths = []
    with progress(total=table.num_rows, name="export") as bar:
        for number, start in enumerate(range(0, table.num_rows, config.shard_rows)):
            part = table.slice(start, config.shard_rows)
            path = config.out / pattern.format(number)
            if not path.exists():
                places = zip(*(part[n].to_pylist() for n in ("key", "shard", "row")), strict=True)
                with atomic_path(path) as temporary:
                    write(temporary, part, _whole(corpus.fetch(list(places)), config))
            paths.append(path)
            bar.update(part.num_rows)
    return paths


def _whole(samples: Iterator[Sample], config: ExportConfig) -> Iterator[Sample]:
    for sample in samples:
        if sample.data is None:
            reason, detail = sample.error or ("unreadable", "")
            raise UserError(
                f"{config.corpus}: {sample.key} of the subset cannot be read ({reason}: {detail}); "
                "put it back, or score the corpus again"
            )
        yield sample


def _croissant(
    table: pa.Table, metadata: dict[str, Any], corpus: Any, config: ExportConfig
) -> list[Path]:
    write_json(config.out, croissant(config, metadata))
    return [config.out]


COLUMNS = {
    "key": ("sc:Text", "name of the image in its corpus"),
    "shard": ("sc:Text", "file or folder that the image is read from"),
    "row": ("sc:Integer", "place of the image in its shard, from 0"),
    "entropy": ("sc:Float", "Shannon entropy of its grey levels, bits in [0, 8]"),
    "cluster": ("sc:Integer", "nearest reference prototype, -1 for a method without any"),
    "similarity": ("sc:Float", "cosine to that prototype"),
    "rank": ("sc:Integer", "place in its cluster or in the method's order, from 0"),
    "chosen": ("sc:Text", "how it was chosen, for example by quota or from the remainder"),
}


def croissant(config: ExportConfig, metadata: dict[str, Any]) -> dict[str, Any]:
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
                "contentUrl": config.index.name,
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


_CONTEXT = {
    "@language": "en",
    "@vocab": "https://schema.org/",
    "citeAs": "cr:citeAs",
    "column": "cr:column",
    "conformsTo": "dct:conformsTo",
    "cr": "http://mlcommons.org/croissant/",
    "rai": "http://mlcommons.org/croissant/RAI/",
    "data": {"@id": "cr:data", "@type": "@json"},
    "dataType": {"@id": "cr:dataType", "@type": "@vocab"},
    "dct": "http://purl.org/dc/terms/",
    "examples": {"@id": "cr:examples", "@type": "@json"},
    "extract": "cr:extract",
    "field": "cr:field",
    "fileProperty": "cr:fileProperty",
    "fileObject": "cr:fileObject",
    "fileSet": "cr:fileSet",
    "format": "cr:format",
    "includes": "cr:includes",
    "isLiveDataset": "cr:isLiveDataset",
    "jsonPath": "cr:jsonPath",
    "key": "cr:key",
    "md5": "cr:md5",
    "parentField": "cr:parentField",
    "path": "cr:path",
    "recordSet": "cr:recordSet",
    "references": "cr:references",
    "regex": "cr:regex",
    "repeated": "cr:repeated",
    "replace": "cr:replace",
    "sc": "https://schema.org/",
    "separator": "cr:separator",
    "source": "cr:source",
    "subField": "cr:subField",
    "transform": "cr:transform",
}

_WRITERS: dict[str, Callable[[pa.Table, dict[str, Any], Any, ExportConfig], list[Path]]] = {
    "keys": _keys,
    "parquet": _parquet,
    "webdataset": _webdataset,
    "croissant": _croissant,
}
