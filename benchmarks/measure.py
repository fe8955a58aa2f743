"""What every benchmark measures with: clocks, memory, the machine's name, and pictures to read."""

from __future__ import annotations

import contextlib
import io
import os
import platform
import re
import resource
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import psutil
import pyarrow as pa
from numpy.typing import NDArray

from core.errors import UserError
from world.paint.scenes import SCENES
from world.paint.tiles import Tile, render
from world.write.encode import jpeg

QUALITY = 95  # of the miniature world's tiles as JPEG: 37 kB each at 256 pixels, as in Git-10M


def machine_line() -> str:
    """Processor, cores that this process may use, memory and versions."""
    with contextlib.suppress(OSError):
        text = Path("/proc/cpuinfo").read_text()
        name = re.search(r"model name\s*:\s*(.+)", text)
        memory = re.search(r"MemTotal:\s+(\d+)", Path("/proc/meminfo").read_text())
        assert name and memory
        cores = len(os.sched_getaffinity(0))
        return (
            f"machine: {name[1]}, {cores} cores, {int(memory[1]) / 2**20:.0f} GiB; "
            f"Python {platform.python_version()}, numpy {np.__version__}, pyarrow {pa.__version__}"
        )
    return f"machine: {platform.platform()}"


def torch_lines() -> str:
    """`machine_line` with torch's version and threads, and the GPU."""
    import torch  # seconds, which most of the benchmarks do without

    cuda = torch.cuda.is_available()
    gpu = torch.cuda.get_device_name() if cuda else "none; its figures: not measured"
    versions = f"torch {torch.__version__}, {torch.get_num_threads()} threads"
    return f"{machine_line()}, {versions}\nGPU: {gpu}"


class Peak(threading.Thread):
    """Watches the resident memory of this process and its children while a block runs.

    `above` is the highest sum of all of them, in MiB, less what this process had before. Pages
    of mapped files count, and pages that processes share count in each of them.
    """

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self._process = psutil.Process()
        self._over = threading.Event()
        self.above = 0.0

    def __enter__(self) -> Peak:
        self._before = self._process.memory_info().rss
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self.join()

    def run(self) -> None:
        while not self._over.wait(0.1):
            total = -self._before
            for process in (self._process, *self._process.children(recursive=True)):
                with contextlib.suppress(psutil.Error):
                    total += process.memory_info().rss
            self.above = max(self.above, total / 2**20)


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keep what commands print to themselves."""
    nowhere = io.StringIO()
    with contextlib.redirect_stdout(nowhere), contextlib.redirect_stderr(nowhere):
        yield


def clocks() -> NDArray[np.float64]:
    """Seconds of (wall, processor) time; the processor time of ended children counts."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return np.array([time.perf_counter(), sum(u.ru_utime + u.ru_stime for u in used)])


def tiles(count: int, size: int) -> Iterator[Tile]:
    """Tiles of the miniature world, every scene in turn."""
    names = list(SCENES)
    for i in range(count):
        yield render(names[i % len(names)], 0, i, size)


def encoded(tile: Tile) -> bytes:
    """A tile as a JPEG."""
    return jpeg(tile.rgb, QUALITY)


def jpeg_files(folder: Path, limit: int) -> list[Path]:
    """JPEG files below a folder, by name. Raises UserError where there are none."""
    found = sorted(p for p in folder.rglob("*") if p.suffix.lower() in (".jpg", ".jpeg"))
    if not found:
        raise UserError(f"--images {folder}: no .jpg in it")
    return found[:limit]
