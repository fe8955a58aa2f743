"""Stage I: one pass over the corpus, one row an image (`python -m prune.score --help`).

The pass reads every file once and records its key, content digest, size and entropy, or why it
was rejected. Nothing is thrown away here: every subset of every method is drawn later from this
table. One Parquet part is written for each shard of the corpus, and a stopped run continues
after the last of them.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import itertools
import time
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from core.engines import Engine, ray_parts
from core.errors import UserError
from core.parallel import available_cpus, ordered_map
from core.progress import progress
from core.settings import machine, parse, place, science, settings
from core.stage import Stage, read_record, require_folder
from data.corpus.base import Batch, Corpus, Sample, keep_apart
from data.corpus.specs import open_corpus
from data.images.decode import MAX_PIXELS, Luma, Reject, bands, decode
from prune.stage1.entropy import MEASURES, Measure

if TYPE_CHECKING:
    from prune.stage1.extend import Reuse

BATCH = 128  # images a task: enough to outweigh the travel, few enough to share out evenly
SLOW = 0.3  # reading and hashing that take this share of the scoring's time are worth a thread
AHEAD, AHEAD_BYTES = 16, 32 << 20  # samples, and about as many bytes, read ahead of decoding

Columns = dict[str, list[Any]]


@settings
class ScoreConfig:
    """Settings of Stage I's pass over the corpus."""

    corpus: str = place()
    """Corpus: a folder of images, tar, Arrow or Parquet shards ('data-*.arrow',
    'rs3-{0000..0031}.tar'), a CSV list, four-band GeoTIFFs to cut ('naip/*.tif?chip=256'), or a
    preset (git10m:FOLDER, rs5m:FOLDER, usa1m:FOLDER). Only read."""
    out: Path
    """Output folder: the score table, one Parquet part a shard."""
    entropy: Measure = "grey"
    """grey: entropy of the grey-level histogram, the paper's Stage I, bits in [0, 8].
    gradient: entropy of gradient magnitudes; unlike 'grey' it ranks a smooth ramp low. Neither
    finds sensor noise, which ranks high in both."""
    luma: Luma = "jpeg"
    """Grey of a colour JPEG. jpeg: the file's own Y channel, the fastest. rgb: decoded to RGB and
    converted as Pillow's convert("L") does. On 4,000 aerial JPEGs the entropies differ by 0.001
    bit on average and 0.11 bit at most."""
    min_side: int = 16
    """Reject images with a shorter side below this (pixels)."""
    max_pixels: int = MAX_PIXELS
    """Reject images with more pixels than this (width x height), undecoded."""
    accept_misnamed: bool = False
    """Accept images whose file extension belongs to another image format (noted in 'detail')."""
    statistics: bool = False
    """Also record bands (1: grey, 3: colour) and clipped (share of pixels whose grey is 0 or
    255), two more columns, which the rules of data.filter need."""
    workers: int = machine(available_cpus())
    """Processes that decode (machine setting; the table does not depend on it)."""
    engine: Engine = machine("local")
    """Where shards are scored (machine setting). local: here. ray: on a Ray cluster, whose
    machines must see the corpus at the same place."""
    ray_address: str | None = machine(None)
    """The cluster's head: auto, host:port. Default: Ray started on this machine."""
    extend: Path | None = None
    """Score table of an earlier state of the corpus, which has grown since: what is in it is not
    read again. The result is the same as without."""


@dataclasses.dataclass(frozen=True)
class Settings:
    """What a worker needs to know to score one image; the fields are ScoreConfig's."""

    extras: tuple[str, ...] = ()
    """Columns after COLUMNS: names of data.formats.scores.EXTRAS."""

    entropy: Measure = "grey"
    luma: Luma = "jpeg"
    min_side: int = 16
    max_pixels: int = MAX_PIXELS
    accept_misnamed: bool = False


COLUMNS = (
    "key", "shard", "row", "digest", "bytes", "width", "height",
    "entropy", "status", "reason", "detail",
)  # fmt: skip


def score_sample(
    sample: Sample, settings: Settings, digest: str | None = None
) -> tuple[Any, ...]:
    """The table's row for one sample: COLUMNS, then the extras. Never raises for bad data.

    `digest` is that of the sample's data, where it has been taken already.
    """
    told: dict[str, Any] = {}
    row = _score(sample, settings, digest or _digest(sample), told)
    if not settings.extras:
        return row
    told |= {"quality": sample.quality, "resolution_m": sample.resolution_m, **(sample.more or {})}
    return (*row, *(told.get(name) for name in settings.extras))


def _digest(sample: Sample) -> str:
    return "" if sample.data is None else hashlib.sha256(sample.data).hexdigest()


def _score(
    sample: Sample, settings: Settings, digest: str, told: dict[str, Any]
) -> tuple[Any, ...]:
    """The columns of COLUMNS; statistics of the pixels go to `told` if they are asked for."""
    place = (sample.key, sample.shard, sample.row)
    data = sample.data
    if data is None:
        reason, detail = sample.error or ("unreadable", "")
        return (*place, None, 0, None, None, None, "rejected", reason, detail)
    content = (digest, len(data))
    try:
        grey, note = decode(
            data,
            sample.key if sample.name is None else sample.name,
            grey=True,
            min_side=settings.min_side,
            max_pixels=settings.max_pixels,
            accept_misnamed=settings.accept_misnamed,
            luma=settings.luma,
        )
    except Reject as reject:
        size: tuple[int | None, int | None] = reject.size or (None, None)
        if max(side or 0 for side in size) >= 2**31:  # a damaged header's fits no column
            size = (None, None)
        return (*place, *content, *size, None, "rejected", reject.reason, reject.detail)
    height, width = grey.shape
    if "clipped" in settings.extras:
        ends = np.count_nonzero(grey == 0) + np.count_nonzero(grey == 255)
        told |= {"bands": bands(data), "clipped": ends / grey.size}
    return (*place, *content, width, height, MEASURES[settings.entropy](grey), "ok", "", note)


def _read_ahead(samples: Iterator[Sample]) -> list[tuple[Sample, str]]:
    """The next samples, at most AHEAD, with their digests; fewer when they are large."""
    found: list[tuple[Sample, str]] = []
    size = 0
    while len(found) < AHEAD and size < AHEAD_BYTES:
        sample = next(samples, None)
        if sample is None:
            break
        found.append((sample, _digest(sample)))
        size += len(sample.data or b"")
    return found


def score_batch(batch: Batch, settings: Settings, spare: bool = False) -> Columns:
    """Columns of the score table for a stretch of a shard.

    `spare`: there are processors that have nothing else to do.
    """
    rows: list[tuple[Any, ...]] = []
    samples = iter(batch)
    # Where reading is slow, or a processor free, reading and hashing go on beside decoding, a
    # chunk ahead. Otherwise that would only cost turns at Python's lock.
    ahead: Future[list[tuple[Sample, str]]] | None = None
    with ThreadPoolExecutor(1) as reader:
        if spare:
            ahead = reader.submit(_read_ahead, samples)
        while True:
            begun = time.perf_counter()
            found = _read_ahead(samples) if ahead is None else ahead.result()
            if not found:
                break
            read = time.perf_counter()
            if ahead is not None:
                ahead = reader.submit(_read_ahead, samples)
            rows += [score_sample(sample, settings, digest) for sample, digest in found]
            if ahead is None and read - begun > SLOW * (time.perf_counter() - read):
                ahead = reader.submit(_read_ahead, samples)
    names = (*COLUMNS, *settings.extras)
    if not rows:  # an empty shard
        return {name: [] for name in names}
    return dict(zip(names, map(list, zip(*rows, strict=True)), strict=True))


def score_shards(
    corpus: Corpus, shards: Sequence[str], settings: Settings, workers: int
) -> Iterator[tuple[int, bool, Columns]]:
    """Columns of consecutive batches of `shards`: (place in `shards`, last of it, columns).

    A shard is looked into when its turn comes and not before.
    """
    under_way: deque[tuple[int, bool]] = deque()

    def batches() -> Iterator[Batch]:
        for n, shard in enumerate(shards):
            count = corpus.count(shard)
            for start in range(0, max(count, 1), BATCH):
                under_way.append((n, start + BATCH >= count))
                yield corpus.batch(shard, start, min(start + BATCH, count))

    tasks = batches()
    first = list(itertools.islice(tasks, max(workers, 1)))  # no more processes than batches
    spare = available_cpus() > workers
    function = functools.partial(score_batch, settings=settings, spare=spare)
    for columns in ordered_map(function, itertools.chain(first, tasks), min(workers, len(first))):
        yield (*under_way.popleft(), columns)


def _score_on_ray(
    corpus: Corpus, shards: Sequence[str], settings: Settings, address: str | None
) -> Iterator[tuple[int, bool, Columns]]:
    """As `score_shards`, a whole shard at a time, in the order in which they become ready."""
    tasks = ((n, (corpus.batch(shard), settings)) for n, shard in enumerate(shards))
    for n, columns in ray_parts(score_batch, tasks, address):
        yield n, True, columns


def main(argv: Sequence[str] | None = None) -> int | None:
    """The command. Raises UserError for what the user can mend."""
    config = parse(
        ScoreConfig,
        argv,
        prog="python -m prune.score",
        description="Stage I: decode every image of a corpus once; record digest and entropy.",
    )
    if config.workers < 1 or config.min_side < 1 or config.max_pixels < 1:
        raise UserError("--workers, --min-side and --max-pixels must be at least 1")
    corpus = open_corpus(config.corpus)
    require_folder(config.out)
    keep_apart(config.out, corpus, config.corpus)
    stage = Stage(config.out, "prune.score", science(config), {"corpus": corpus.fingerprint()})
    _check_listing(stage, corpus, config)
    if stage.done():
        return 0
    reused = None
    if config.extend is None:
        corpus.check()
        stage.open()
    else:
        from prune.stage1.extend import start

        reused = start(config, corpus, stage)
    scored, seconds = _write_parts(config, corpus, reused)

    from data.formats.tables import part_path
    from prune.stage1.summary import (
        first_reject,
        mark_duplicate_keys,
        one_line,
        refusals,
        summarise,
    )

    if not corpus.unique_keys:
        mark_duplicate_keys(config.out)
    summary = summarise(config.out)
    refused = refusals(summary)
    if not summary["ok"]:
        why = f"\n{refused}" if refused else first_reject(config.out)
        raise UserError(
            f"{config.corpus}: {one_line(summary)}; the reasons are in {config.out}{why}"
        )
    if refused:
        print(f"[prune.score] {summary['refused_rasters']:,} of {summary['rasters']:,} files are "
              f"refused as a whole:\n{refused}", flush=True)  # fmt: skip
    rate = round(scored / seconds, 1) if scored else None
    summary["timing"] = {"images": scored, "seconds": round(seconds, 3), "images_per_second": rate}
    if reused is not None:
        summary["extended"] = {"scores": reused.source, "images": reused.images}
    outputs = [part_path(config.out, n).name for n in range(len(corpus.shards()))]
    speed = f" at {rate:,.0f} images/s" if rate else ""
    stage.finish(summary, outputs, line=one_line(summary) + speed)
    return 0


def _write_parts(config: ScoreConfig, corpus: Corpus, reused: Reuse | None) -> tuple[int, float]:
    """Score the shards that are not done. Returns images scored and seconds taken."""
    from data.formats.scores import scores_schema
    from prune.stage1.extend import write

    own = corpus.extras if reused is None else reused.extras
    extras = own + (("bands", "clipped") if config.statistics else ())
    schema = scores_schema(extras)
    fields = [f.name for f in dataclasses.fields(Settings) if f.name != "extras"]
    settings = Settings(**{name: getattr(config, name) for name in fields}, extras=extras)
    shards = corpus.shards()
    rows = [_finished(config.out, n, shard) for n, shard in enumerate(shards)]
    left = [n for n, found in enumerate(rows) if found is None]
    columns: Columns = {name: [] for name in schema.names}
    scored = 0
    clock = time.monotonic()
    new = corpus if reused is None else reused.corpus
    names = [shards[n] for n in left]
    scoring = (
        score_shards(new, names, settings, config.workers)
        if config.engine == "local"
        else _score_on_ray(new, names, settings, config.ray_address)
    )
    with progress(initial=sum(filter(None, rows)), name="entropy") as bar:
        for n, last, batch in scoring:
            for name, values in batch.items():
                columns[name] += values
            scored += len(batch["key"])
            rows[left[n]] = corpus.count(shards[left[n]])
            known = [found for found in rows if found is not None]
            bar.total = round(sum(known) / len(known) * len(rows))  # exact when all are known
            bar.update(len(batch["key"]))
            if last:
                write(config.out, left[n], shards[left[n]], columns, schema, reused)
                columns = {name: [] for name in schema.names}
    return scored, time.monotonic() - clock


def _finished(out: Path, number: int, shard: str) -> int | None:
    """Rows of a part that is there and whole, else None."""
    from data.formats.tables import part_path, read_part

    path = part_path(out, number)
    if not path.exists():
        return None
    try:
        found = read_part(path, ["shard"])
    except UserError:
        return None
    return found.num_rows if found.num_rows and found["shard"][0].as_py() == shard else None


def _check_listing(stage: Stage, corpus: Corpus, config: ScoreConfig) -> None:
    """Refuse, saying what changed, a table made from another listing of the corpus."""
    for path in (stage.manifest, stage.started):
        if not path.exists():
            continue
        there = read_record(path)
        if there.get("params") != stage.params or there.get("stage") != stage.name:
            return  # the stage itself says which settings differ
        if there.get("inputs") != stage.inputs:
            from prune.stage1.summary import changes

            what = changes(config.out, corpus)
            raise UserError(
                f"{config.corpus}: not the files that {config.out} was made from: {what}\n"
                f"score into another --out with --extend {config.out}, which reads only what is "
                f"new, or delete {config.out} to score all of it again"
            )
