"""Embed what Stage I keeps, or a reference set (`python -m prune.embed --help`).

Stage II compares the images of D_p%, the share of the pool that the entropy pre-filter keeps,
with centroids of a labelled reference set, in the space of one encoder (Eq. 2). This command
writes the features of either. Every part holds the images at the same 4,096 places whenever it
is made, so a stopped run continues after its last whole part and ends in the same bytes.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from core.engines import Engine, process_group, quiet_unless_main, ray_parts
from core.errors import UserError
from core.parallel import available_cpus
from core.settings import machine, parse, place, science, settings
from core.stage import Stage, digest_of, fingerprint, read_manifest, require_folder
from data.corpus.base import keep_apart
from data.corpus.specs import open_corpus
from prune.encoders.base import Device, Encoder, Precision, open_encoder

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa
    from numpy.typing import NDArray

    from data.reference.sets import Scenes
    from prune.encoders.passes import Part, Rejected, Work

PART = 4096  # images a part
DIGESTS = ".weights.json"  # in the output folder: weight digests, so as to hash large files once


@settings
class EmbedConfig:
    """Settings of an embedding. Give --corpus with --scores, or --reference."""

    out: Path
    """Output folder: the embeddings, parts of 4,096 rows."""
    corpus: str | None = place(None)
    """Corpus that was scored, as prune.score takes it. It is only read."""
    scores: Path | None = None
    """Score table of that corpus: a folder that prune.score made."""
    holdout: Path | None = None
    """Hold-out file of data.holdout; its images and their exact copies leave the pool."""
    reference: tuple[str, ...] = place(())
    """Reference set instead of a corpus (D_ref): class folders or Parquet with labels, FOLDER or
    ucm:FOLDER, several together, or union5: as in Table 4; python -m data.scenes lists them."""
    keep: float = 0.30
    """Stage I: share of the pool kept, by entropy, in (0, 1] (Sec. 4.4.1; the paper's best is
    0.30). 1 embeds the whole pool, as baselines without Stage I need. Not used by --reference."""
    encoder: str = "descriptor"
    """descriptor: colour and texture, training-free, nothing to download. git-rsclip: the paper's
    encoder."""
    weights: str | None = machine(None)
    """Weights of the encoder: local folder, or Hugging Face repository. Default: the encoder's own
    repository. (Their digest, not their place, is part of the result's fingerprint.)"""
    revision: str | None = machine(None)
    """Commit, tag or branch of the Hugging Face repository."""
    workers: int = machine(available_cpus())
    """Processes that decode (machine setting)."""
    batch: int = machine(64)
    """Images a batch (machine setting; may move features by rounding)."""
    device: Device = machine("auto")
    """Where the encoder runs (machine setting). auto: a GPU if there is one."""
    precision: Precision = machine("auto")
    """Arithmetic of the encoder (machine setting). auto: fp32 on CPU, bf16 on GPU."""
    engine: Engine = machine("local")
    """Where parts are made (machine setting). local: here, or by all processes of an `accelerate
    launch`, each on its GPU. ray: on a Ray cluster."""
    ray_address: str | None = machine(None)
    """The cluster's head: auto, host:port. Default: Ray started on this machine."""


def main(argv: Sequence[str] | None = None) -> int | None:
    """The command. Raises UserError for what the user can mend."""
    config = parse(
        EmbedConfig,
        argv,
        prog="python -m prune.embed",
        description="Embed the images that Stage I keeps, or a labelled reference set.",
    )
    _check(config)
    require_folder(config.out)
    quiet_unless_main()
    encoder = open_encoder(config.encoder, config.weights, config.revision, config.out / DIGESTS)
    inputs = {"encoder": digest_of(encoder.core())}
    params = science(config)
    scenes = None
    if config.reference:
        from data.reference.sets import open_scenes

        scenes = open_scenes(config.reference)
        _check_outside(config.out, *(Path(part.place.where) for part in scenes.parts))
        for note in scenes.notes:
            print(f"[prune.embed] note: {note}", file=sys.stderr)
        inputs["reference"] = scenes.fingerprint
        del params["keep"]
    else:
        inputs["scores"] = fingerprint(config.scores)  # type: ignore[arg-type]
        inputs["holdout"] = "none" if config.holdout is None else fingerprint(config.holdout)
    stage = Stage(config.out, "prune.embed", params, inputs)
    if stage.done():
        return 0
    # Before the output is begun: with mended weights, or another --keep, it could not go on.
    if config.engine == "local":
        encoder.load(config.device, config.precision)
    if scenes is not None:
        _embed_reference(config, scenes, encoder, stage)
    else:
        _embed_corpus(config, encoder, stage)
    return 0


def _check(config: EmbedConfig) -> None:
    if bool(config.reference) == (config.corpus is not None):
        raise UserError("give either --corpus with --scores, or --reference")
    if config.reference and (config.scores or config.holdout):
        raise UserError("--scores and --holdout belong to --corpus; a reference set has neither")
    if config.corpus is not None and config.scores is None:
        raise UserError("--corpus needs --scores: run python -m prune.score first")
    if config.workers < 1 or config.batch < 1:
        raise UserError("--workers and --batch must be at least 1")


def _check_outside(out: Path, *images: Path) -> None:
    for folder in images:
        if out.resolve().is_relative_to(folder.resolve()):
            raise UserError(f"--out {out} lies inside {folder}, among its images; move it out")


def _embed_corpus(config: EmbedConfig, encoder: Encoder, stage: Stage) -> None:
    from data.curation.holdout import pool, read_holdout
    from data.formats.tables import read_parts
    from prune.encoders.passes import Work
    from prune.stage1.threshold import stage1, threshold

    assert config.corpus is not None and config.scores is not None
    keep_apart(config.out, open_corpus(config.corpus), config.corpus)
    scores = read_parts(config.scores, ["key", "shard", "row", "digest", "entropy", "status"])
    holdout = None if config.holdout is None else read_holdout(config.holdout)
    everything = pool(scores, holdout)
    kept = stage1(everything, config.keep)
    del scores
    process_group().open(stage)
    names = kept.select(["key", "shard", "row", "entropy"])

    def load(number: int) -> Part:
        part = kept.slice(number * PART, PART)
        columns = (part[name].to_pylist() for name in ("key", "shard", "row"))
        return list(zip(*columns, strict=True)), part["digest"].to_pylist()

    limit = read_manifest(config.scores)["params"]["max_pixels"]
    work = Work(config.corpus, encoder.prepare, max_pixels=limit)
    counts, timing = _embed(config, encoder, work, names, load)
    summary = {
        **_summary(encoder, sum(counts), len(counts)),
        "pool": everything.num_rows,
        "keep": config.keep,
        "tau": threshold(kept),
        "timing": timing,
    }
    line = (
        f"{kept.num_rows:,} of {everything.num_rows:,} images (entropy at least "
        f"{summary['tau']:.3f} bits), {encoder.dim}-d {encoder.name}{_rate(timing)}"
    )
    stage.finish(summary, _outputs(len(counts)), line=line)


def _embed_reference(config: EmbedConfig, scenes: Scenes, encoder: Encoder, stage: Stage) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    from core.atomic import atomic_path
    from prune.encoders.passes import Work

    process_group().open(stage)
    columns = dict(zip(("key", "shard", "row"), zip(*scenes.locations, strict=True), strict=True))
    names = pa.table({**columns, "label": scenes.labels}, schema=_reference_schema())
    locations = scenes.locations

    def load(number: int) -> Part:
        part = locations[number * PART : (number + 1) * PART]
        return part, [None] * len(part)

    work = Work(scenes.specs, encoder.prepare, lenient=True)
    counts, timing = _embed(config, encoder, work, names, load)
    rejects = [
        *({"key": key, "reason": "no-class", "detail": "not in a class folder"}
          for key in scenes.loose),
        *(reject for number in range(len(counts)) for reject in _rejects(config.out, number)),
    ]  # fmt: skip
    if not sum(counts):
        raise UserError(
            f"{' '.join(config.reference)}: none of its {len(locations):,} files is an image that "
            f"can be read; the first: {rejects[0]['key']} ({rejects[0]['reason']})"
        )
    schema = pa.schema([(name, pa.string()) for name in ("key", "reason", "detail")])
    with atomic_path(config.out / "rejects.parquet") as temporary:
        pq.write_table(pa.Table.from_pylist(rejects, schema), temporary)
    summary = {
        **_summary(encoder, sum(counts), len(counts)),
        "classes": len(scenes.classes),
        "rejected": len(rejects),
        "empty_classes": scenes.empty,
        "sets": scenes.describe(),
        "notes": scenes.notes,
        "timing": timing,
    }
    line = (
        f"{sum(counts):,} images of {len(scenes.classes)} classes, {len(rejects):,} rejected, "
        f"{encoder.dim}-d {encoder.name}{_rate(timing)}"
    )
    if scenes.empty:
        line += f"; no image in class {', '.join(scenes.empty)}"
    stage.finish(summary, [*_outputs(len(counts)), "rejects.parquet"], line=line)


def _embed(
    config: EmbedConfig, encoder: Encoder, work: Work, names: pa.Table, load: Any
) -> tuple[list[int], dict[str, Any]]:
    """Write the parts that are not there yet. Returns rows of every part, and the timing."""
    import pyarrow as pa

    from core.progress import progress
    from data.formats.embeddings import write_embeddings
    from prune.encoders.passes import Opened, embed_part, embed_parts

    total = names.num_rows
    counts = {n: _finished(config.out, n, names, encoder.dim) for n in range(-(-total // PART))}
    left = [n for n, rows in counts.items() if rows is None]
    left = process_group().mine(left)
    todo = sum(min(PART, total - n * PART) for n in left)
    workers = min(config.workers, -(-todo // config.batch) or 1)
    clock = time.monotonic()
    quiet = not process_group().main
    bar = progress(total=total, initial=total - todo, name="embed", disable=quiet)

    def made() -> Iterator[tuple[int, NDArray[np.float32], list[Rejected | None]]]:
        if config.engine == "local":
            yield from embed_parts(
                encoder, work, left, load, batch=config.batch, workers=workers, on_batch=bar.update
            )
            return
        core = json.dumps(encoder.core(), sort_keys=True)
        place = (config.encoder, config.weights, config.revision, config.device, config.precision)
        tasks = ((n, (Opened(*place, core), work, load(n), config.batch)) for n in left)
        gpus = config.device != "cpu" and config.encoder != "descriptor"
        for number, (rows, rejects) in ray_parts(embed_part, tasks, config.ray_address, gpus=gpus):
            bar.update(len(rejects))
            yield number, rows, rejects

    with bar:
        for number, rows, rejects in made():
            place = names.slice(number * PART, PART)
            bad = [
                {"key": place["key"][i].as_py(), "reason": why[0], "detail": why[1]}
                for i, why in enumerate(rejects)
                if why is not None
            ]
            part = place.filter(pa.array([why is None for why in rejects]))
            part = part.replace_schema_metadata({"rejects": json.dumps(bad)} if bad else None)
            write_embeddings(config.out, number, rows, part)
            counts[number] = part.num_rows
    process_group().gather()
    for number, known in counts.items():  # what the others of a group made
        if known is None:
            counts[number] = _finished(config.out, number, names, encoder.dim)
    seconds = time.monotonic() - clock
    if process_group().size > 1:
        todo = total
    rate = round(todo / seconds, 1) if todo else None
    timing = {"images": todo, "seconds": round(seconds, 3), "images_per_second": rate}
    return [rows or 0 for rows in counts.values()], timing


def _finished(out: Path, number: int, names: pa.Table, dim: int) -> int | None:
    """Rows of a part that is there, whole, and about the right images; None otherwise."""
    from data.formats.embeddings import part_is_complete
    from data.formats.tables import part_path, read_part

    if not part_is_complete(out, number, dim):
        return None
    keys = read_part(part_path(out, number), ["key"])["key"].to_pylist()
    expected = names["key"].slice(number * PART, PART).to_pylist()
    rejected = {reject["key"] for reject in _rejects(out, number)}
    return len(keys) if keys == [key for key in expected if key not in rejected] else None


def _rejects(out: Path, number: int) -> list[dict[str, str]]:
    """What a part of a reference set left out: it is kept with the part, as a part may be the
    last thing that a killed run wrote."""
    import pyarrow.parquet as pq

    from data.formats.tables import part_path

    metadata = pq.read_schema(part_path(out, number)).metadata or {}
    return json.loads(metadata.get(b"rejects", b"[]"))


def _reference_schema() -> pa.Schema:
    import pyarrow as pa

    text = pa.string()
    return pa.schema([("key", text), ("shard", text), ("row", pa.int64()), ("label", text)])


def _summary(encoder: Encoder, rows: int, parts: int) -> dict[str, Any]:
    return {"encoder": encoder.fingerprint(), "dim": encoder.dim, "rows": rows, "parts": parts}


def _outputs(parts: int) -> list[str]:
    return [f"part-{n:05d}.{suffix}" for n in range(parts) for suffix in ("npy", "parquet")]


def _rate(timing: dict[str, Any]) -> str:
    rate = timing["images_per_second"]
    return f" at {rate:,.0f} images/s" if rate else ""
