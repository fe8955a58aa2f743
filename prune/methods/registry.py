"""Pruning methods: each turns the pool into a subset of the budget's size, by files alone.

A method is a pure function from a Request to rows and counts, registered under its name. Its
`params` are the settings that it uses; they alone go into the index's metadata.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar, cast

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from core.errors import UserError
from data.formats.index import shard_places

if TYPE_CHECKING:
    from pathlib import Path

    from prune.cluster.features import Features

T = TypeVar("T")


@dataclass(frozen=True)
class Request:
    """What a method may look at.

    Attributes:
        pool: the N rows that Stage I starts from; columns key, shard, row, entropy.
        size: budget B, 1 <= B <= N.
        keep: share p of N that Stage I keeps, in (0, 1].
        seed: of random choices.
        assignments: rows of prune.assign (key, shard, row, cluster, similarity), or None.
        clusters: K, number of prototypes; 0 without assignments.
        prototypes: where the prototypes of the assignments come from (see prune.assign).
        files: folders of the method's other inputs, by name.
        options: the method's own settings, by name.
        shared: what requests that differ in `size` alone need only make once.
    """

    pool: pa.Table
    size: int
    keep: float = 1.0
    seed: int = 0
    assignments: pa.Table | None = None
    clusters: int = 0
    prototypes: Mapping[str, Any] = field(default_factory=dict)
    files: Mapping[str, Path] = field(default_factory=dict)
    options: Mapping[str, Any] = field(default_factory=dict)
    shared: dict[str, Any] = field(default_factory=dict, repr=False, compare=False)

    def once(self, name: str, make: Callable[[], T]) -> T:
        """What `make` returns, made by the first of the requests that share it."""
        if name not in self.shared:
            self.shared[name] = make()
        return cast(T, self.shared[name])

    def features(self, name: str = "embeddings") -> Features:
        """The features of the pool's images, in its order, from the input of this name.

        Raises UserError when the input is missing or does not cover the pool.
        """
        from prune.cluster.features import Features

        return self.once(f"features of {name}", lambda: Features(self.files[name], self.pool))


Chosen = tuple[pa.Table, dict[str, Any]]  # rows; counts and figures to record


@dataclass(frozen=True)
class Method:
    """A registered method.

    Attributes:
        name: as in --method.
        summary: one line for --help and messages.
        params: its settings, all of which are recorded: ratio, keep, seed, or its own.
        clustered: whether it reads the assignments to prototypes.
        choose: Request -> (rows with the columns of data.formats.index.SCHEMA, counts).
        variants: further settings with their defaults; recorded where they differ from those.
        reads: names of its other inputs, for example embeddings.
        may_read: those of `reads` that it can do without.
        columns: columns of the score table that it reads beside key, shard, row and entropy.
    """

    name: str
    summary: str
    params: tuple[str, ...]
    clustered: bool
    choose: Callable[[Request], Chosen]
    variants: Mapping[str, Any] = field(default_factory=dict)
    reads: tuple[str, ...] = ()
    may_read: tuple[str, ...] = ()
    columns: tuple[str, ...] = ()

    def settings(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """Those of the given settings that this method's result depends on.

        A variant at its default is left out, and so is the seed of a draw that is not made.
        """
        found = {name: given[name] for name in self.params}
        other = {name: given.get(name, value) for name, value in self.variants.items()}
        if "random" not in (*found.values(), *other.values()):
            other.pop("seed", None)
        changed = {k: v for k, v in other.items() if k == "seed" or v != self.variants[k]}
        return {**found, **changed}


METHODS: dict[str, Method] = {}


def method(
    name: str,
    summary: str,
    params: tuple[str, ...] = (),
    clustered: bool = False,
    **more: Any,
) -> Callable[[Callable[[Request], Chosen]], Callable[[Request], Chosen]]:
    """Register a method under `name`; see Method for the arguments."""

    def register(choose: Callable[[Request], Chosen]) -> Callable[[Request], Chosen]:
        METHODS[name] = Method(name, summary, params, clustered, choose, **more)
        return choose

    return register


def assigned(kept: pa.Table, request: Request) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
    """Cluster and similarity of each row of `kept`, joined by key.

    Raises UserError when rows have no assignment, or one from another listing of the corpus.
    """
    table = request.assignments
    if table is None:
        raise UserError("this method needs --assignments, a folder made by python -m prune.assign")
    at = _same_places(kept, table)
    if at is None:
        at = _same_keys(kept, table, request)
    columns = (table.column(name).to_numpy() for name in ("cluster", "similarity"))
    cluster, similarity = (values[at] for values in columns)
    return cluster, similarity


def _same_places(kept: pa.Table, table: pa.Table) -> NDArray[np.int64] | None:
    """For each row of `kept` the row of `table` at the same place, with the same key.

    None unless every row has one. Numbers are compared instead of text wherever possible.
    """
    if not table.num_rows:
        return None
    shards, rows = zip(*(_places(one) for one in (kept, table)), strict=True)
    distinct = sorted({*shards[0][1], *shards[1][1]})
    number = {shard: i for i, shard in enumerate(distinct)}
    span = 1 + max(int(row.max()) for row in rows)
    if min(int(row.min()) for row in rows) < 0 or span * len(distinct) >= 2**63:
        return None
    here, there = (
        np.asarray([number[shard] for shard in names], np.int64)[codes] * span + row
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
    return at if keys.equals(kept.column("key")) else None


def _places(table: pa.Table) -> tuple[tuple[NDArray[np.int64], list[str]], NDArray[np.int64]]:
    return shard_places(table.column("shard")), table.column("row").to_numpy()


def _same_keys(kept: pa.Table, table: pa.Table, request: Request) -> NDArray[np.int64]:
    """For each row of `kept` the row of `table` with the same key. UserError as in `assigned`."""
    at = pc.index_in(kept.column("key"), value_set=table.column("key").combine_chunks())
    if at.null_count:
        example = kept.column("key").filter(pc.is_null(at))[0].as_py()
        raise UserError(
            f"{at.null_count:,} of the {kept.num_rows:,} images that Stage I keeps (--keep "
            f"{request.keep}) are not among the {table.num_rows:,} assignments, for example "
            f"'{example}'; embed and assign with at least this --keep, or lower it"
        )
    joined = table.take(at)
    for name in ("shard", "row"):
        if not pc.all(pc.equal(joined.column(name), kept.column(name))).as_py():
            raise UserError(
                "the assignments place some images elsewhere in the corpus than the score table "
                f"(column '{name}'); they were made from another listing: embed and assign again"
            )
    return at.to_numpy()


def subset(
    table: pa.Table,
    rows: NDArray[np.int64],
    *,
    chosen: str | NDArray[np.str_],
    rank: NDArray[np.int64] | None = None,
    cluster: NDArray[np.int32] | None = None,
    similarity: NDArray[np.float32] | None = None,
) -> pa.Table:
    """The given rows of `table` with the columns of a subset index.

    Without `rank`, it is the place in `rows`; without `cluster`, there is none.
    """
    count = len(rows)
    taken = table.select(["key", "shard", "row", "entropy"]).take(pa.array(rows))
    columns = {
        "cluster": np.full(count, -1, np.int32) if cluster is None else cluster,
        "similarity": pa.nulls(count, pa.float32()) if similarity is None else similarity,
        "rank": np.arange(count, dtype=np.int64) if rank is None else rank,
        "chosen": _names(chosen, count),
    }
    for name, values in columns.items():
        taken = taken.append_column(name, pa.array(values))
    return taken


def _names(chosen: str | NDArray[np.str_], count: int) -> pa.Array:
    if isinstance(chosen, str):
        return pa.repeat(chosen, count)
    names, codes = np.unique(chosen, return_inverse=True)
    return pa.array(names.tolist(), pa.string()).take(pa.array(codes))
