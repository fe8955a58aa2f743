"""Stage II on the whole: assignment and selection, against the bare matrix product.

    python benchmarks/assignment.py                      # 1M rows, 2 GB of scratch space
    python benchmarks/assignment.py --rows 10500000      # 21.5 GB

Embeddings (float16, 1024 numbers a row), scores and centroids (K = 200) are made up in a scratch
folder that is deleted afterwards. Measured are the commands prune.assign (reads the memory-mapped
parts, writes cluster and cosine of every row) and prune.select (Stage I at 30 %, Stage II, 85 %
pruned, writes the index), called in this process with the imports done. The bare product is
float32 rows that lie in memory already, times the centroids, with numpy and all its threads,
before and after each pass. The paper names 76.6 to 115.1 s for the selection of 10.5M images, and
4,630 s for clustering them instead (Table 4), both on a GPU server.
"""

from __future__ import annotations

import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks import measure, synthetic
from core.command import command, execute
from core.errors import UserError
from core.parallel import available_cpus
from core.settings import AtLeast1, Fraction, settings
from core.stage import Result
from prune.assign import AssignConfig
from prune.assign import run as assign
from prune.select import SelectConfig
from prune.select import run as select


@settings
class AssignmentConfig:
    """What to measure."""

    rows: AtLeast1 = 1_000_000
    """Rows of embeddings."""
    repeats: AtLeast1 = 3
    """Passes; the median ratio counts."""
    workers: AtLeast1 = available_cpus()
    """Processes of prune.assign."""
    scratch: Path | None = None
    """Folder for the scratch folder; the system's by default."""
    ratio: Fraction = 0.85
    """Pruning ratio of the selection."""


def bare(rows: int) -> np.ndarray:
    """Seconds (wall, processor) of `rows` float32 rows times the centroids."""
    block = np.random.default_rng(0).standard_normal((32_768, synthetic.DIM), dtype=np.float32)
    centroids = np.ascontiguousarray(synthetic.centroid_rows().T)
    out = np.empty((len(block), synthetic.CLUSTERS), np.float32)
    np.matmul(block, centroids, out=out)
    start = measure.clocks()
    for first in range(0, rows, len(block)):
        size = min(len(block), rows - first)
        np.matmul(block[:size], centroids, out=out[:size])
    return measure.clocks() - start


def timed(stage: Callable[[], Result]) -> np.ndarray:
    """Seconds (wall, processor) of a stage."""
    start = measure.clocks()
    with measure.quiet():
        stage()
    return measure.clocks() - start


def one_pass(work: Path, config: AssignmentConfig) -> np.ndarray:
    """Seconds (wall, processor) of the assignment and of the selection [2, 2]."""
    for out in ("assignments", "subsets"):
        shutil.rmtree(work / out, ignore_errors=True)
    assignment = AssignConfig(
        embeddings=work / "embeddings", centroids=work / "centroids", out=work / "assignments",
        workers=config.workers,
    )  # fmt: skip
    selection = SelectConfig(
        scores=work / "scores", assignments=work / "assignments", ratio=(config.ratio,),
        out=work / "subsets" / "s.parquet",
    )  # fmt: skip
    return np.array([timed(lambda: assign(assignment)), timed(lambda: select(selection))])


def run(config: AssignmentConfig) -> int:
    """Print a line for each pass, then the median."""
    size = config.rows * synthetic.DIM * 2
    with tempfile.TemporaryDirectory(dir=config.scratch, prefix="rs-prune-") as temporary:
        work = Path(temporary)
        if shutil.disk_usage(work).free < 1.2 * size + 5e9:
            raise UserError(f"--scratch: {1.2 * size / 1e9 + 5:.0f} GB of free space are needed")
        print(measure.machine_line())
        print(
            f"{config.rows:,} x {synthetic.DIM} float16 ({size / 1e9:.1f} GB), "
            f"K = {synthetic.CLUSTERS}"
        )
        clock = time.perf_counter()
        synthetic.make_centroids(work / "centroids")
        synthetic.make_scores(work / "scores", config.rows)
        synthetic.make_embeddings(work / "embeddings", config.rows)
        seconds = time.perf_counter() - clock
        print(f"made in {seconds:.0f} s; {config.workers} processes", flush=True)
        ratios = []
        for _ in range(config.repeats):
            before = bare(config.rows)
            with measure.Peak() as peak:
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
    return 0


main = command("benchmarks.assignment", AssignmentConfig, run, __doc__ or "")

if __name__ == "__main__":
    execute(main)
