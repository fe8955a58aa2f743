"""Score tables, assignments and embeddings of any size, made up for the benchmarks.

They have the formats and the odds and ends of real ones (rejected rows, equal entropies, keys
that are not in the order of the places), and are the same on every machine.
"""

from __future__ import annotations

import contextlib
import io
import os
import platform
import re
import resource
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pyarrow as pa
from numpy.typing import NDArray

sys.path.insert(0, str(Path(__file__).parents[1]))

from core.atomic import write_json
from core.stage import digest_of

SHARD = 13_000  # rows a part of the scores: an Arrow shard of 500 MB holds so many tiles
PART = 4_096  # rows a part of embeddings and assignments, as prune.embed writes them
DIM = 1024  # of the paper's encoder
CLUSTERS = 200  # K


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


def text_column(rows: NDArray[np.uint8]) -> pa.Array:
    """Strings of one width from their bytes [n, width]."""
    count, width = rows.shape
    offsets = np.arange(0, (count + 1) * width, width, dtype=np.int32)
    data = np.ascontiguousarray(rows)
    buffers = [None, pa.py_buffer(offsets), pa.py_buffer(data)]
    return pa.Array.from_buffers(pa.string(), count, buffers)


def names(numbers: NDArray[np.int64]) -> pa.Array:
    """'tile_00001234.jpg' for each number."""
    out = np.empty((len(numbers), 17), np.uint8)
    out[:] = np.frombuffer(b"tile_00000000.jpg", np.uint8)
    left = numbers.copy()
    for place in range(12, 4, -1):
        left, digit = np.divmod(left, 10)
        out[:, place] = digit + ord("0")
    return text_column(out)


def _hex(random: np.random.Generator, count: int) -> pa.Array:
    digits = random.bytes(32 * count).hex().encode()
    return text_column(np.frombuffer(digits, np.uint8).reshape(-1, 64))


def _finish(out: Path, stage: str, summary: dict[str, Any], files: list[Path]) -> None:
    """A manifest as core.stage writes it, but for the digests of the files (not read here)."""
    entries = {p.name: {"bytes": p.stat().st_size, "sha256": "0" * 64} for p in files}
    # What later stages ask of an earlier one: its pixel limit, its embeddings.
    inputs = {"embeddings": "made up"} if stage == "prune.centroids" else {}
    made = {"stage": stage, "params": {"max_pixels": 100_000_000}, "inputs": inputs}
    write_json(
        out / "manifest.json",
        {
            "format": 1,
            "fingerprint": digest_of([stage, summary, sorted(entries)]),
            **made,
            "summary": summary,
            "files": entries,
            "made": {"seconds": 0.0, "code": "benchmark", "python": platform.python_version()},
        },
    )


def parts(rows: int, size: int) -> Iterator[tuple[int, int, int]]:
    """(number, first row, row after the last) of each part."""
    for number, start in enumerate(range(0, rows, size)):
        yield number, start, min(start + size, rows)


def _places(start: int, stop: int, rows: int) -> dict[str, Any]:
    # A step prime to the number of rows makes keys whose order is not that of the places.
    step = 7_919 if rows % 7_919 else 7_927
    numbers = np.arange(start, stop, dtype=np.int64) * step % rows
    shard, row = np.divmod(np.arange(start, stop), SHARD)
    shards = pa.array([f"data-{i:05d}.arrow" for i in range(shard[0], shard[-1] + 1)])
    return {
        "key": names(numbers),
        "shard": shards.take(pa.array(shard - shard[0])),
        "row": pa.array(row),
    }


def make_scores(out: Path, rows: int) -> Path:
    """A score table: 0.5 % rejected, one entropy in fifty equal to many others."""
    from data.formats.scores import SCORES
    from data.formats.tables import write_part

    out.mkdir(parents=True, exist_ok=True)
    files = []
    rejected = 0
    for number, start, stop in parts(rows, SHARD):
        random = np.random.default_rng([1, number])
        count = stop - start
        entropy = np.round(8 * random.beta(6, 2, count), 12)
        entropy[random.random(count) < 0.02] = 7.0
        bad = random.random(count) < 0.005
        rejected += int(bad.sum())
        columns = {
            **_places(start, stop, rows),
            "digest": _hex(random, count),
            "bytes": pa.array(random.integers(5_000, 60_000, count)),
            "width": pa.array(np.full(count, 256, np.int32)),
            "height": pa.array(np.full(count, 256, np.int32)),
            "entropy": pa.array(entropy, mask=bad),
            "status": pa.array(["ok", "rejected"]).take(pa.array(bad.astype(np.int8))),
            "reason": pa.array(["", "corrupt"]).take(pa.array(bad.astype(np.int8))),
            "detail": pa.repeat("", count),
        }
        files.append(write_part(out, number, columns, SCORES))
    _finish(out, "prune.score", {"n": rows, "ok": rows - rejected}, files)
    return out


def make_assignments(out: Path, rows: int) -> Path:
    """Assignments of every row (as of --keep 1) to prototypes of very different popularity."""
    from data.formats.tables import write_part

    out.mkdir(parents=True, exist_ok=True)
    share = np.random.default_rng(2).dirichlet(np.full(CLUSTERS, 0.7))
    files = []
    for number, start, stop in parts(rows, PART):
        random = np.random.default_rng([3, number])
        count = stop - start
        table = {
            **_places(start, stop, rows),
            "entropy": pa.nulls(count, pa.float64()),
            "cluster": pa.array(random.choice(CLUSTERS, count, p=share).astype(np.int32)),
            "similarity": pa.array(random.beta(8, 3, count).astype(np.float32)),
        }
        files.append(write_part(out, number, pa.table(table)))
    summary = {"clusters": CLUSTERS, "encoder": {"name": "made up"}, "rows": rows}
    _finish(out, "prune.assign", summary, files)
    return out


def make_embeddings(out: Path, rows: int, dim: int = DIM) -> Path:
    """Unit rows in float16 around CLUSTERS directions; parts of PART rows, as prune.embed's."""
    from data.formats.embeddings import write_embeddings

    out.mkdir(parents=True, exist_ok=True)
    centres = make_centroids(dim)
    # Drawing fresh numbers for every row would take longer than what is to be measured: the noise
    # of a part is cut from one long sequence, at a place of its own.
    noise = np.random.default_rng(4).standard_normal(3 * PART * dim, dtype=np.float32)
    noise /= np.sqrt(dim)
    files: list[Path] = []
    for number, start, stop in parts(rows, PART):
        random = np.random.default_rng([5, number])
        count = stop - start
        place = int(random.integers(len(noise) - count * dim))
        matrix = noise[place : place + count * dim].reshape(count, dim)
        matrix = matrix + centres[random.integers(CLUSTERS, size=count)]
        matrix /= np.sqrt(np.einsum("nd,nd->n", matrix, matrix))[:, None]
        table = pa.table({**_places(start, stop, rows), "entropy": pa.array(random.random(count))})
        write_embeddings(out, number, matrix, table)
        files += [out / f"part-{number:05d}.npy", out / f"part-{number:05d}.parquet"]
    summary = {"encoder": {"name": "made up"}, "dim": dim, "rows": rows, "parts": len(files) // 2}
    _finish(out, "prune.embed", summary, files)
    return out


def make_prototypes(out: Path, dim: int = DIM) -> Path:
    """The folder of prune.centroids with `make_centroids`."""
    out.mkdir(parents=True, exist_ok=True)
    np.save(out / "centroids.npy", make_centroids(dim))
    summary = {"encoder": {"name": "made up"}, "dim": dim, "clusters": CLUSTERS}
    _finish(out, "prune.centroids", summary, [out / "centroids.npy"])
    return out


def make_centroids(dim: int = DIM) -> NDArray[np.float32]:
    """CLUSTERS unit rows."""
    matrix = np.random.default_rng(6).standard_normal((CLUSTERS, dim), dtype=np.float32)
    return matrix / np.linalg.norm(matrix, axis=1, keepdims=True)


def latents(folder: Path, rows: int, side: int = 32) -> Path:
    """A finished latent store of random posteriors, 4 x side x side."""
    import pyarrow.parquet as pq

    from core.stage import Stage

    shape = (4, side, side)
    stage = Stage(folder, "dit.encode", {"made": rows, "side": side}, {})
    stage.open()
    posteriors = np.random.default_rng(0).normal(size=(rows, 2, 2, *shape)).astype(np.float16)
    posteriors[:, :, 1] = 0.1  # standard deviation
    np.save(folder / "latents-00000.npy", posteriors)
    keys = [f"image-{row:06d}" for row in range(rows)]
    pq.write_table(pa.table({"key": keys}), folder / "latents-00000.parquet")
    summary = {
        "vae": {"fingerprint": "0" * 64, "scale": 1.0, "latent_channels": 4, "factor": 8},
        "image_size": 8 * side,
        "rows": rows,
        "shape": shape,
        "shards": 1,
    }
    with quiet():
        stage.finish(summary, ["latents-00000.npy", "latents-00000.parquet"], line=f"{rows} rows")
    return folder
