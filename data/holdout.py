"""The hold-out: real images set aside before any pruning (`python -m data.holdout --help`).

A subset that a pruner chose must not be judged against real images that it, or another pruner,
could have chosen too. So N images are drawn first, uniformly, by a hash of seed and key; they,
and every exact copy of them, leave the pool. The pool that remains is the "original N" of which
pruning ratios are shares. (The paper does not say how its 5,000 real images were chosen.)
"""

from __future__ import annotations

import dataclasses
import hashlib
import heapq
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from data.cli import parse, run, science
from data.errors import UserError
from data.stage import Stage, identity

if TYPE_CHECKING:
    import pyarrow as pa


@dataclasses.dataclass(frozen=True)
class HoldoutConfig:
    """Settings of the hold-out."""

    scores: Path
    """Score table: a folder that prune.score made."""
    out: Path
    """Output file: a Parquet table, for example holdout.parquet."""
    n: int = 5000
    """Images to hold out (the paper computes FID against 5,000 real images)."""
    seed: int = 0
    """Seed of the draw: the N images with the smallest SHA-256 of 'seed|key'."""


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
    from data.tables import read_part

    if not Path(path).is_file():
        raise UserError(f"{path}: no such file; make it with python -m data.holdout")
    return read_part(Path(path), ["key", "shard", "row", "digest"])


def main(argv: Sequence[str] | None = None) -> int | None:
    """The command. Raises UserError for what the user can mend."""
    config = parse(
        HoldoutConfig,
        argv,
        prog="python -m data.holdout",
        description="Set N random real images aside for evaluation, before any pruning.",
    )
    if config.n < 1:
        raise UserError(f"--n {config.n}: must be at least 1")
    if not config.out.suffix:
        raise UserError(f"--out {config.out}: name a file, for example {config.out}.parquet")
    stage = Stage(config.out, "data.holdout", science(config), {"scores": identity(config.scores)})
    if stage.done():
        return 0

    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    from data.atomic import atomic_path
    from data.tables import read_parts

    scores = read_parts(config.scores, ["key", "shard", "row", "digest", "status"])
    accepted = scores.filter(pc.equal(scores["status"], "ok")).drop_columns(["status"])
    held = accepted.take(draw(accepted["key"].to_pylist(), config.n, config.seed))
    left = pool(scores, held).num_rows
    if config.n > accepted.num_rows or not left:
        raise UserError(
            f"--n {config.n}: {config.scores} has {accepted.num_rows:,} usable images, and some "
            "must remain to prune; choose a smaller --n"
        )
    stage.open()
    with atomic_path(config.out) as temporary:
        pq.write_table(held, temporary, compression="zstd")
    copies = accepted.num_rows - config.n - left
    summary = {"held": config.n, "copies": copies, "pool": left}
    line = f"{config.n:,} images held out, {copies:,} exact copies of them dropped, {left:,} remain"
    stage.finish(summary, [config.out.name], line=line)
    return 0


if __name__ == "__main__":
    run(main)
