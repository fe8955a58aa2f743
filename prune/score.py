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
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from data.cli import machine, parse, run, science
from data.corpus import Batch, Corpus, Sample, open_corpus
from data.decode import MAX_PIXELS, Luma, Reject, decode
from data.errors import UserError
from data.parallel import available_cpus, ordered_map
from data.progress import progress
from data.stage import FILES, Stage
from prune.entropy import MEASURES, Measure

BATCH = 128  # images a task: enough to outweigh the travel, few enough to share out evenly

Columns = dict[str, list[Any]]


@dataclasses.dataclass(frozen=True)
class ScoreConfig:
    """Settings of Stage I's pass over the corpus."""

    corpus: Path
    """Corpus: a folder of images, with all folders below it. It is only read."""
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
    workers: int = machine(available_cpus())
    """Processes that decode (machine setting; the table does not depend on it)."""


@dataclasses.dataclass(frozen=True)
class Settings:
    """What a worker needs to know to score one image; the fields are ScoreConfig's."""

    entropy: Measure = "grey"
    luma: Luma = "jpeg"
    min_side: int = 16
    max_pixels: int = MAX_PIXELS
    accept_misnamed: bool = False


COLUMNS = (
    "key", "shard", "row", "digest", "bytes", "width", "height",
    "entropy", "status", "reason", "detail",
)  # fmt: skip


def score_sample(sample: Sample, settings: Settings) -> tuple[Any, ...]:
    """The table's row for one sample, in the order of COLUMNS. Never raises for bad data."""
    place = (sample.key, sample.shard, sample.row)
    data = sample.data
    if data is None:
        reason, detail = sample.error or ("unreadable", "")
        return (*place, None, 0, None, None, None, "rejected", reason, detail)
    content = (hashlib.sha256(data).hexdigest(), len(data))
    try:
        grey, note = decode(
            data,
            sample.key,
            grey=True,
            min_side=settings.min_side,
            max_pixels=settings.max_pixels,
            accept_misnamed=settings.accept_misnamed,
            luma=settings.luma,
        )
    except Reject as reject:
        size = reject.size or (None, None)
        return (*place, *content, *size, None, "rejected", reject.reason, reject.detail)
    height, width = grey.shape
    return (*place, *content, width, height, MEASURES[settings.entropy](grey), "ok", "", note)


def score_batch(batch: Batch, settings: Settings) -> Columns:
    """Columns of the score table for a stretch of a shard."""
    rows = [score_sample(sample, settings) for sample in batch]
    return dict(zip(COLUMNS, map(list, zip(*rows, strict=True)), strict=True))


def score_shards(
    corpus: Corpus, shards: Sequence[str], settings: Settings, workers: int
) -> Iterator[tuple[int, Columns]]:
    """Columns of consecutive batches of `shards`, each with its shard's place in `shards`."""
    starts = [
        (n, start) for n, s in enumerate(shards) for start in range(0, corpus.count(s), BATCH)
    ]
    batches = (corpus.batch(shards[n], start, start + BATCH) for n, start in starts)
    results = ordered_map(
        functools.partial(score_batch, settings=settings), batches, min(workers, len(starts))
    )
    return zip((n for n, _ in starts), results, strict=True)


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
    _check_out(config)
    corpus = open_corpus(config.corpus)
    stage = Stage(config.out, "prune.score", science(config), {"corpus": corpus.identity()})
    _check_listing(stage, corpus, config)
    if stage.done():
        return 0
    stage.open()
    shards = corpus.shards()
    done = [_finished(config.out, n, corpus, shard) for n, shard in enumerate(shards)]
    scored, seconds = _write_parts(config, corpus, shards, done)

    from data.tables import part_path
    from prune.score_summary import one_line, summarise

    summary = summarise(config.out)
    if not summary["ok"]:
        raise UserError(f"{config.corpus}: {one_line(summary)}; the reasons are in {config.out}")
    rate = round(scored / seconds, 1) if scored else None
    summary["timing"] = {"images": scored, "seconds": round(seconds, 3), "images_per_second": rate}
    outputs = [part_path(config.out, n).name for n in range(len(shards))]
    speed = f" at {rate:,.0f} images/s" if rate else ""
    stage.finish(summary, outputs, line=one_line(summary) + speed)
    return 0


def _write_parts(
    config: ScoreConfig, corpus: Corpus, shards: list[str], done: list[bool]
) -> tuple[int, float]:
    """Score the shards that are not done. Returns images scored and seconds taken."""
    from data.tables import SCORES, write_part

    left = [n for n, finished in enumerate(done) if not finished]
    total = len(corpus)
    todo = sum(corpus.count(shards[n]) for n in left)
    settings = Settings(**{f.name: getattr(config, f.name) for f in dataclasses.fields(Settings)})
    columns: Columns = {name: [] for name in COLUMNS}
    clock = time.monotonic()
    with progress(total=total, initial=total - todo, name="entropy") as bar:
        for n, batch in score_shards(corpus, [shards[n] for n in left], settings, config.workers):
            for name, values in batch.items():
                columns[name] += values
            bar.update(len(batch["key"]))
            if len(columns["key"]) == corpus.count(shards[left[n]]):
                write_part(config.out, left[n], columns, SCORES)
                columns = {name: [] for name in COLUMNS}
    return todo, time.monotonic() - clock


def _finished(out: Path, number: int, corpus: Corpus, shard: str) -> bool:
    """Whether a part is there and whole."""
    from data.tables import part_path, read_part

    path = part_path(out, number)
    if not path.exists():
        return False
    try:
        found = read_part(path, ["shard"])
    except UserError:
        return False
    return found.num_rows == corpus.count(shard) and found["shard"][0].as_py() == shard


def _check_out(config: ScoreConfig) -> None:
    """Refuse an output that is no folder, or that the next listing would take for images."""
    if config.out.suffix in FILES or config.out.is_file():
        raise UserError(f"--out {config.out}: name a folder, not a file")
    out, corpus = config.out.resolve(), config.corpus.resolve()
    if out.is_relative_to(corpus):
        inside = out.relative_to(corpus).parts
        if not any(part.startswith(".") for part in inside):
            raise UserError(f"--out {config.out} lies inside --corpus {config.corpus}; move it out")


def _check_listing(stage: Stage, corpus: Corpus, config: ScoreConfig) -> None:
    """Refuse, saying what changed, a table made from another listing of the corpus."""
    import json

    for path in (stage.manifest, stage.started):
        if not path.exists():
            continue
        with path.open(encoding="utf-8") as stream:
            there = json.load(stream)
        if there.get("params") != stage.params or there.get("stage") != stage.name:
            return  # the stage itself says which settings differ
        if there.get("inputs") != stage.inputs:
            from prune.score_summary import changes

            what = changes(config.out, corpus)
            raise UserError(
                f"{config.corpus}: not the files that {config.out} was made from: {what}\n"
                f"score into another --out, or delete {config.out} to score all of it again"
            )


if __name__ == "__main__":
    run(main)
