"""Draw the world in parts, in several processes, and write its truth."""

from __future__ import annotations

import functools
import hashlib
import os
import shutil
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from core.atomic import atomic_path, remove_stale, write_text
from core.parallel import ordered_map
from core.progress import progress
from world.paint.scenes import SCENES
from world.paint.tiles import generator, render
from world.plan.config import WorldConfig
from world.plan.corpus import Job, plan_corpus
from world.plan.faults import blank, broken, near_duplicate, nodata, sensor_noise
from world.plan.sets import Item, make, plan_sets, split_lists
from world.write.encode import jpeg, png

PART = 50  # renderings in a part, the unit of work and of resuming
File = tuple[str, bytes]
Row = tuple[str, int, str]  # path below the world, bytes, sha256


def corpus_files(job: Job, config: WorldConfig) -> list[File]:
    """The bytes of one corpus file: (path below the world, bytes), its truth rasters after it."""
    rng = generator(config.seed, job.number, "fault")
    path, size = f"corpus/{job.key}", config.size
    kind = job.fault.removeprefix("broken:")
    if job.fault == "blank":
        return [(path, _encode(blank(rng, size), job.quality))]
    if job.fault == "noise":
        return [(path, _encode(sensor_noise(rng, size), job.quality))]
    tile = render(job.scene or "forest", config.seed, job.index, size)
    if kind != job.fault:
        return [(path, broken(kind, tile.rgb))]
    if job.fault == "nodata":
        return [(path, _encode(nodata(rng, tile.rgb), job.quality))]
    if job.duplicate_kind not in ("", "exact"):
        return [(path, near_duplicate(rng, tile.rgb, job.duplicate_kind))]
    files = [(path, _encode(tile.rgb, job.quality))]
    if config.write_truth_rasters and not job.duplicate_kind:
        files.append((f"truth/{job.key}.mask.png", png(tile.mask)))
        files.append((f"truth/{job.key}.nir.png", png(tile.nir)))
    return files


def _encode(pixels: Any, quality: int) -> bytes:
    return jpeg(pixels, quality) if quality else png(pixels)


def _make_part(task: tuple[int, Sequence[Job | Item]], config: WorldConfig) -> int:
    """Draw and write one part, its marker last. Returns the number of renderings."""
    number, jobs = task
    rows: list[Row] = []
    for job in jobs:
        files = corpus_files(job, config) if isinstance(job, Job) else make(job, config.seed)
        for name, data in files:
            path = config.out / name
            path.parent.mkdir(parents=True, exist_ok=True)
            # No fsync a file: the part's marker carries sizes, which are checked when resuming.
            temporary = path.with_name(f"{path.name}.tmp-{os.getpid()}")
            temporary.write_bytes(data)
            temporary.replace(path)
            rows.append((name, len(data), hashlib.sha256(data).hexdigest()))
    _write_rows(_marker(config.out, number), rows)
    return len(jobs)


def _marker(out: Path, number: int) -> Path:
    return out / ".parts" / f"part-{number:05d}.parquet"


def _write_rows(path: Path, rows: Sequence[Row]) -> None:
    names, sizes, digests = zip(*rows, strict=True) if rows else ((), (), ())
    table = pa.table(
        {
            "path": pa.array(names, pa.string()),
            "bytes": pa.array(sizes, pa.int64()),
            "sha256": pa.array(digests, pa.string()),
        }
    )
    with atomic_path(path) as temporary:
        pq.write_table(table, temporary)


def _read_rows(path: Path) -> list[Row]:
    table = pq.read_table(path)
    return list(
        zip(*(table[name].to_pylist() for name in ("path", "bytes", "sha256")), strict=True)
    )


def _whole(out: Path, marker: Path) -> bool:
    """Whether a part is finished and all its files are there with their sizes."""
    if not marker.exists():
        return False
    try:
        return all((out / name).stat().st_size == size for name, size, _ in _read_rows(marker))
    except (OSError, pa.ArrowInvalid):
        return False


def build(config: WorldConfig) -> tuple[dict[str, Any], list[str], str]:
    """Make the world in `config.out`, continuing where a killed run stopped.

    Returns:
        Summary for the manifest, output files it should list, and a line for the user.
    """
    out = config.out
    for folder in [out, *(path for path in out.rglob("*") if path.is_dir())]:
        remove_stale(folder)
    corpus, sets = plan_corpus(config), plan_sets(config)
    jobs: list[Job | Item] = [*corpus, *sets]
    parts = [(i // PART, jobs[i : i + PART]) for i in range(0, len(jobs), PART)]
    left = [part for part in parts if not _whole(out, _marker(out, part[0]))]
    waiting = sum(len(part) for _, part in left)
    with progress(total=len(jobs), initial=len(jobs) - waiting, name="world", unit="tile") as bar:
        make_part = functools.partial(_make_part, config=config)
        for count in ordered_map(make_part, left, min(config.workers, max(1, len(left)))):
            bar.update(count)
    rows = [row for number, _ in parts for row in _read_rows(_marker(out, number))]
    for name, text in split_lists(config).items():
        write_text(out / name, text)
        data = text.encode()
        rows.append((name, len(data), hashlib.sha256(data).hexdigest()))
    _write_truth(out, corpus)
    _write_rows(out / "listing.parquet", sorted(rows))
    kinds = Counter(item.kind for item in sets)
    summary = {
        "corpus": len(corpus),
        "scenes": {name: sum(job.scene == name for job in corpus) for name in SCENES},
        "faults": dict(sorted(Counter(job.fault for job in corpus if job.fault).items())),
        "duplicates": dict(
            sorted(Counter(job.duplicate_kind for job in corpus if job.duplicate_kind).items())
        ),
        "reference": kinds["reference"],
        "sr": kinds["sr"],
        "sis": kinds["sis"],
        "files": len(rows),
    }
    line = (
        f"{len(corpus):,} corpus files, {kinds['reference']:,} reference, "
        f"{kinds['sr']:,} SR and {kinds['sis']:,} SIS images"
    )
    return summary, ["truth.parquet", "listing.parquet"], line


def tidy(out: Path) -> None:
    """Remove the markers of parts, once the stage's own manifest says that it is done."""
    shutil.rmtree(out / ".parts", ignore_errors=True)


def _write_truth(out: Path, corpus: Sequence[Job]) -> None:
    columns = {
        "key": [job.key for job in corpus],
        "scene": [job.scene for job in corpus],
        "dull": [job.scene in SCENES and SCENES[job.scene].dull for job in corpus],
        "fault": [job.fault for job in corpus],
        "duplicate_of": [job.duplicate_of for job in corpus],
        "duplicate_kind": [job.duplicate_kind for job in corpus],
        "index": pa.array([job.index for job in corpus], pa.int64()),
    }
    with atomic_path(out / "truth.parquet") as temporary:
        pq.write_table(pa.table(columns), temporary)
