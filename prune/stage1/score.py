"""Stage I's pass: one Parquet part for each shard of the corpus, one row for each image.

Every file is read once: key, content digest, size and entropy, or why it was rejected. Nothing is
thrown away here: every subset of every method is drawn later from this table. A stopped run
continues after the last finished part.
"""

from __future__ import annotations

import functools
import hashlib
import itertools
import time
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from core.engines import ray_parts
from core.errors import UserError
from core.parallel import available_cpus, ordered_map
from core.parts import Tick, make_parts
from core.progress import Throughput
from core.stage import Result, Stage
from data.corpus.base import Batch, Corpus, Sample
from data.formats.scores import SCORES, scores_schema
from data.formats.tables import part_path, read_part, write_part
from data.images.border import black_border
from data.images.decode import Reject, all_bands, bands, decode
from prune.stage1.config import ScoreConfig
from prune.stage1.entropy import MEASURES, bands_entropy
from prune.stage1.extend import STATISTICS, NewFiles, Reuse, extend
from prune.stage1.summary import (
    first_reject,
    mark_duplicate_keys,
    one_line,
    refusals,
    remarks,
    summarise,
)

BATCH = 128  # images a task: enough to outweigh the travel, few enough to share out evenly
SLOW = 0.3  # reading and hashing that take this fraction of the scoring's time are worth a thread
AHEAD, AHEAD_BYTES = 16, 32 << 20  # samples, and about as many bytes, read ahead of decoding

Columns = dict[str, list[Any]]
Scored = Iterator[tuple[int, bool, Columns]]  # place of a shard, last batch of it, its columns


def score(config: ScoreConfig, corpus: Corpus, stage: Stage) -> Result:
    """Write the score table of a corpus.

    Raises UserError when the corpus is damaged in kind, or when no image of it can be used.
    """
    reused = None
    if config.extend is None:
        corpus.check()
        stage.open()
    else:
        reused = extend(corpus, config, stage)
    throughput = Throughput()
    _make_parts(config, corpus, reused, throughput, stage)
    timing = throughput.summary()
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
              f"refused:\n{refused}", flush=True)  # fmt: skip
    for line in remarks(corpus.facts(), summary):
        print(f"[prune.score] {line}", flush=True)
    summary |= {"read": corpus.facts()} if corpus.facts() else {}
    summary["timing"] = timing
    if reused is not None:
        summary["extended"] = {"scores": reused.source, "images": reused.images}
    outputs = [part_path(config.out, index).name for index in range(len(corpus.shards()))]
    return stage.finish(summary, outputs, line=one_line(summary) + throughput.text(timing))


def _make_parts(
    config: ScoreConfig,
    corpus: Corpus,
    reused: Reuse | None,
    throughput: Throughput,
    stage: Stage,
) -> None:
    """Score the shards that are not done."""
    new: Corpus | NewFiles = corpus if reused is None else reused.corpus
    extras = corpus.extras if reused is None else reused.extras
    extras += STATISTICS if config.statistics else ()
    schema = scores_schema(extras)
    shards = corpus.shards()

    def make(left: list[int], tick: Tick) -> Iterator[tuple[int, Columns]]:
        names = [shards[index] for index in left]
        score_all = score_shards if config.engine == "local" else _score_on_ray
        columns: Columns = {name: [] for name in schema.names}
        for place, last, batch in score_all(new, names, config, extras):
            if sizes[left[place]] is None:
                tick.expect(left[place], corpus.count(names[place]))
            tick(len(batch["key"]))
            throughput.images += len(batch["key"])
            for name, values in batch.items():
                columns[name] += values
            if last:
                yield left[place], columns
                columns = {name: [] for name in schema.names}

    def write(index: int, columns: Columns) -> int:
        table = pa.table(columns, schema=schema)
        if reused is not None:
            table = reused.with_old_rows(shards[index], table)
        write_part(config.out, index, table, schema)
        return table.num_rows

    rows = [_finished(config.out, index, shard) for index, shard in enumerate(shards)]
    known = corpus.counts()
    sizes = [size if row is None else row for row, size in zip(rows, known, strict=True)]
    make_parts(sizes, rows.__getitem__, make, write, name="entropy", stage=stage)


def _finished(out: Path, index: int, shard: str) -> int | None:
    """Rows of a part that is there and complete, else None."""
    path = part_path(out, index)
    if not path.exists():
        return None
    try:
        found = read_part(path, ["shard"])
    except UserError:
        return None
    return found.num_rows if found.num_rows and found["shard"][0].as_py() == shard else None


def score_shards(
    corpus: Corpus | NewFiles,
    shards: Sequence[str],
    config: ScoreConfig,
    extras: tuple[str, ...] = (),
) -> Scored:
    """Columns of consecutive batches of `shards`: (place in `shards`, last of it, columns).

    A shard is looked into when its turn comes and not before.
    """
    under_way: deque[tuple[int, bool]] = deque()

    def batches() -> Iterator[Batch]:
        for place, shard in enumerate(shards):
            count = corpus.count(shard)
            for start in range(0, max(count, 1), BATCH):
                under_way.append((place, start + BATCH >= count))
                yield corpus.batch(shard, start, min(start + BATCH, count))

    tasks = batches()
    first = list(itertools.islice(tasks, config.workers))  # no more processes than batches
    spare = available_cpus() > config.workers
    work = functools.partial(score_batch, config=config, extras=extras, spare=spare)
    workers = min(config.workers, len(first))
    for columns in ordered_map(work, itertools.chain(first, tasks), workers):
        yield (*under_way.popleft(), columns)


def _score_on_ray(
    corpus: Corpus | NewFiles, shards: Sequence[str], config: ScoreConfig, extras: tuple[str, ...]
) -> Scored:
    """As `score_shards`, a shard at a time, in the order in which they become ready."""
    tasks = ((n, (corpus.batch(shard), config, extras)) for n, shard in enumerate(shards))
    for place, columns in ray_parts(score_batch, tasks, config.ray_address):
        yield place, True, columns


def score_batch(
    batch: Batch, config: ScoreConfig, extras: tuple[str, ...] = (), spare: bool = False
) -> Columns:
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
            rows += [score_sample(sample, digest, config, extras) for sample, digest in found]
            if ahead is None and read - begun > SLOW * (time.perf_counter() - read):
                ahead = reader.submit(_read_ahead, samples)
    names = (*SCORES.names, *extras)
    if not rows:  # an empty shard
        return {name: [] for name in names}
    return dict(zip(names, map(list, zip(*rows, strict=True)), strict=True))


def _read_ahead(samples: Iterator[Sample]) -> list[tuple[Sample, str]]:
    """The next samples, at most AHEAD, with their digests; fewer when they are large."""
    found: list[tuple[Sample, str]] = []
    size = 0
    while len(found) < AHEAD and size < AHEAD_BYTES:
        sample = next(samples, None)
        if sample is None:
            break
        digest = "" if sample.data is None else hashlib.sha256(sample.data).hexdigest()
        found.append((sample, digest))
        size += len(sample.data or b"")
    return found


def score_sample(
    sample: Sample, digest: str, config: ScoreConfig, extras: tuple[str, ...]
) -> tuple[Any, ...]:
    """The table's row for one sample: SCORES, then the extras. Never raises for bad data.

    `digest` is the hex SHA-256 of the sample's data.
    """
    place = (sample.key, sample.shard, sample.row)
    more = {"quality": sample.quality, "resolution_m": sample.resolution_m, **(sample.more or {})}

    def row(*values: Any) -> tuple[Any, ...]:
        return (*place, *values, *(more.get(name) for name in extras))

    data = sample.data
    if data is None:
        reason, detail = sample.error or ("unreadable", "")
        return row(None, 0, None, None, None, "rejected", reason, detail)
    try:
        grey, note = decode(
            data,
            sample.key if sample.name is None else sample.name,
            grey=True,
            min_side=config.min_side,
            max_pixels=config.max_pixels,
            accept_misnamed=config.accept_misnamed,
            luma=config.luma,
        )
        if config.entropy == "bands":
            entropy = bands_entropy(all_bands(data, max_pixels=config.max_pixels))
        else:
            entropy = MEASURES[config.entropy](grey)
    except Reject as reject:
        size: tuple[int | None, int | None] = reject.size or (None, None)
        if max(side or 0 for side in size) >= 2**31:  # a damaged header's fits no column
            size = (None, None)
        return row(digest, len(data), *size, None, "rejected", reject.reason, reject.detail)
    height, width = grey.shape
    if "clipped" in extras:
        ends = np.count_nonzero(grey == 0) + np.count_nonzero(grey == 255)
        more |= {
            "bands": bands(data), "clipped": ends / grey.size, "border": black_border(grey),
        }  # fmt: skip
    note = "; ".join(filter(None, (sample.note, note)))
    return row(digest, len(data), width, height, entropy, "ok", "", note)
