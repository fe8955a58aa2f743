"""The hold-out: real images set aside before any pruning.

A subset that a pruner chose must not be judged against real images that it, or another pruner,
could have chosen too. So N images are drawn first, uniformly, by a hash of seed and key; they,
and every exact copy of them, leave the pool. The pool that remains is the "original N" of which
pruning ratios are fractions.

The paper judges against 5,000 "high-quality" real images and does not say how they were chosen. A
choice by quality or entropy leans towards what an entropy pre-filter keeps, so it is the second
one here, beside the random first, and both leave the pool.
"""

from __future__ import annotations

import hashlib
import heapq
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from core.errors import UserError
from core.manifest import verify_file
from core.stage import Result, Stage
from data.curation.config import HoldoutConfig
from data.formats.tables import read_part, read_parts, write_table

COLUMNS = ["key", "shard", "row", "digest"]


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
    keep = pc.equal(scores["status"], "ok")
    if holdout is not None:
        for column in ("key", "digest"):
            held = pc.is_in(scores[column], value_set=holdout[column].combine_chunks())
            keep = pc.and_(keep, pc.invert(held))
    return keep


def read_holdout(path: Path | str) -> pa.Table:
    """A hold-out table: key, shard, row, digest. Raises UserError if it is none, or damaged."""
    if not Path(path).is_file():
        raise UserError(f"{path}: no such file; make it with python -m data.holdout")
    verify_file(Path(path))
    return read_part(Path(path), COLUMNS)


def hold_out(config: HoldoutConfig, stage: Stage) -> Result:
    """Write the hold-out: drawn from a score table, or joined of other hold-outs."""
    if config.join:
        tables = pa.concat_tables([read_holdout(path) for path in config.join]).combine_chunks()
        first = {key: i for i, key in reversed(list(enumerate(tables["key"].to_pylist())))}
        held = tables.take(sorted(first.values()))
        summary: dict[str, Any] = {"held": held.num_rows}
        line = f"{held.num_rows:,} images of {len(config.join)} hold-outs"
    else:
        held, summary, line = _drawn(config)
    stage.open()
    write_table(stage.out, held)
    return stage.finish(summary, [stage.out.name], line)


def _drawn(config: HoldoutConfig) -> tuple[pa.Table, dict[str, Any], str]:
    """(held-out rows, summary, line). Raises UserError when too few images are there."""
    assert config.scores is not None
    by = [] if config.choice == "random" else [config.choice]
    scores = read_parts(config.scores, [*COLUMNS, "status", *by])
    if config.exclude is not None:
        scores = pool(scores, read_holdout(config.exclude))
    accepted = pool(scores)
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
    held = accepted.take(places).select(COLUMNS)
    left = pool(scores, held).num_rows
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
        summary["mean"] = pc.mean(column.take(places)).as_py()
        summary["mean_of_all"] = pc.mean(column).as_py()
        line += f" ({config.choice} {summary['mean']:.3f} on average, of all "
        line += f"{summary['mean_of_all']:.3f})"
    return held, summary, line
