"""What a pruning method is: a pure function from the stages' files to a subset of B images.

    @method("random", "uniform without replacement from the pool", params=("ratio", "seed"))
    def random(request: Request) -> Chosen: ...

A method has a line in prune.methods.catalogue. Its `params` are the settings that it uses; they
alone go into the index's metadata.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar, cast

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from core.errors import UserError
from data.formats.join import rows_of
from prune.cluster.features import Features

T = TypeVar("T")
Chosen = tuple[pa.Table, dict[str, Any]]  # rows; counts and figures to record


@dataclass(frozen=True)
class Request:
    """What a method may look at.

    Attributes:
        pool: the rows to choose from; columns key, shard, row, entropy. All N of the original
            pool, or with --drop-copies those that are no copy of another.
        size: budget B, at least 1 and at most the pool's rows.
        keep: fraction p of N that Stage I keeps, in (0, 1].
        seed: of random choices.
        assignments: rows of prune.assign (key, shard, row, cluster, similarity), or None.
        clusters: K, the number of centroids; 0 without assignments.
        centroids: where the centroids of the assignments come from (see prune.assign).
        files: folders of the method's other inputs, by name.
        options: the method's own settings, by name.
        whole: with --drop-copies the original pool, with a column copy (bool); Stage I takes its
            fraction of it, so that it keeps what was embedded.
        shared: what requests that differ in `size` alone need only make once.
    """

    pool: pa.Table
    size: int
    keep: float = 1.0
    seed: int = 0
    assignments: pa.Table | None = None
    clusters: int = 0
    centroids: Mapping[str, Any] = field(default_factory=dict)
    files: Mapping[str, Path] = field(default_factory=dict)
    options: Mapping[str, Any] = field(default_factory=dict)
    whole: pa.Table | None = None
    shared: dict[str, Any] = field(default_factory=dict, repr=False, compare=False)

    @property
    def total(self) -> int:
        """N, images in the original pool."""
        return (self.pool if self.whole is None else self.whole).num_rows

    def once(self, name: str, make: Callable[[], T]) -> T:
        """What `make` returns, made by the first of the requests that share it."""
        if name not in self.shared:
            self.shared[name] = make()
        return cast(T, self.shared[name])

    def features(self, name: str = "embeddings") -> Features:
        """The features of the pool's images, in its order, from the input of this name.

        Raises UserError when they do not cover the pool.
        """
        return self.once(f"features of {name}", lambda: Features(self.files[name], self.pool))


@dataclass(frozen=True)
class Method:
    """A pruning method.

    Attributes:
        name: as in --method.
        summary: one line for messages.
        choose: Request -> (rows as `subset` gives them, counts).
        params: its settings, all of which are recorded: ratio, keep, seed, or its own.
        variants: further settings with their defaults; recorded where they differ from those.
        reads: names of its inputs beside the scores, for example assignments.
        optional: those of `reads` that it can do without.
        columns: columns of the score table that it reads beside key, shard, row and entropy.
    """

    name: str
    summary: str
    choose: Callable[[Request], Chosen]
    params: tuple[str, ...] = ()
    variants: Mapping[str, Any] = field(default_factory=dict)
    reads: tuple[str, ...] = ()
    optional: tuple[str, ...] = ()
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


def method(
    name: str, summary: str, **more: Any
) -> Callable[[Callable[[Request], Chosen]], Method]:
    """Make a function a Method; see there for the arguments."""
    return lambda choose: Method(name, summary, choose, **more)


def assigned(kept: pa.Table, request: Request) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
    """Cluster [n] and similarity [n] of each row of `kept`, joined by key.

    Raises UserError when rows have no assignment, or one from another listing of the corpus.
    """
    table = request.assignments
    assert table is not None, "the method reads assignments, so they are there"
    at = rows_of(
        kept,
        table,
        "the assignments",
        lambda count, example: (
            f"{count:,} of the {kept.num_rows:,} images that Stage I keeps (--keep "
            f"{request.keep}) are not among the {table.num_rows:,} assignments, for example "
            f"'{example}'; embed and assign with at least this --keep, or lower it"
        ),
    )
    return table.column("cluster").to_numpy()[at], table.column("similarity").to_numpy()[at]


def pool_clusters(
    request: Request, method: str, own: bool = True
) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
    """Cluster [N] and similarity [N] of each image of the pool, for a method without Stage I.

    Args:
        request: its assignments must cover the pool.
        method: its name, for messages.
        own: whether the centroids must be those of the pool's own embeddings.

    Raises UserError when either does not hold.
    """
    table, pool = request.assignments, request.pool
    rows = 0 if table is None else table.num_rows
    if rows < pool.num_rows:
        raise UserError(
            f"--assignments: {rows:,} images, but {method} has no Stage I and looks at all "
            f"{pool.num_rows:,} of the pool; embed it with python -m prune.embed --keep 1 and "
            "assign those embeddings"
        )
    if own:
        require_own_centroids(request, method)
    return request.once("clusters of the pool", lambda: assigned(pool, request))


def require_own_centroids(request: Request, method: str) -> None:
    """Raise UserError unless the centroids were learnt from the embeddings assigned to them."""
    if not request.centroids.get("own"):
        raise UserError(
            f"--assignments: to centroids of other embeddings, but {method} clusters the images "
            "themselves, without a reference; make the centroids from the same embeddings: "
            "python -m prune.centroids --embeddings POOL --streaming, then prune.assign"
        )


def subset(
    table: pa.Table,
    rows: NDArray[np.int64],
    *,
    chosen: str | pa.Array,
    rank: NDArray[np.int64] | None = None,
    cluster: NDArray[np.int32] | None = None,
    similarity: NDArray[np.float32] | None = None,
) -> pa.Table:
    """The given rows of `table` with the columns of a subset index, all but the digest.

    Without `rank`, it is the place in `rows`; without `cluster`, there is none.
    """
    count = len(rows)
    taken = table.select(["key", "shard", "row", "entropy"]).take(pa.array(rows))
    columns = {
        "cluster": np.full(count, -1, np.int32) if cluster is None else cluster,
        "similarity": pa.nulls(count, pa.float32()) if similarity is None else similarity,
        "rank": np.arange(count, dtype=np.int64) if rank is None else rank,
        "chosen": pa.repeat(chosen, count) if isinstance(chosen, str) else chosen,
    }
    for name, values in columns.items():
        taken = taken.append_column(name, pa.array(values))
    return taken
