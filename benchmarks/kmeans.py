"""Spherical k-means against faiss, scikit-learn and the bare matrix products.

    python benchmarks/kmeans.py                 # 55,605 x 1024, K = 200, 20 iterations

The sizes are those of the paper's union of five reference sets. All start from the same centroids
(the draw of ours) and do the same number of iterations. faiss runs its spherical k-means on all
points; scikit-learn has none and runs Lloyd's on the unit vectors (one start, no early stop: tol
0, no sums of squares to check). `objective` is the mean of 1 - cosine to the nearest centroid
after normalising it, computed alike for all. Peers that are not installed are left out.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks import measure
from core.command import command, execute
from core.parallel import available_cpus
from core.settings import AtLeast1, settings
from prune.cluster.cosine import nearest
from prune.cluster.features import Held, unit_rows
from prune.cluster.kmeans import plus_plus, spherical_kmeans


@settings
class KmeansConfig:
    """What to measure."""

    rows: AtLeast1 = 55_605
    """Points."""
    dim: AtLeast1 = 1024
    """Their width d."""
    clusters: AtLeast1 = 200
    """K."""
    iterations: AtLeast1 = 20
    """Iterations of each."""
    repeats: AtLeast1 = 3
    """Runs of ours and faiss; the median of the paired ratios counts."""
    sklearn: bool = True
    """Compare with scikit-learn (one run; it takes long)."""


def points(config: KmeansConfig) -> np.ndarray:
    """Unit rows around more directions than there are clusters, of unequal popularity."""
    random = np.random.default_rng(0)
    centres = random.standard_normal((3 * config.clusters, config.dim), dtype=np.float32)
    popularity = random.dirichlet(np.full(len(centres), 0.7))
    matrix = centres[random.choice(len(centres), config.rows, p=popularity)]
    matrix += 1.5 * random.standard_normal(matrix.shape, dtype=np.float32)
    return unit_rows(matrix)


def objective(units: np.ndarray, centroids: np.ndarray) -> float:
    """Mean of 1 - cosine to the nearest centroid."""
    return float(np.mean(1 - nearest(units, unit_rows(centroids))[1].astype(np.float64)))


def timed(function: Callable[[], np.ndarray]) -> tuple[float, np.ndarray]:
    """Wall seconds of a function, and what it gives."""
    start = time.perf_counter()
    found = function()
    return time.perf_counter() - start, found


def run(config: KmeansConfig) -> int:
    """Print one line for each."""
    print(measure.machine_line())
    print(
        f"{config.rows:,} x {config.dim} float32, K = {config.clusters}, {config.iterations} "
        f"iterations, {available_cpus()} threads each"
    )
    units = points(config)
    start = units[plus_plus(units, config.clusters, np.random.default_rng([0, 0]))]

    def ours() -> np.ndarray:
        return spherical_kmeans(
            Held(units), config.clusters, initial=start, iterations=config.iterations
        ).centroids

    def bare() -> np.ndarray:
        for _ in range(config.iterations + 1):  # ours assigns once more than it moves
            out = units @ start.T
        return out

    def faiss_() -> np.ndarray:
        kmeans = faiss.Kmeans(
            config.dim, config.clusters, niter=config.iterations, spherical=True,
            max_points_per_centroid=config.rows,
        )  # fmt: skip
        kmeans.train(units, init_centroids=start)
        return kmeans.centroids

    try:
        import faiss
    except ImportError:
        faiss = None
        print("faiss is not installed")
    else:
        faiss.omp_set_num_threads(available_cpus())
    rows: list[list[float]] = []
    results = []
    for _ in range(config.repeats):
        with measure.Peak() as peak:
            seconds, mine = timed(ours)
        results.append(mine)
        product, _ = timed(bare)
        other, theirs = timed(faiss_) if faiss is not None else (float("nan"), mine)
        rows.append([seconds, product, other])
    took, product, other = np.median(rows, axis=0)
    same = all(np.array_equal(results[0], result) for result in results)
    mine_at = objective(units, mine)
    print(f"ours          {took:7.2f} s   objective {mine_at:.6f}, "
          f"{'the same' if same else 'NOT the same'} centroids in {config.repeats} runs, "
          f"peak memory {peak.above:,.0f} MiB above the points")  # fmt: skip
    ratio = np.median([a / b for a, b, _ in rows])
    print(f"bare products {product:7.2f} s   ours / bare {ratio:.2f}")
    if faiss is not None:
        at = objective(units, theirs)
        ratio = np.median([a / c for a, _, c in rows])
        print(f"faiss         {other:7.2f} s   objective {at:.6f} (ours {mine_at / at - 1:+.3%}), "
              f"ours / faiss {ratio:.2f}")  # fmt: skip
    if config.sklearn:
        try:
            from sklearn.cluster import KMeans
        except ImportError:
            print("scikit-learn is not installed")
            return 0

        def peer() -> np.ndarray:
            kmeans = KMeans(
                config.clusters, init=start, n_init=1, max_iter=config.iterations, tol=0,
                algorithm="lloyd",
            )  # fmt: skip
            return kmeans.fit(units).cluster_centers_

        seconds, theirs = timed(peer)
        print(f"scikit-learn  {seconds:7.2f} s   objective {objective(units, theirs):.6f}, "
              f"scikit-learn / ours {seconds / took:.1f}")  # fmt: skip
    return 0


main = command("benchmarks.kmeans", KmeansConfig, run, __doc__ or "")

if __name__ == "__main__":
    execute(main)
