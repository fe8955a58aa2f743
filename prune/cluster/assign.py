"""Stage II's assignment: the nearest reference prototype of each image (Eq. 4).

    python -m prune.assign --embeddings pool --centroids centroids --out assignments

For an image with normalised embedding z and unit prototypes mu_k:

    k* = argmax_k  z . mu_k,    s = z . mu_k*

The paper's Eq. 4 writes the raw f(x) instead of z. The argmax is the same, but s would rank the
images of a cluster by the length of their embedding too, so the cosine of the text is used.
Embeddings are stored as float16, whose rows are only nearly of length one: each is divided by
its own length here. Where the prototypes were made with --whiten, z is the whitened embedding.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

from core.errors import UserError
from core.parallel import available_cpus, ordered_map
from core.settings import machine, parse, science, settings
from core.stage import Stage, fingerprint, require_folder

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa
    from numpy.typing import NDArray

    from prune.cluster.whitening import Whitening

ROWS = 256  # rows a step: their float32 copy stays in the cache between widening and product
TASK = 16  # parts that a process takes at a time


@settings
class AssignConfig:
    """Settings of prune.assign."""

    embeddings: Path
    """Embeddings of the pool: a folder made by prune.embed."""
    centroids: Path
    """Prototypes: a folder made by prune.centroids with the same encoder."""
    out: Path
    """Output folder: one Parquet part for each part of the embeddings."""
    ram: float = machine(1.0)
    """Working memory for the products, in GiB (machine setting)."""
    workers: int = machine(available_cpus())
    """Processes that share the parts (machine setting)."""


class Nearest:
    """Finds nearest prototypes, a block of rows at a time, in buffers that are used again.

    Args:
        centroids: [K, d] float32, unit rows; [K, D] with a whitening.
        ram: bytes for the buffers.
        whitening: map from embeddings [d] to the space [D] of the centroids, if any.
        tolerance: how far from 1 the length of an embedding may be; any length by default.
    """

    def __init__(
        self,
        centroids: NDArray[np.float32],
        ram: float = 1 << 30,
        whitening: Whitening | None = None,
        tolerance: float = float("inf"),
    ) -> None:
        import numpy as np

        self._tolerance = tolerance
        clusters, dim = centroids.shape
        self.clusters = clusters
        a_row, fixed = 4 * (dim + clusters), centroids.nbytes
        if whitening is not None:
            fixed += whitening.matrix.nbytes
            dim = len(whitening.mean)
            a_row += 4 * dim
        rows = min(ROWS, int((ram - fixed) // a_row))
        if rows < 1:
            raise UserError(
                f"--ram {ram / 2**30:.3g}: {clusters} prototypes of {dim} numbers need at least "
                f"{(fixed + a_row) / 2**30:.3g} GiB"
            )
        self._whitening = whitening
        if whitening is not None:
            self._projected = np.empty((rows, whitening.dims), np.float32)
        self._transposed = np.ascontiguousarray(centroids.T)
        self._wide = np.empty((rows, dim), np.float32)
        self._scores = np.empty((rows, clusters), np.float32)

    def __call__(
        self, part: NDArray[np.float16]
    ) -> tuple[NDArray[np.int32], NDArray[np.float32], int]:
        """Assign the rows of `part` [n, d] float16.

        Returns clusters [n] int32 (ties: the lower), cosines [n] float32 in [-1, 1], and the
        first row that is zero, not finite or of another length than it should be, or -1.
        """
        import numpy as np

        from data.formats.embeddings import squared_norms, widen

        clusters = np.empty(len(part), np.int32)
        similarities = np.empty(len(part), np.float32)
        for start in range(0, len(part), len(self._wide)):
            block = part[start : start + len(self._wide)]
            wide, scores = self._wide[: len(block)], self._scores[: len(block)]
            widen(block, wide)
            squares = squared_norms(wide)
            sound = (squares > 0) & (squares < 65536.0)  # above: infinity or NaN
            sound &= np.abs(np.sqrt(squares) - 1) <= self._tolerance
            bad = np.flatnonzero(~sound)
            if bad.size:
                return clusters, similarities, start + int(bad[0])
            if self._whitening is not None:
                wide /= np.sqrt(squares)[:, None]
                wide = self._whitening.project(wide, self._projected[: len(block)])
                squares = np.einsum("ij,ij->i", wide, wide)
                # The reference's mean itself has no direction: similarity 0 to every prototype.
                np.maximum(squares, np.finfo(np.float32).tiny, out=squares)
            np.matmul(wide, self._transposed, out=scores)
            nearest = scores.argmax(axis=1)
            best = scores[np.arange(len(block)), nearest] / np.sqrt(squares)
            clusters[start : start + len(block)] = nearest
            similarities[start : start + len(block)] = np.clip(best, -1.0, 1.0)
        return clusters, similarities, -1


def main(argv: Sequence[str] | None = None) -> int | None:
    config = parse(
        AssignConfig,
        argv,
        prog="python -m prune.assign",
        description="Assign each image of the pool to its nearest reference prototype.",
    )
    require_folder(config.out)
    inputs = {
        "embeddings": fingerprint(config.embeddings),
        "centroids": fingerprint(config.centroids),
    }
    stage = Stage(config.out, "prune.assign", science(config), inputs)
    if stage.done():
        return 0
    import numpy as np

    from core.progress import progress
    from data.formats.embeddings import Embeddings, require_same_encoder
    from data.formats.tables import part_path
    from prune.cluster.centroids import origin, read_centroids

    if config.workers < 1 or not config.ram > 0:
        raise UserError("--workers must be at least 1, --ram more than 0 GiB")
    embeddings = Embeddings(config.embeddings)
    centroids, reference = read_centroids(config.centroids)
    try:
        require_same_encoder(embeddings, reference)
    except UserError as error:
        raise UserError(f"{config.centroids} does not fit {config.embeddings}: {error}") from None
    _nearest(config)  # says what is wrong before anything is begun
    stage.open()
    tasks = [range(n, min(n + TASK, embeddings.count)) for n in range(0, embeddings.count, TASK)]
    workers = max(1, min(config.workers, len(tasks)))
    sizes = np.zeros(len(centroids), np.int64)
    total = 0.0
    seen = 0
    with progress(total=embeddings.rows, name="assign") as bar:
        work = functools.partial(_assign_parts, config=config)
        for results in ordered_map(work, tasks, workers, max(1, available_cpus() // workers)):
            for counts, cosines in results:
                sizes += counts
                total += cosines
            bar.update(int(sizes.sum()) - seen)
            seen = int(sizes.sum())
    embeddings.require_all(seen)
    parts = [part_path(config.out, number).name for number in range(embeddings.count)]
    empty = int(np.count_nonzero(sizes == 0))
    stage.finish(
        {
            "rows": seen,
            "clusters": len(sizes),
            "sizes": sizes.tolist(),
            "similarity": total / max(seen, 1),  # mean cosine to the nearest prototype
            "encoder": embeddings.encoder,
            "prototypes": origin(config.centroids),
        },
        parts,
        line=(
            f"{seen:,} images to {len(sizes)} prototypes (mean cosine {total / max(seen, 1):.4f}, "
            f"{empty} prototypes without an image)"
        ),
    )
    return 0


def _nearest(config: AssignConfig) -> Nearest:
    from data.formats.embeddings import NORM_TOLERANCE
    from prune.cluster.centroids import read_centroids, read_whitening_of

    centroids, _ = read_centroids(config.centroids)
    whitening = read_whitening_of(config.centroids)
    return Nearest(centroids, config.ram * 2**30, whitening, NORM_TOLERANCE)


def _assign_parts(
    numbers: Sequence[int], config: AssignConfig
) -> list[tuple[NDArray[np.int64], float]]:
    """Write the assignments of some parts, those that are there apart.

    Returns the sizes of the clusters [K] and the sum of the cosines, of each part.
    """
    import numpy as np

    from data.formats.embeddings import Embeddings
    from data.formats.tables import part_path, read_part, write_part

    embeddings = Embeddings(config.embeddings)
    nearest = _nearest(config)
    results = []
    # A thread writes a part while the next one is at work: the disk takes its time to confirm.
    with ThreadPoolExecutor(1) as writer:
        written = []
        for number in numbers:
            embeddings.prefetch(number + 1)
            matrix, table = embeddings.part(number)
            path = part_path(config.out, number)
            if _finished(path, table):
                assigned = read_part(path, ["cluster", "similarity"])
            else:
                assigned = _assign(nearest, matrix, table, config, number)
                written.append(writer.submit(write_part, config.out, number, assigned))
            cluster, similarity = (assigned.column(n).to_numpy() for n in ("cluster", "similarity"))
            counts = np.bincount(cluster, minlength=nearest.clusters)
            results.append((counts, float(similarity.sum(dtype=np.float64))))
        for future in written:
            future.result()
    return results


def _assign(
    nearest: Nearest,
    matrix: NDArray[np.float16],
    table: pa.Table,
    config: AssignConfig,
    number: int,
) -> pa.Table:
    """The assignment of part `number` of the embeddings."""
    import pyarrow as pa

    from data.formats.embeddings import array_path, check_norms

    clusters, similarities, bad = nearest(matrix)
    if bad >= 0:
        check_norms(matrix, array_path(config.embeddings, number))
        raise UserError(
            f"{config.embeddings}: the embedding of '{table.column('key')[bad].as_py()}' (row "
            f"{bad} of its part) is zero or not finite; embed this corpus again"
        )
    columns = {name: table.column(name) for name in ("key", "shard", "row")}
    none = pa.nulls(len(matrix), pa.float64())  # entropy (bits), where the embeddings have it
    columns["entropy"] = table.column("entropy") if "entropy" in table.column_names else none
    return pa.table(
        {**columns, "cluster": pa.array(clusters), "similarity": pa.array(similarities)}
    )


def _finished(path: Path, table: pa.Table) -> bool:
    """Whether a part is there, whole, and of the images of `table`."""
    from data.formats.tables import read_part

    if not path.exists():
        return False
    try:
        found = read_part(path, ["key"])
    except UserError:
        return False
    return bool(found.column("key").equals(table.column("key")))
