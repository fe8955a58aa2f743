"""Stage II's assignment: the nearest reference centroid of each image (Eq. 4).

For an image with normalised embedding z and unit centroids mu_k:

    k* = argmax_k  z . mu_k,    s = z . mu_k*

The paper's Eq. 4 writes the raw f(x) instead of z. The argmax is the same, but s would rank the
images of a cluster by the length of their embedding too, so the cosine of the text is used.
Embeddings are stored as float16, whose rows are only nearly of length one: each is divided by
its own length here. Where the centroids were made with --whiten, z is the whitened embedding.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from core.errors import UserError
from core.parallel import available_cpus, ordered_map
from core.parts import Tick, make_parts
from core.stage import Result, Stage
from data.formats.embeddings import (
    NORM_TOLERANCE,
    Embeddings,
    array_path,
    check_norms,
    require_same_encoder,
)
from data.formats.tables import part_path, read_part, write_part
from prune.cluster.centroids import origin, read_centroids, read_whitening_of
from prune.cluster.config import AssignConfig
from prune.cluster.cosine import Nearest

TASK = 16  # parts that a process takes at a time

Sums = tuple[NDArray[np.int64], float]  # of a part: sizes of the clusters [K], sum of the cosines


def assign(config: AssignConfig, stage: Stage) -> Result:
    """Write the nearest centroid of every embedding, a part for each part of the embeddings."""
    embeddings = Embeddings(config.embeddings)
    _, reference = read_centroids(config.centroids)
    try:
        require_same_encoder(embeddings, reference)
    except UserError as error:
        raise UserError(f"{config.centroids} does not fit {config.embeddings}: {error}") from None
    nearest = _nearest(config)  # says what is wrong before anything is begun
    stage.open()

    def make(left: list[int], tick: Tick) -> Iterator[tuple[int, Sums]]:
        tasks = [left[n : n + TASK] for n in range(0, len(left), TASK)]
        workers = max(1, min(config.workers, len(tasks)))
        work = functools.partial(_assign_parts, config=config)
        for sums in ordered_map(work, tasks, workers, max(1, available_cpus() // workers)):
            for index, (counts, cosines) in sums.items():
                tick(int(counts.sum()))
                yield index, (counts, cosines)

    parts = make_parts(
        embeddings.part_sizes(),
        functools.partial(_finished, config, embeddings, nearest.clusters),
        make,
        lambda _, sums: sums,  # the processes have written it
        name="assign",
        stage=stage,
    )
    sizes = np.sum([counts for counts, _ in parts], axis=0)
    rows = int(sizes.sum())
    mean = sum(cosines for _, cosines in parts) / max(rows, 1)
    embeddings.require_all(rows)
    empty = int(np.count_nonzero(sizes == 0))
    return stage.finish(
        {
            "rows": rows,
            "clusters": len(sizes),
            "sizes": sizes.tolist(),
            "similarity": mean,  # mean cosine to the nearest centroid
            "encoder": embeddings.encoder,
            "centroids": origin(config.centroids),
        },
        [part_path(config.out, index).name for index in range(embeddings.count)],
        line=(
            f"{rows:,} images to {len(sizes)} centroids (mean cosine {mean:.4f}, "
            f"{empty} centroids without an image)"
        ),
    )


def _nearest(config: AssignConfig) -> Nearest:
    centroids, _ = read_centroids(config.centroids)
    whitening = read_whitening_of(config.centroids)
    return Nearest(centroids, config.ram * 2**30, whitening, NORM_TOLERANCE)


def _assign_parts(indices: Sequence[int], config: AssignConfig) -> dict[int, Sums]:
    """Write the assignments of some parts of the embeddings."""
    embeddings = Embeddings(config.embeddings)
    nearest = _nearest(config)
    sums = {}
    # A thread writes a part while the next one is at work: the disk takes its time to confirm.
    with ThreadPoolExecutor(1) as writer:
        written = []
        for index in indices:
            embeddings.prefetch(index + 1)
            assigned = _assign(nearest, embeddings, index)
            written.append(writer.submit(write_part, config.out, index, assigned))
            sums[index] = _sums(assigned, nearest.clusters)
        for future in written:
            future.result()
    return sums


def _assign(nearest: Nearest, embeddings: Embeddings, index: int) -> pa.Table:
    """The assignment of one part of the embeddings."""
    matrix, table = embeddings.part(index)
    clusters, similarities, bad = nearest(matrix)
    if bad >= 0:
        check_norms(matrix, array_path(embeddings.folder, index))
        raise UserError(
            f"{embeddings.folder}: the embedding of '{table.column('key')[bad].as_py()}' (row "
            f"{bad} of its part) is zero or not finite; embed this corpus again"
        )
    return assignment(table, clusters, similarities)


def assignment(
    table: pa.Table, clusters: NDArray[np.int32], similarities: NDArray[np.float32]
) -> pa.Table:
    """Rows of a part of embeddings with their clusters [n] and the cosines [n] to them.

    The column entropy (bits) is null where the embeddings have none.
    """
    columns = {name: table.column(name) for name in ("key", "shard", "row")}
    none = pa.nulls(table.num_rows, pa.float64())
    columns["entropy"] = table.column("entropy") if "entropy" in table.column_names else none
    return pa.table(
        {
            **columns,
            "cluster": pa.array(clusters, pa.int32()),
            "similarity": pa.array(similarities, pa.float32()),
        }
    )


def _sums(assigned: pa.Table, clusters: int) -> Sums:
    cluster, similarity = (assigned.column(n).to_numpy() for n in ("cluster", "similarity"))
    return np.bincount(cluster, minlength=clusters), float(similarity.sum(dtype=np.float64))


def _finished(
    config: AssignConfig, embeddings: Embeddings, clusters: int, index: int
) -> Sums | None:
    """The sums of a part that is there, complete, and of the right images; else None."""
    path = part_path(config.out, index)
    if not path.exists():
        return None
    try:
        found = read_part(path, ["key", "cluster", "similarity"])
    except UserError:
        return None
    _, table = embeddings.part(index)
    return _sums(found, clusters) if found.column("key").equals(table.column("key")) else None
