"""Stage I's pre-filter: the most informative fraction of the pool by entropy (Sec. 4.4.1).

Embedding and selection must agree to the last row on what survives Stage I, so both call the
one function here. It reads a score table, never an image.
"""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from core.errors import UserError
from data.formats.index import by_place


def fraction_of(count: int, ratio: float | str | Fraction, name: str = "ratio") -> int:
    """floor(ratio * count), with the ratio as the decimal number that was written.

    Binary floats would lose a row here and there: 0.29 * 100 is 28.999999999999996, whose floor
    is 28, while 29 % of 100 images are 29.

    Args:
        count: number of rows N, >= 0.
        ratio: in [0, 1]; a float stands for its shortest decimal form.
        name: what messages call it.

    Raises:
        UserError: the ratio is no number or outside [0, 1].
    """
    try:
        exact = ratio if isinstance(ratio, Fraction) else Fraction(str(ratio))
    except (ValueError, ZeroDivisionError):
        raise UserError(f"{name} {ratio!r} is not a number; give one from 0 to 1") from None
    if not 0 <= exact <= 1:
        raise UserError(f"{name} {ratio} is outside [0, 1]; 0.30 means 30 % of the pool")
    return int(exact * count)  # truncation is floor, for what is not negative


def stage1(pool: pa.Table, keep: float | str | Fraction) -> pa.Table:
    """D_p%: the top `keep` fraction of the pool by entropy H, ties by key.

    Args:
        pool: the readable rows outside the hold-out (N rows); needs the columns key, shard, row
            and entropy (bits, no nulls). Other columns are carried along.
        keep: fraction p of N in (0, 1]; floor(p * N) rows stay.

    Returns:
        The kept rows with all columns of `pool`, sorted by (shard, row).

    Raises:
        UserError: the pool is empty, `keep` is outside (0, 1] or keeps nothing, or an entropy
            is missing.
    """
    if pool.num_rows == 0:
        raise UserError("the pool is empty: no readable image is left outside the hold-out")
    entropy = pool.column("entropy")
    values = entropy.to_numpy(zero_copy_only=False)
    if entropy.null_count or not np.isfinite(values).all():
        raise UserError(
            "the score table has readable rows without an entropy; run python -m prune.score again"
        )
    count = fraction_of(pool.num_rows, keep, "--keep")
    if count == 0:
        raise UserError(f"--keep {keep} of {pool.num_rows:,} images keeps none of them; raise it")
    return by_place(pool.filter(pa.array(_highest(values, pool.column("key"), count))))


def _highest(values: NDArray[np.float64], keys: pa.ChunkedArray, count: int) -> NDArray[np.bool_]:
    """Which rows are the first `count` (at least 1) in order of (value descending, key)."""
    tau = np.partition(values, len(values) - count)[len(values) - count]
    kept = values > tau
    equal = np.flatnonzero(values == tau)
    room = count - int(np.count_nonzero(kept))
    if room < len(equal):  # only here do keys decide
        names = keys.take(pa.array(equal))
        equal = equal[pc.sort_indices(names).to_numpy()[:room]]
    kept[equal] = True
    return kept


def threshold(kept: pa.Table) -> float:
    """tau (bits): the smallest entropy among kept rows, the threshold that `keep` amounts to."""
    return float(pc.min(kept.column("entropy")).as_py())
