"""Stage II on the whole: assignment and selection, against the bare matrix product.

    python benchmarks/assignment.py                      # 1M rows, 2 GB of scratch space
    python benchmarks/assignment.py --rows 10500000      # 21.5 GB

Embeddings (float16, 1024 numbers a row), scores and prototypes (K = 200) are made up in a scratch
folder that is deleted afterwards. Measured are the commands prune.assign (reads the memory-mapped
parts, writes cluster and cosine of every row) and prune.select (Stage I at 30 %, Stage II, 85 %
pruned, writes the index), called in this process with the imports done. The bare product is
float32 rows that lie in memory already, times the prototypes, with numpy and all its threads,
before and after each pass. The paper names 76.6 to 115.1 s for the selection of 10.5M images, and
4,630 s for clustering them instead (Table 4), both on a GPU server.
"""

from __future__ import annotations

import dataclasses
import shutil
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks import made
from core.parallel import available_cpus


@dataclasses.dataclass(frozen=True)
class AssignmentConfig:
    """What to measure."""

    rows: int = 1_000_000
    """Rows of embeddings."""
    repeats: int = 3
    """Passes; the median ratio counts."""
    workers: int = available_cpus()
    """Processes of prune.assign."""
    scratch: Path | None = None
    """Folder for the scratch folder; the system's by default."""
    ratio: float = 0.85
    """Pruning ratio of the selection."""


def bare(rows: int) -> np.ndarray:
    """Seconds (wall, processor) of `rows` float32 rows times the prototypes."""
    block = np.random.default_rng(0).standard_normal((32_768, made.DIM), dtype=np.float32)
    prototypes = np.ascontiguousarray(made.make_centroids().T)
    out = np.empty((len(block), made.CLUSTERS), np.float32)
    np.matmul(block, prototypes, out=out)
    start = made.clocks()
    for first in range(0, rows, len(block)):
        size = min(len(block), rows - first)
        np.matmul(block[:size], prototypes, out=out[:size])
    return made.clocks() - start


def command(main: object, *arguments: object) -> np.ndarray:
    """Seconds (wall, processor) of a command."""
    start = made.clocks()
    with made.quiet():
        main([str(argument) for argument in arguments])  # type: ignore[operator]
    return made.clocks() - start


def one_pass(work: Path, config: AssignmentConfig) -> np.ndarray:
    """Seconds (wall, processor) of the assignment and of the selection [2, 2]."""
    from prune import assign, select

    for out in ("assignments", "subsets"):
        shutil.rmtree(work / out, ignore_errors=True)
    assigned = command(
        assign.main, "--embeddings", work / "embeddings", "--centroids", work / "centroids",
        "--out", work / "assignments", "--workers", config.workers,
    )  # fmt: skip
    selected = command(
        select.main, "--scores", work / "scores", "--assignments", work / "assignments",
        "--ratio", config.ratio, "--out", work / "subsets" / "s.parquet",
    )  # fmt: skip
    return np.array([assigned, selected])


def main() -> None:
    """Print a line for each pass, then the median."""
    import tyro

    config = tyro.cli(AssignmentConfig, description=__doc__)
    size = config.rows * made.DIM * 2
    with tempfile.TemporaryDirectory(dir=config.scratch, prefix="rs-prune-") as temporary:
        work = Path(temporary)
        if shutil.disk_usage(work).free < 1.2 * size + 5e9:
            sys.exit(f"{work}: {1.2 * size / 1e9 + 5:.0f} GB of free space are needed (--scratch)")
        print(made.machine_line())
        print(f"{config.rows:,} x {made.DIM} float16 ({size / 1e9:.1f} GB), K = {made.CLUSTERS}")
        clock = time.perf_counter()
        made.make_prototypes(work / "centroids")
        made.make_scores(work / "scores", config.rows)
        made.make_embeddings(work / "embeddings", config.rows)
        seconds = time.perf_counter() - clock
        print(f"made in {seconds:.0f} s; {config.workers} processes", flush=True)
        ratios = []
        for _ in range(config.repeats):
            before = bare(config.rows)
            with made.Peak() as peak:
                times = one_pass(work, config)
            product = (before + bare(config.rows)) / 2
            ratios.append(times.sum(axis=0) / product)
            print(
                f"assign {times[0, 0]:.1f} s, select {times[1, 0]:.1f} s, together "
                f"{times[:, 0].sum():.1f} s (CPU {times[:, 1].sum():.1f} s); bare product "
                f"{product[0]:.1f} s (CPU {product[1]:.1f} s); ratio {ratios[-1][0]:.2f} "
                f"(CPU {ratios[-1][1]:.2f}); peak memory {peak.above:,.0f} MiB above the start",
                flush=True,
            )
        wall, processor = np.median(ratios, axis=0)
        print(f"median ratio to the bare product {wall:.2f} (CPU {processor:.2f})")


if __name__ == "__main__":
    main()
