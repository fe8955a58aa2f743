"""Any further subset of a scored table of 10.5M rows: seconds for each command.

    python benchmarks/selection.py

The score table and the assignments of all its rows are made up in a scratch folder (0.7 GB) that
is deleted afterwards. Each command runs as a user runs it, in a process of its own, so its start
and imports count; beside it stands the mere reading of the columns that it needs, in the same run.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks import measure, synthetic
from core.command import command, execute
from core.errors import UserError
from core.settings import AtLeast1, settings
from data.formats.tables import read_parts

_CHILD = """
import re, runpy, sys
sys.argv = sys.argv[1:]
try:
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
finally:
    print(re.search(r"VmHWM:\\s+(\\d+)", open("/proc/self/status").read())[1])
"""


@settings
class SelectionConfig:
    """What to measure."""

    rows: AtLeast1 = 10_500_000
    """Rows of the score table."""
    repeats: AtLeast1 = 3
    """Times that each command runs; the median counts."""
    scratch: Path | None = None
    """Folder for the scratch folder; the system's by default."""


def timed(*arguments: object) -> tuple[float, float]:
    """Wall seconds of a command in a process of its own, and its peak memory in MiB."""
    start = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-c", _CHILD, *map(str, arguments)],
        capture_output=True, text=True, cwd=Path(__file__).parents[1],
    )  # fmt: skip
    seconds = time.perf_counter() - start
    if done.returncode not in (0, 1):  # 1: prune.index diff found other images
        raise UserError(done.stdout + done.stderr)
    return seconds, int(re.findall(r"\d+", done.stdout)[-1]) / 1024


def reading(work: Path) -> float:
    """Seconds to read the score table's columns."""
    start = time.perf_counter()
    read_parts(work / "scores", ["key", "shard", "row", "entropy", "status"], ["shard", "status"])
    return time.perf_counter() - start


def run(config: SelectionConfig) -> int:
    """Print one line a command."""
    with tempfile.TemporaryDirectory(dir=config.scratch, prefix="rs-prune-") as temporary:
        work = Path(temporary)
        print(measure.machine_line())
        scores = synthetic.make_scores(work / "scores", config.rows)
        assignments = synthetic.make_assignments(work / "assignments", config.rows)
        print(f"{config.rows:,} rows scored and assigned (K = {synthetic.CLUSTERS})")
        of = ("--scores", scores)
        clustered = (*of, "--assignments", assignments)
        select = "prune.select"
        # Held-out images are found by digest, a column that the other commands do not read.
        timed("data.holdout", *of, "--n", 5000, "--out", work / "holdout.parquet")
        held = ("--holdout", work / "holdout.parquet")
        ours, random = work / "ours.parquet", work / "random.parquet"
        commands = {
            "ours 85 %": (select, *clustered, "--out", ours),
            "ours 90 %, keep 50 %": (
                select, *clustered, "--ratio", 0.9, "--keep", 0.5, "--out", work / "b.parquet",
            ),
            "ours 85 %, hold-out": (select, *clustered, *held, "--out", work / "c.parquet"),
            "Random 85 %": (select, *of, "--method", "random", "--out", random),
            "Stage I only 85 %": (
                select, *of, "--method", "entropy", "--out", work / "d.parquet"
            ),
            "verify ours": ("prune.index", "verify", ours, *clustered),
            "diff": ("prune.index", "diff", ours, random),
            "export keys": (
                "prune.index", "export", ours, "--to", "keys", "--out", work / "keys.txt"
            ),
        }  # fmt: skip
        print(f"{'command':22} {'seconds':>8} {'worst':>6} {'read alone':>11} {'peak MiB':>9}")
        for name, arguments in commands.items():
            times, reads, peaks = [], [], []
            for _ in range(config.repeats):
                if "--out" in arguments:
                    out = Path(str(arguments[arguments.index("--out") + 1]))
                    out.unlink(missing_ok=True)
                    out.with_suffix(".manifest.json").unlink(missing_ok=True)
                reads.append(reading(work))
                seconds, peak = timed(*arguments)
                times.append(seconds)
                peaks.append(peak)
            print(
                f"{name:22} {np.median(times):8.1f} {max(times):6.1f} {np.median(reads):11.1f} "
                f"{max(peaks):9,.0f}",
                flush=True,
            )
    return 0


main = command("benchmarks.selection", SelectionConfig, run, __doc__ or "")

if __name__ == "__main__":
    execute(main)
