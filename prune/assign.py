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

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from data.cli import machine, parse, run, science
from data.errors import UserError
from data.stage import Stage, identity

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa
    from numpy.typing import NDArray

    from prune.whitening import Whitening

ROWS = 1024  # rows a step: their float32 copy stays in the cache between widening and product


@dataclasses.dataclass(frozen=True)
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


class Nearest:
    """Finds nearest prototypes, a block of rows at a time, in buffers that are used again.

    Args:
        centroids: [K, d] float32, unit rows; [K, D] with a whitening.
        ram: bytes for the buffers.
        whitening: map from embeddings [d] to the space [D] of the centroids, if any.
    """

    def __init__(
        self,
        centroids: NDArray[np.float32],
        ram: float = 1 << 30,
        whitening: Whitening | None = None,
    ) -> None:
        import numpy as np

        clusters, dim = centroids.shape
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
        first row that is zero or not finite, or -1.
        """
        import numpy as np

        clusters = np.empty(len(part), np.int32)
        similarities = np.empty(len(part), np.float32)
        for start in range(0, len(part), len(self._wide)):
            block = part[start : start + len(self._wide)]
            wide, scores = self._wide[: len(block)], self._scores[: len(block)]
            widen(block, wide)
            squares = np.einsum("ij,ij->i", wide, wide)
            # Infinity and NaN come out of widen() as 65536 and above.
            bad = np.flatnonzero(~((squares > 0) & (squares < 65536.0)))
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


def widen(half: NDArray[np.float16], out: NDArray[np.float32]) -> None:
    """Write float16 numbers to `out` as float32, exactly, some five times as fast as a cast.

    The bits move to their places in a float32, where the exponent reads 112 too low; a product
    with 2^112 puts that right, for subnormal numbers too. Infinity and NaN are the exception: they
    become finite numbers of magnitude 65536 and above.
    """
    import numpy as np

    bits = out.view(np.int32)
    np.left_shift(half.view(np.int16), 13, out=bits, dtype=np.int32, casting="unsafe")
    np.bitwise_and(bits, np.int32(-0x70000001), out=bits)  # clears what the sign bit smeared
    np.multiply(out, np.float32(2.0**112), out=out)


def main(argv: Sequence[str] | None = None) -> int | None:
    config = parse(
        AssignConfig,
        argv,
        prog="python -m prune.assign",
        description="Assign each image of the pool to its nearest reference prototype.",
    )
    inputs = {
        "embeddings": identity(config.embeddings),
        "centroids": identity(config.centroids),
    }
    stage = Stage(config.out, "prune.assign", science(config), inputs)
    if stage.done():
        return 0
    import numpy as np
    import pyarrow as pa

    from data.embeddings import Embeddings, require_same_encoder
    from data.progress import progress
    from data.tables import part_path, read_part, write_part
    from prune.centroids import origin, read_centroids, read_whitening_of

    embeddings = Embeddings(config.embeddings)
    centroids, reference = read_centroids(config.centroids)
    try:
        require_same_encoder(embeddings, reference)
    except UserError as error:
        raise UserError(f"{config.centroids} does not fit {config.embeddings}: {error}") from None
    nearest = Nearest(centroids, config.ram * 2**30, read_whitening_of(config.centroids))
    stage.open()
    schema = pa.schema(
        [
            ("key", pa.string()),
            ("shard", pa.string()),
            ("row", pa.int64()),
            ("entropy", pa.float64()),  # bits; null where the embeddings carry none
            ("cluster", pa.int32()),
            ("similarity", pa.float32()),
        ]
    )
    sizes = np.zeros(len(centroids), np.int64)
    total = 0.0
    parts = []
    with progress(total=embeddings.rows, name="assign") as bar:
        for number, (matrix, table) in enumerate(embeddings.parts()):
            path = part_path(config.out, number)
            if not _finished(path, table):
                write_part(config.out, number, _assign(nearest, matrix, table, config), schema)
            written = read_part(path, ["cluster", "similarity"])
            sizes += np.bincount(written.column("cluster").to_numpy(), minlength=len(sizes))
            total += float(written.column("similarity").to_numpy().sum(dtype=np.float64))
            parts.append(path.name)
            bar.update(len(matrix))
    rows = int(sizes.sum())
    empty = int(np.count_nonzero(sizes == 0))
    stage.finish(
        {
            "rows": rows,
            "clusters": len(sizes),
            "sizes": sizes.tolist(),
            "similarity": total / max(rows, 1),  # mean cosine to the nearest prototype
            "encoder": embeddings.encoder,
            "prototypes": origin(config.centroids),
        },
        parts,
        line=(
            f"{rows:,} images to {len(sizes)} prototypes (mean cosine {total / max(rows, 1):.4f}, "
            f"{empty} prototypes without an image)"
        ),
    )
    return 0


def _assign(
    nearest: Nearest, matrix: NDArray[np.float16], table: pa.Table, config: AssignConfig
) -> pa.Table:
    """The assignment of one part of the embeddings."""
    import pyarrow as pa

    clusters, similarities, bad = nearest(matrix)
    if bad >= 0:
        raise UserError(
            f"{config.embeddings}: the embedding of '{table.column('key')[bad].as_py()}' (row "
            f"{bad} of its part) is zero or not finite; embed this corpus again"
        )
    columns = {name: table.column(name) for name in ("key", "shard", "row")}
    none = pa.nulls(len(matrix), pa.float64())
    columns["entropy"] = table.column("entropy") if "entropy" in table.column_names else none
    return pa.table(
        {**columns, "cluster": pa.array(clusters), "similarity": pa.array(similarities)}
    )


def _finished(path: Path, table: pa.Table) -> bool:
    """Whether a part is there, whole, and of the images of `table`."""
    from data.tables import read_part

    if not path.exists():
        return False
    try:
        found = read_part(path, ["key"])
    except UserError:
        return False
    return bool(found.column("key").equals(table.column("key")))


if __name__ == "__main__":
    run(main)
