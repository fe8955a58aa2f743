"""Are two runs of an experiment the same? Every artefact is compared by content.

    python scripts/compare_runs.py runs/before runs/after

Tables are compared column by column (names that changed between versions are listed), latents by
image, weights tensor by tensor, samples and pictures by their bytes, metrics number by number.
Exit code 1 when something differs or is missing.
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from safetensors.numpy import load_file

Parts = Iterator[tuple[str, str]]  # name, digest of its content
RENAMED = {"dull": "low_information"}
TABLES = ("scores", "reference", "embeddings", "assignments", "subsets")


def digest(*parts: bytes) -> str:
    """Hex SHA-256 of the parts, one after the other."""
    return hashlib.sha256(b"\0".join(parts)).hexdigest()[:16]


def columns(path: Path) -> Parts:
    """Every column of a Parquet file."""
    table = pq.read_table(path)
    for name in table.column_names:
        yield RENAMED.get(name, name), digest(repr(table.column(name).to_pylist()).encode())


def tables(run: Path) -> Parts:
    """The columns of all tables, and arrays beside them."""
    for folder in TABLES:
        for path in sorted((run / folder).glob("*.parquet")):
            for name, found in columns(path):
                yield f"{folder}/{path.name}: {name}", found
        for path in sorted((run / folder).glob("*.npy")):
            yield f"{folder}/{path.name}", digest(path.read_bytes())
    yield from ((f"holdout.parquet: {n}", d) for n, d in columns(run / "holdout.parquet"))
    yield "centroids/centroids.npy", digest((run / "centroids" / "centroids.npy").read_bytes())
    if (run / "world" / "truth.parquet").exists():
        for path in ("truth.parquet", "listing.parquet"):
            yield from ((f"world/{path}: {n}", d) for n, d in columns(run / "world" / path))


def latents(run: Path) -> Parts:
    """The latents of each method's subset, in its order, wherever they are kept."""
    for index in sorted((run / "subsets").glob("*.parquet")):
        alone = run / "latents" / index.stem  # version 0.1: a store for each method
        folder = alone if alone.is_dir() else run / "latents"
        where: dict[str, np.ndarray] = {}
        for path in sorted(folder.glob("latents-*.parquet")):
            array = np.load(path.with_suffix(".npy"), mmap_mode="r")
            where |= dict(zip(pq.read_table(path)["key"].to_pylist(), array, strict=True))
        keys = pq.read_table(index)["key"].to_pylist()
        yield f"latents of {index.stem}", digest(*(where[key].tobytes() for key in keys))


def weights(run: Path) -> Parts:
    """The tensors of every trained model, all together for each file."""
    for kind in ("vae", "dit", "sr", "sis"):
        for path in sorted((run / kind).rglob("*.safetensors")):
            tensors = load_file(path)
            content = (f"{name}".encode() + tensors[name].tobytes() for name in sorted(tensors))
            yield str(path.relative_to(run)), digest(*content)


def images(run: Path) -> Parts:
    """What was drawn. The ground truth's folder was called reference in version 0.1."""
    for folder in ("samples", "sr-eval", "sis-eval"):
        for path in sorted((run / folder).rglob("*.png")):
            name = str(path.relative_to(run)).replace("/reference/", "/target/")
            yield name, digest(path.read_bytes())


def metrics(run: Path) -> Parts:
    """Every number of the metrics files."""

    def numbers(value: Any, name: str) -> Parts:
        if isinstance(value, dict):
            for key, inner in value.items():
                yield from numbers(inner, f"{name}.{key}".replace("n_reference", "n_real"))
        elif isinstance(value, int | float) and not isinstance(value, bool):
            yield name, repr(value)

    for path in sorted((run / "metrics").glob("*.json")):
        if "manifest" not in path.name:
            yield from numbers(json.loads(path.read_text()), path.name)


def main(first: Path, second: Path) -> int:
    """Print a line for each kind of artefact. Returns the exit code."""
    failed = False
    for kind in (tables, latents, weights, images, metrics):
        one, other = dict(kind(first)), dict(kind(second))
        differing = [name for name in one if name in other and one[name] != other[name]]
        lost, new = ([n for n in a if n not in b] for a, b in ((one, other), (other, one)))
        equal = len(one) - len(differing) - len(lost)
        print(f"{kind.__name__:<8} {equal:>6,} equal, {len(differing):>3} differ, "
              f"{len(lost):>3} only in the first, {len(new):>3} only in the second")  # fmt: skip
        for what, names in (("differs", differing), ("first only", lost), ("second only", new)):
            for name in names[:8]:
                print(f"    {what}: {name}")
        failed |= bool(differing or lost)
    return int(failed)


if __name__ == "__main__":
    if len(sys.argv) != 3:
        raise SystemExit(__doc__)
    raise SystemExit(main(Path(sys.argv[1]), Path(sys.argv[2])))
