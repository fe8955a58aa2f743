"""Small stage outputs in the real formats, for tests of the stages after them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from core.stage import Stage, fingerprint
from data.formats.scores import SCORES
from data.formats.tables import part_path, write_part

SHARD = 40  # rows a shard


def places(count: int) -> dict[str, list[Any]]:
    """Keys whose order is not that of (shard, row)."""
    return {
        "key": [f"class{i * 7 % 5}/{i * 37 % count:04d}.jpg" for i in range(count)],
        "shard": [f"shard-{i // SHARD:02d}" for i in range(count)],
        "row": [i % SHARD for i in range(count)],
    }


def make_scores(
    out: Path,
    entropies: np.ndarray,
    rejected: tuple[int, ...] = (),
    copies: Mapping[int, int] | None = None,
) -> Path:
    """A score table with the given entropies; rows in `rejected` could not be read.

    `copies` maps a row to the row whose bytes it has.
    """
    count = len(entropies)
    bad = set(rejected)
    columns = {
        **places(count),
        "digest": [f"{(copies or {}).get(i, i):064x}" for i in range(count)],
        "bytes": [1000] * count,
        "width": [64] * count,
        "height": [64] * count,
        "entropy": [None if i in bad else float(h) for i, h in enumerate(entropies)],
        "status": ["rejected" if i in bad else "ok" for i in range(count)],
        "reason": ["truncated" if i in bad else "" for i in range(count)],
        "detail": [""] * count,
    }
    table = pa.table(columns, schema=SCORES)
    stage = Stage(out, "prune.score", {"seed": float(np.sum(entropies))}, {})
    stage.open()
    parts = [
        write_part(out, n, table.slice(start, SHARD))
        for n, start in enumerate(range(0, count, SHARD))
    ]
    stage.finish({"ok": count - len(bad)}, [p.name for p in parts], line="scores")
    return out


def make_assignments(
    out: Path,
    rows: np.ndarray,
    cluster: np.ndarray,
    similarity: np.ndarray,
    clusters: int,
    count: int,
    own: Path | None = None,
    **prototypes: int,
) -> Path:
    """Assignments of `rows` (positions in the table of `count` rows made by make_scores).

    With `own`, an embeddings folder, they are to prototypes of those embeddings themselves.
    """
    table = pa.table(places(count)).take(pa.array(rows))
    table = table.append_column("entropy", pa.nulls(len(rows), pa.float64()))
    table = table.append_column("cluster", pa.array(cluster, pa.int32()))
    table = table.append_column("similarity", pa.array(similarity, pa.float32()))
    inputs = {"centroids": f"K={clusters}"}
    origin: dict[str, Any] = {"embeddings": "a reference set", **prototypes}
    if own is not None:
        inputs["embeddings"] = origin["embeddings"] = fingerprint(own)
    stage = Stage(out, "prune.assign", {}, inputs)
    stage.open()
    path = write_part(out, 0, table)
    stage.finish(
        {
            "clusters": clusters,
            "encoder": {"name": "fake"},
            "rows": len(rows),
            "centroids": origin,
        },
        [path.name],
        line="assignments",
    )
    return out


def make_holdout(out: Path, scores: Path, rows: list[int]) -> Path:
    """A hold-out of the given rows of a score table of one or more parts."""
    from data.formats.tables import read_parts

    held = read_parts(scores, ["key", "shard", "row", "digest"]).take(pa.array(rows))
    stage = Stage(out, "data.holdout", {"n": len(rows)}, {})
    stage.open()
    pq.write_table(held, out)
    stage.finish({"held": len(rows)}, [out.name], line="holdout")
    return out


def make_embeddings(
    out: Path,
    matrix: np.ndarray,
    encoder: dict[str, Any] | None = None,
    part: int = SHARD,
    entropy: bool = False,
) -> Path:
    """Embeddings in parts of `part` rows, stored as float16; the rows are not normalised here."""
    count = len(matrix)
    columns = places(count)
    stage = Stage(out, "prune.embed", {"digest": float(np.nansum(np.abs(matrix)))}, {})
    stage.open()
    outputs = []
    for number, start in enumerate(range(0, count, part)):
        name = f"part-{number:05d}.npy"
        np.save(out / name, matrix[start : start + part].astype(np.float16))
        piece: dict[str, Any] = {k: v[start : start + part] for k, v in columns.items()}
        if entropy:
            piece["entropy"] = [float(i) / count for i in range(start, min(start + part, count))]
        schema = pa.schema(
            [("key", pa.string()), ("shard", pa.string()), ("row", pa.int64())]
            + ([("entropy", pa.float64())] if entropy else [])
        )
        write_part(out, number, piece, schema)
        outputs += [name, part_path(out, number).name]
    stage.finish(
        {
            "encoder": encoder or {"name": "fake"},
            "dim": matrix.shape[1],
            "rows": count,
            "parts": len(outputs) // 2,
        },
        outputs,
        line="embeddings",
    )
    return out
