"""The embedding of what Stage I keeps, or of a reference set.

Stage II compares the images of D_p%, the fraction of the pool that the entropy pre-filter keeps,
with centroids of a labelled reference set, in the space of one encoder (Eq. 2). This writes the
features of either. Every part holds the images at the same 4,096 places whenever it is made, so
a stopped run continues after its last finished part and ends in the same bytes.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from core.atomic import atomic_path
from core.engines import process_group, ray_parts
from core.errors import UserError
from core.parts import Tick, make_parts
from core.progress import Throughput
from core.stage import Result, Stage, read_manifest
from data.corpus.base import keep_apart
from data.corpus.specs import open_corpus
from data.corpus.verified import check_corpus, images_of
from data.curation.holdout import draw, pool, read_holdout
from data.formats.embeddings import part_is_complete, write_embeddings
from data.formats.tables import part_path, read_part, read_parts
from data.reference.sets import Scenes
from prune.encoders.base import Encoder
from prune.encoders.config import EmbedConfig
from prune.encoders.passes import Part, Rejected, Work, embed_part, embed_parts
from prune.stage1.threshold import stage1, threshold

PART = 4096  # images a part
_TEXT = pa.string()
_REFERENCE = pa.schema([("key", _TEXT), ("shard", _TEXT), ("row", pa.int64()), ("label", _TEXT)])
_REJECTS = pa.schema([(name, _TEXT) for name in ("key", "reason", "detail")])

Made = tuple[NDArray[np.float32], list[Rejected | None]]  # rows; of each image, why it has none


def embed(config: EmbedConfig, encoder: Encoder, scenes: Scenes | None, stage: Stage) -> Result:
    """Write the embeddings of the pool, or of the reference set `scenes`.

    Raises UserError for weights that cannot be used, and for images of the pool that are gone or
    changed since they were scored.
    """
    # Before the output is begun: with other weights, or another --keep, it could not go on.
    if config.engine == "local":
        encoder.load(config.device, config.precision)
    if scenes is None:
        counts, timing, summary, line = _embed_pool(config, encoder, stage)
    else:
        counts, timing, summary, line = _embed_reference(config, encoder, scenes, stage)
    outputs = [f"part-{n:05d}.{kind}" for n in range(len(counts)) for kind in ("npy", "parquet")]
    return stage.finish(
        {
            "encoder": encoder.fingerprint(),
            "dim": encoder.dim,
            "rows": sum(counts),
            "parts": len(counts),
            **summary,
            "timing": timing,
        },
        outputs if scenes is None else [*outputs, "rejects.parquet"],
        line=f"{line}, {encoder.dim}-d {encoder.name}{Throughput.text(timing)}",
    )


Parts = tuple[list[int], dict[str, Any], dict[str, Any], str]  # rows; timing; summary; in words


def _embed_pool(config: EmbedConfig, encoder: Encoder, stage: Stage) -> Parts:
    assert config.corpus is not None and config.scores is not None
    corpus = open_corpus(config.corpus)
    keep_apart(config.out, corpus, config.corpus)
    scores = read_parts(config.scores, ["key", "shard", "row", "digest", "entropy", "status"])
    holdout = None if config.holdout is None else read_holdout(config.holdout)
    everything = pool(scores, holdout)
    kept = stage1(everything, config.keep)
    tau = threshold(kept)
    if config.sample:
        kept = kept.take(sorted(draw(kept["key"].to_pylist(), config.sample, 0)))
    del scores
    if process_group().main:
        check_corpus(corpus, kept.num_rows, lambda rows: images_of(kept.take(rows)))
    process_group().open(stage)
    limit = read_manifest(config.scores)["params"]["max_pixels"]
    work = Work(config.corpus, encoder.prepare, max_pixels=limit, composite=config.composite)
    if config.composite != "rgb" and process_group().main:
        print(
            "[prune.embed] note: colour infrared; centroids of a reference in true colours can be "
            "assigned to, but colours mean another thing there: centroids of these embeddings "
            "themselves see what these images show",
            flush=True,
        )
    images = kept.select(["key", "shard", "row", "entropy", "digest"])
    counts, timing = _make_parts(config, encoder, work, images, stage)
    summary = {"pool": everything.num_rows, "keep": config.keep, "tau": tau}
    return (
        counts,
        timing,
        summary,
        (
            f"{kept.num_rows:,} of {everything.num_rows:,} images (entropy at least "
            f"{summary['tau']:.3f} bits)"
        ),
    )


def _embed_reference(config: EmbedConfig, encoder: Encoder, scenes: Scenes, stage: Stage) -> Parts:
    process_group().open(stage)
    columns = dict(zip(("key", "shard", "row"), zip(*scenes.locations, strict=True), strict=True))
    images = pa.table({**columns, "label": scenes.labels}, schema=_REFERENCE)
    work = Work(scenes.specs, encoder.prepare, lenient=True)
    counts, timing = _make_parts(config, encoder, work, images, stage)
    rejects = [
        *({"key": key, "reason": "no-class", "detail": "not in a class folder"}
          for key in scenes.loose),
        *(reject for index in range(len(counts)) for reject in _rejects(config.out, index)),
    ]  # fmt: skip
    if not sum(counts):
        raise UserError(
            f"{' '.join(config.reference)}: none of its {images.num_rows:,} files is an image that "
            f"can be read; the first: {rejects[0]['key']} ({rejects[0]['reason']})"
        )
    with atomic_path(config.out / "rejects.parquet") as temporary:
        pq.write_table(pa.Table.from_pylist(rejects, _REJECTS), temporary)
    classes = len(scenes.classes)
    summary = {
        "classes": classes,
        "rejected": len(rejects),
        "empty_classes": scenes.empty,
        "sets": scenes.describe(),
        "notes": scenes.notes,
    }
    line = f"{sum(counts):,} images of {classes} classes, {len(rejects):,} rejected"
    if scenes.empty:
        line += f", no image in class {', '.join(scenes.empty)}"
    return counts, timing, summary, line


def _make_parts(
    config: EmbedConfig, encoder: Encoder, work: Work, images: pa.Table, stage: Stage
) -> tuple[list[int], dict[str, Any]]:
    """Write the parts that are not there yet. Returns rows of every part, and the timing."""
    places = range(0, images.num_rows, PART)
    sizes = [min(PART, images.num_rows - start) for start in places]
    names = images.drop_columns(["digest"]) if "digest" in images.column_names else images
    throughput = Throughput()

    def load(index: int) -> Part:
        part = images.slice(index * PART, PART)
        locations = zip(*(part[name].to_pylist() for name in ("key", "shard", "row")), strict=True)
        known = "digest" in part.column_names
        return list(locations), part["digest"].to_pylist() if known else [None] * len(part)

    def make(left: list[int], tick: Tick) -> Iterator[tuple[int, Made]]:
        throughput.images = sum(sizes[index] for index in left)
        if config.engine == "local":
            workers = min(config.workers, -(-throughput.images // config.batch) or 1)
            for index, rows, rejects in embed_parts(
                encoder, work, left, load, batch=config.batch, workers=workers, on_batch=tick
            ):
                yield index, (rows, rejects)
            return
        core = json.dumps(encoder.core(), sort_keys=True)
        tasks = ((index, (config, core, work, load(index))) for index in left)
        gpus = config.device != "cpu" and config.encoder != "descriptor"
        for index, made in ray_parts(embed_part, tasks, config.ray_address, gpus=gpus):
            tick(len(made[1]))
            yield index, made

    def write(index: int, made: Made) -> int:
        rows, rejects = made
        here = names.slice(index * PART, PART)
        bad = [
            {"key": here["key"][i].as_py(), "reason": why[0], "detail": why[1]}
            for i, why in enumerate(rejects)
            if why is not None
        ]
        part = here.filter(pa.array([why is None for why in rejects]))
        part = part.replace_schema_metadata({"rejects": json.dumps(bad)} if bad else None)
        write_embeddings(config.out, index, rows, part)
        return int(part.num_rows)

    def finished(index: int) -> int | None:
        keys = names["key"].slice(index * PART, PART).to_pylist()
        return _finished(config.out, index, keys, encoder.dim)

    group = process_group()
    counts = make_parts(sizes, finished, make, write, name="embed", group=group, stage=stage)
    if group.size > 1:
        throughput.images = images.num_rows
    return counts, throughput.summary()


def _finished(out: Path, index: int, keys: list[str], dim: int) -> int | None:
    """Rows of a part that is there, complete, and of the images named `keys`; None otherwise."""
    if not part_is_complete(out, index, dim):
        return None
    found = read_part(part_path(out, index), ["key"])["key"].to_pylist()
    rejected = {reject["key"] for reject in _rejects(out, index)}
    return len(found) if found == [key for key in keys if key not in rejected] else None


def _rejects(out: Path, index: int) -> list[dict[str, str]]:
    """What a part of a reference set left out: it is kept with the part, as a part may be the
    last thing that a killed run wrote."""
    metadata = pq.read_schema(part_path(out, index)).metadata or {}
    return json.loads(metadata.get(b"rejects", b"[]"))
