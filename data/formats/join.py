"""Two tables that name images by key, shard and row, joined by key and checked by place."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from core.errors import UserError
from data.formats.index import shard_places


def rows_of(
    images: pa.Table, table: pa.Table, what: str, missing: Callable[[int, str], str]
) -> NDArray[np.int64]:
    """For each image [n] the row of `table` that is the same image's.

    Args:
        images: [n] rows with key, shard and row.
        table: rows with key, shard and row, the keys unique.
        what: the table, as messages call it.
        missing: (how many images have no row, the key of one) -> the message about them.

    Raises UserError for images without a row, and where the tables place an image differently.
    """
    at = _by_place(images, table)
    return _by_key(images, table, what, missing) if at is None else at


def _by_place(images: pa.Table, table: pa.Table) -> NDArray[np.int64] | None:
    """The join where every image has a row at its place with its key; None otherwise.

    Numbers are compared instead of text wherever possible: of millions of rows that is faster.
    """
    if not table.num_rows or not images.num_rows:
        return None
    shards, rows = zip(
        *((shard_places(t.column("shard")), t.column("row").to_numpy()) for t in (images, table)),
        strict=True,
    )
    distinct = sorted({*shards[0][1], *shards[1][1]})
    code = {shard: i for i, shard in enumerate(distinct)}
    span = 1 + max(int(row.max()) for row in rows)
    if min(int(row.min()) for row in rows) < 0 or span * len(distinct) >= 2**63:
        return None
    here, there = (
        np.asarray([code[shard] for shard in names], np.int64)[codes] * span + row
        for (codes, names), row in zip(shards, rows, strict=True)
    )
    order = None if (there[1:] > there[:-1]).all() else np.argsort(there, kind="stable")
    in_order = there if order is None else there[order]
    at = np.minimum(np.searchsorted(in_order, here), len(there) - 1)
    if not np.array_equal(in_order[at], here):
        return None
    at = at if order is None else order[at]
    keys = table.column("key")
    if (at[1:] > at[:-1]).all():  # a mask goes through the parts' chunks faster than places do
        wanted = np.zeros(len(there), bool)
        wanted[at] = True
        keys = keys if wanted.all() else keys.filter(pa.array(wanted))
    else:
        keys = keys.take(pa.array(at))
    return at if keys.equals(images.column("key")) else None


def _by_key(
    images: pa.Table, table: pa.Table, what: str, missing: Callable[[int, str], str]
) -> NDArray[np.int64]:
    at = pc.index_in(images.column("key"), value_set=table.column("key").combine_chunks())
    if at.null_count:
        example = images.column("key").filter(pc.is_null(at))[0].as_py()
        raise UserError(missing(at.null_count, example))
    joined = table.select(["shard", "row"]).take(at)
    for name in ("shard", "row"):
        here, there = (t.column(name) for t in (images, joined))
        if not pc.all(pc.equal(there.cast(here.type), here)).as_py():
            raise UserError(
                f"{what}: some images stand elsewhere in the corpus than in the score table "
                f"(column '{name}'); made from another listing of the corpus: make it again"
            )
    return at.to_numpy().astype(np.int64)
