"""The hold-out: real images set aside before any pruning (`python -m data.holdout --help`).

A subset that a pruner chose must not be judged against real images that it, or another pruner,
could have chosen too. So N images are drawn first, uniformly, by a hash of seed and key; they,
and every exact copy of them, leave the pool. The pool that remains is the "original N" of which
pruning ratios are shares.

The paper judges against 5,000 "high-quality" real images and does not say how they were chosen. A
choice by quality or entropy leans towards what an entropy pre-filter keeps, so it is the second
one here, beside the random first, and both leave the pool:

    python -m data.holdout --scores S --out random.parquet
    python -m data.holdout --scores S --choice quality --besides random.parquet --out best.parquet
    python -m data.holdout --join random.parquet best.parquet --out holdout.parquet

prune.* take the joined file as --holdout; each evaluation takes one of the first two.
"""

from __future__ import annotations

import hashlib
import heapq
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from core.errors import UserError
from core.settings import parse, science, settings
from core.stage import Stage, fingerprint

if TYPE_CHECKING:
    import pyarrow as pa

Choice = Literal["random", "quality", "entropy"]


@settings
class HoldoutConfig:
    """Settings of the hold-out."""

    out: Path
    """Output file: a Parquet table, for example holdout.parquet."""
    scores: Path | None = None
    """Score table: a folder that prune.score made."""
    n: int = 5000
    """Images to hold out (the paper computes FID against 5,000 real images)."""
    seed: int = 0
    """Seed of the draw: the N images with the smallest SHA-256 of 'seed|key'."""
    choice: Choice = "random"
    """random: uniformly. quality: the highest of the corpus's own quality scores, as Git-10M has
    them. entropy: the highest entropy. Both for a second hold-out; equal values go by the hash."""
    besides: Path | None = None
    """Hold-out whose images, and copies of them, are not chosen again."""
    join: tuple[Path, ...] = ()
    """Instead of drawing: hold-outs to put together into one file, each image once."""


def draw(keys: Sequence[str], n: int, seed: int) -> list[int]:
    """Places of the n keys with the smallest sha256(f"{seed}|{key}"), smallest first.

    Adding other keys, or asking for more, never reorders what was drawn.
    """
    prefix = f"{seed}|"
    hashed = ((hashlib.sha256((prefix + key).encode()).digest(), i) for i, key in enumerate(keys))
    return [i for _, i in heapq.nsmallest(n, hashed)]


def pool(scores: pa.Table, holdout: pa.Table | None = None) -> pa.Table:
    """The rows that a pruner may choose from: ok, not held out, no copy of one held out.

    Args:
        scores: score table (columns key, digest and status at least).
        holdout: hold-out table (columns key and digest), or None.

    Returns:
        the remaining rows with all their columns, in order. Their number is the original N.
    """
    return scores.filter(in_pool(scores, holdout))


def in_pool(scores: pa.Table, holdout: pa.Table | None = None) -> pa.ChunkedArray:
    """For each row of a score table whether it is in the pool (see `pool`)."""
    import pyarrow.compute as pc

    keep = pc.equal(scores["status"], "ok")
    if holdout is not None:
        for column in ("key", "digest"):
            held = pc.is_in(scores[column], value_set=holdout[column].combine_chunks())
            keep = pc.and_(keep, pc.invert(held))
    return keep


def read_holdout(path: Path | str) -> pa.Table:
    """A hold-out table: key, shard, row, digest. Raises UserError if it is none."""
    from data.formats.tables import read_part

    if not Path(path).is_file():
        raise UserError(f"{path}: no such file; make it with python -m data.holdout")
    return read_part(Path(path), ["key", "shard", "row", "digest"])


def main(argv: Sequence[str] | None = None) -> int | None:
    """The command. Raises UserError for what the user can mend."""
    config = parse(
        HoldoutConfig,
        argv,
        prog="python -m data.holdout",
        description="Set N real images aside for evaluation, before any pruning.",
    )
    if config.out.suffix != ".parquet" or config.out.is_dir():
        raise UserError(f"--out {config.out}: name a file, such as {config.out.stem}.parquet")
    return _join(config) if config.join else _draw(config)


def _draw(config: HoldoutConfig) -> int:
    if config.scores is None:
        raise UserError("give --scores, the folder that prune.score made (or --join)")
    if config.n < 1:
        raise UserError(f"--n {config.n}: must be at least 1")
    params, inputs = science(config), {"scores": fingerprint(config.scores)}
    if config.choice == "random":
        del params["choice"]
    if config.besides is not None:
        inputs["besides"] = fingerprint(config.besides)
    stage = Stage(config.out, "data.holdout", params, inputs)
    if stage.done():
        return 0

    import pyarrow.compute as pc

    from data.formats.tables import read_parts

    by = [] if config.choice == "random" else [config.choice]
    scores = read_parts(config.scores, ["key", "shard", "row", "digest", "status", *by])
    first = None if config.besides is None else read_holdout(config.besides)
    accepted = pool(scores, first).drop_columns(["status"])
    places = draw(accepted["key"].to_pylist(), accepted.num_rows if by else config.n, config.seed)
    if by:
        values = accepted[config.choice].to_pylist()
        given = [i for i in places if values[i] is not None]
        if len(given) < config.n:
            raise UserError(
                f"--choice {config.choice}: {len(given):,} of {accepted.num_rows:,} images have "
                f"it; --n {config.n} asks for more"
            )
        places = sorted(given, key=lambda i: -values[i])[: config.n]  # stable: ties by the hash
    held = accepted.take(places).select(["key", "shard", "row", "digest"])
    left = pool(scores if first is None else pool(scores, first), held).num_rows
    if config.n > accepted.num_rows or not left:
        raise UserError(
            f"--n {config.n}: {config.scores} has {accepted.num_rows:,} usable images, and some "
            "must remain to prune; choose a smaller --n"
        )
    copies = accepted.num_rows - config.n - left
    summary: dict[str, Any] = {"held": config.n, "copies": copies, "pool": left}
    line = f"{config.n:,} images held out, {copies:,} exact copies of them dropped, {left:,} remain"
    if by:
        column = accepted[config.choice]
        taken = pc.mean(column.take(places)).as_py()
        summary |= {"mean": taken, "mean_of_all": pc.mean(column).as_py()}
        line += f" ({config.choice} {taken:.3f} on average, of all {summary['mean_of_all']:.3f})"
    return _write(stage, held, summary, line)


def _join(config: HoldoutConfig) -> int:
    if config.scores is not None or config.besides is not None or config.choice != "random":
        raise UserError("--join puts files together and draws nothing: leave out the other flags")
    inputs = {f"holdout-{n}": fingerprint(path) for n, path in enumerate(config.join)}
    stage = Stage(config.out, "data.holdout", {"join": len(inputs)}, inputs)
    if stage.done():
        return 0

    import pyarrow as pa

    whole = pa.concat_tables([read_holdout(path) for path in config.join]).combine_chunks()
    first = {key: i for i, key in reversed(list(enumerate(whole["key"].to_pylist())))}
    held = whole.take(sorted(first.values()))
    line = f"{held.num_rows:,} images of {len(config.join)} hold-outs"
    return _write(stage, held, {"held": held.num_rows}, line)


def _write(stage: Stage, held: pa.Table, summary: dict[str, Any], line: str) -> int:
    import pyarrow.parquet as pq

    from core.atomic import atomic_path

    stage.open()
    with atomic_path(stage.out) as temporary:
        pq.write_table(held, temporary, compression="zstd")
    stage.finish(summary, [stage.out.name], line=line)
    return 0
