"""What a finished stage has to show: figures, histograms, tables, pictures, from its record."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from core.manifest import manifest_path, read_manifest
from eval.programme.plan import Job

_SHOWN = 16  # pictures of a stage that has no sheet of them
_BINS, _MOST = 80, 8.0  # of the entropy histogram: an 8-bit grey level has at most 8 bits
METRICS = ("eval.evaluate", "eval.loss")


@dataclass
class Contents:
    """What is shown of a job.

    Attributes:
        values: name -> number.
        histograms: name -> (counts [n], edges [n + 1]).
        tables: name -> (columns, rows).
        pictures: name -> files.
    """

    values: dict[str, float] = field(default_factory=dict)
    histograms: dict[str, tuple[Any, Any]] = field(default_factory=dict)
    tables: dict[str, tuple[list[Any], list[Any]]] = field(default_factory=dict)
    pictures: dict[str, list[Path]] = field(default_factory=dict)


def contents_of(job: Job) -> Contents:
    """What is shown of a finished job. Raises UserError and OSError for a damaged record."""
    shown = Contents()
    if not manifest_path(job.out).exists():
        return shown  # a track is never finished for good, and its lines say it all
    manifest = read_manifest(job.out)
    name = job.stage.partition(".")[2]
    if job.stage in METRICS:
        _metrics(job, shown)
    else:
        shown.values |= {f"{name}/{k}": v for k, v in numbers(manifest["summary"])}
    cost = manifest["made"].get("cost") or {"seconds": manifest["made"]["seconds"]}
    shown.values |= {f"cost/{key}": value for key, value in numbers(cost)}
    if job.stage in ("prune.score", "prune.select"):
        _entropy(job, name, shown)
    if sizes := manifest["summary"].get("sizes"):
        rows = [[cluster, size] for cluster, size in enumerate(sizes)]
        shown.tables[f"{name}/clusters"] = (["cluster", "images"], rows)
    if pictures := _pictures(job, list(manifest["files"])):
        shown.pictures[f"{name}/pictures"] = pictures
    return shown


def contents_of_folder(folder: Path) -> Contents:
    """What is shown of an experiment: its tables (each *.csv), figures and pictures."""
    shown = Contents()
    for path in sorted(folder.glob("*.csv")):
        with open(path, newline="", encoding="utf-8") as stream:
            columns, *rows = list(csv.reader(stream)) or [[]]
        if columns:
            width = len(columns)
            shown.tables[path.stem] = (columns, [(row + [""] * width)[:width] for row in rows])
    for name in ("figures", "pictures"):
        found = sorted((folder / name).glob("*.png"))
        shown.pictures |= {f"{name}/{path.stem}": [path] for path in found}
    return shown


def numbers(record: Any, name: str = "") -> Iterator[tuple[str, float]]:
    """Every number in a record by its path, 'pool/distance/value'; an interval is low and high.

    Other lists are left out, as are truth values and texts.
    """
    if isinstance(record, dict):
        for key, value in record.items():
            yield from numbers(value, f"{name}/{key}" if name else str(key))
    elif isinstance(record, int | float) and not isinstance(record, bool):
        yield name, record
    elif isinstance(record, list) and "interval" in name.rpartition("/")[2] and len(record) == 2:
        yield from numbers({"low": record[0], "high": record[1]}, name)


def _metrics(job: Job, shown: Contents) -> None:
    """All values of a metrics file, and a table of them with their intervals."""
    found = json.loads(job.out.read_text(encoding="utf-8"))
    task = str(found.get("task", "metrics"))
    values = dict(numbers(found))
    shown.values |= {f"{task}/{name}": value for name, value in values.items()}
    columns = ["metric", "value", "low", "high"]
    rows = []
    for name, value in values.items():
        head, slash, last = name.rpartition("/")
        if "interval" not in name:
            interval = f"{head}{slash}{last.removesuffix('value')}interval_95"
            ends = [values.get(f"{interval}/{end}") for end in ("low", "high")]
            # 'value' has its interval beside it, another number has none of its own.
            rows.append([name, value, *(ends if last.endswith("value") else [None, None])])
    shown.tables[f"{task}/metrics"] = (columns, rows)


def _entropy(job: Job, name: str, shown: Contents) -> None:
    """How the grey-level entropies (bits) of the usable, or of the chosen, images lie."""
    import numpy as np
    import pyarrow.parquet as pq

    paths = sorted(job.out.glob("part-*.parquet")) if job.out.is_dir() else [job.out]
    counts = np.zeros(_BINS, np.int64)
    edges = np.linspace(0.0, _MOST, _BINS + 1)
    for path in paths:
        if "entropy" in pq.read_schema(path).names:
            column = pq.read_table(path, columns=["entropy"])["entropy"].drop_null()
            counts += np.histogram(column.to_numpy(), edges)[0]
    if counts.any():
        shown.histograms[f"{name}/entropy"] = (counts, edges)
        rows = [[float(edge), int(count)] for edge, count in zip(edges, counts, strict=False)]
        shown.tables[f"{name}/entropy_bins"] = (["bits from", "images"], rows)


def _pictures(job: Job, files: list[str]) -> list[Path]:
    """The sheets that a stage has drawn, or else its first pictures."""
    base = manifest_path(job.out).parent
    sheets = [base / name for name in ("grid.png", "reconstructions.png")]
    if found := [path for path in sheets if path.exists()]:
        return found
    drawn = [name for name in files if name.endswith(".png")]
    drawn = [name for name in drawn if name.startswith("generated/")] or drawn
    return [path for name in drawn[:_SHOWN] if (path := base / name).exists()]
