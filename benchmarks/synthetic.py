"""Synthetic score tables, assignments, embeddings and latents of any size, for the benchmarks.

They have the formats and the odds and ends of real ones (rejected rows, equal entropies, keys
that are not in the order of the places), and are the same on every machine.
"""

from __future__ import annotations

import platform
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from benchmarks.measure import quiet
from core.atomic import write_json
from core.parallel import available_cpus
from core.stage import Stage, digest_of, sha256_file
from data.formats.embeddings import write_embeddings
from data.formats.scores import SCORES
from data.formats.tables import write_part

SHARD = 13_000  # rows a part of the scores: an Arrow shard of 500 MB holds so many tiles
PART = 4_096  # rows a part of embeddings and assignments, as prune.embed writes them
DIM = 1024  # of the paper's encoder
CLUSTERS = 200  # K


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
    """A manifest as core.stage writes it: later stages hold the files against its digests."""
    with ThreadPoolExecutor(available_cpus()) as threads:
        digests = list(threads.map(sha256_file, files))
    entries = {
        path.name: {"bytes": path.stat().st_size, "sha256": digest}
        for path, digest in zip(files, digests, strict=True)
    }
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
    """(index, first row, row after the last) of each part."""
    for index, start in enumerate(range(0, rows, size)):
        yield index, start, min(start + size, rows)


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
    out.mkdir(parents=True, exist_ok=True)
    files = []
    rejected = 0
    for index, start, stop in parts(rows, SHARD):
        random = np.random.default_rng([1, index])
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
        files.append(write_part(out, index, columns, SCORES))
    _finish(out, "prune.score", {"n": rows, "ok": rows - rejected}, files)
    return out


def make_assignments(out: Path, rows: int) -> Path:
    """Assignments of every row (as of --keep 1) to centroids of very different popularity."""
    out.mkdir(parents=True, exist_ok=True)
    popularity = np.random.default_rng(2).dirichlet(np.full(CLUSTERS, 0.7))
    files = []
    for index, start, stop in parts(rows, PART):
        random = np.random.default_rng([3, index])
        count = stop - start
        table = {
            **_places(start, stop, rows),
            "entropy": pa.nulls(count, pa.float64()),
            "cluster": pa.array(random.choice(CLUSTERS, count, p=popularity).astype(np.int32)),
            "similarity": pa.array(random.beta(8, 3, count).astype(np.float32)),
        }
        files.append(write_part(out, index, pa.table(table)))
    summary = {"clusters": CLUSTERS, "encoder": {"name": "made up"}, "rows": rows}
    _finish(out, "prune.assign", summary, files)
    return out


def make_embeddings(out: Path, rows: int, dim: int = DIM) -> Path:
    """Unit rows in float16 around CLUSTERS directions; parts of PART rows, as prune.embed's."""
    out.mkdir(parents=True, exist_ok=True)
    centres = centroid_rows(dim)
    # Drawing fresh numbers for every row would take longer than what is to be measured: the noise
    # of a part is cut from one long sequence, at a place of its own.
    noise = np.random.default_rng(4).standard_normal(3 * PART * dim, dtype=np.float32)
    noise /= np.sqrt(dim)
    files: list[Path] = []
    for index, start, stop in parts(rows, PART):
        random = np.random.default_rng([5, index])
        count = stop - start
        place = int(random.integers(len(noise) - count * dim))
        matrix = noise[place : place + count * dim].reshape(count, dim)
        matrix = matrix + centres[random.integers(CLUSTERS, size=count)]
        matrix /= np.sqrt(np.einsum("nd,nd->n", matrix, matrix))[:, None]
        table = pa.table({**_places(start, stop, rows), "entropy": pa.array(random.random(count))})
        write_embeddings(out, index, matrix, table)
        files += [out / f"part-{index:05d}.npy", out / f"part-{index:05d}.parquet"]
    summary = {"encoder": {"name": "made up"}, "dim": dim, "rows": rows, "parts": len(files) // 2}
    _finish(out, "prune.embed", summary, files)
    return out


def make_centroids(out: Path, dim: int = DIM) -> Path:
    """The folder of prune.centroids with `centroid_rows`."""
    out.mkdir(parents=True, exist_ok=True)
    np.save(out / "centroids.npy", centroid_rows(dim))
    summary = {"encoder": {"name": "made up"}, "dim": dim, "clusters": CLUSTERS}
    _finish(out, "prune.centroids", summary, [out / "centroids.npy"])
    return out


def centroid_rows(dim: int = DIM) -> NDArray[np.float32]:
    """CLUSTERS unit rows."""
    matrix = np.random.default_rng(6).standard_normal((CLUSTERS, dim), dtype=np.float32)
    return matrix / np.linalg.norm(matrix, axis=1, keepdims=True)


def make_latents(folder: Path, rows: int, side: int = 32) -> Path:
    """A finished latent store of random posteriors, 4 x side x side."""
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
