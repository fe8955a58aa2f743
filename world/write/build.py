"""Draw the world in parts, in several processes, and write its truth."""

from __future__ import annotations

import functools
import hashlib
import json
import os
import shutil
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from core.atomic import atomic_path, remove_stale, write_json, write_text
from core.parallel import ordered_map
from core.parts import make_parts
from core.stage import Result, Stage
from world.paint.scenes import SCENES
from world.plan.config import WorldConfig
from world.plan.corpus import Job, plan_corpus
from world.plan.sets import Item, plan_sets, split_lists
from world.write.draw import corpus_files, set_files

PART = 50  # renderings in a part, the unit of work and of resuming
Row = tuple[str, int, str]  # path below the world, bytes, hex SHA-256


def build(config: WorldConfig, stage: Stage) -> Result:
    """Make the world, continuing where a stopped run ended."""
    stage.open()
    out = config.out
    for folder in [out, *(path for path in out.rglob("*") if path.is_dir())]:
        remove_stale(folder)
    corpus, sets = plan_corpus(config), plan_sets(config)
    jobs: list[Job | Item] = [*corpus, *sets]
    tasks = [jobs[i : i + PART] for i in range(0, len(jobs), PART)]

    def make(left: list[int], tick: Callable[[int], object]) -> Iterator[tuple[int, list[Row]]]:
        draw = functools.partial(_draw, config=config)
        workers = min(config.workers, max(1, len(left)))
        made = ordered_map(draw, [tasks[index] for index in left], workers)
        for index, rows in zip(left, made, strict=True):
            tick(len(tasks[index]))
            yield index, rows

    parts = make_parts(
        [len(task) for task in tasks],
        finished=lambda index: _finished(out, index),
        make=make,
        write=lambda index, rows: _finish(out, index, rows),
        name="world",
        unit="tile",
    )
    rows = [row for part in parts for row in part]
    for name, text in split_lists(config).items():
        write_text(out / name, text)
        rows.append(_row(name, text.encode()))
    _write_table(out / "truth.parquet", _truth(corpus))
    paths, sizes, digests = zip(*sorted(rows), strict=True)
    _write_table(out / "listing.parquet", {"path": paths, "bytes": sizes, "sha256": digests})
    kinds = Counter(item.kind for item in sets)
    scenes = Counter(job.scene for job in corpus)
    faults = Counter(job.fault for job in corpus if job.fault)
    duplicates = Counter(job.duplicate_kind for job in corpus if job.duplicate_kind)
    result = stage.finish(
        {
            "corpus": len(corpus),
            "scenes": {name: scenes[name] for name in SCENES},
            "faults": dict(sorted(faults.items())),
            "duplicates": dict(sorted(duplicates.items())),
            **{kind: kinds[kind] for kind in ("reference", "sr", "sis")},
            "files": len(rows),
        },
        ["truth.parquet", "listing.parquet"],
        line=(
            f"{len(corpus):,} corpus files, {kinds['reference']:,} reference, "
            f"{kinds['sr']:,} SR and {kinds['sis']:,} SIS images"
        ),
    )
    shutil.rmtree(_marker(out, 0).parent)  # the manifest says now that all parts are there
    return result


def _draw(jobs: Sequence[Job | Item], config: WorldConfig) -> list[Row]:
    """Draw and write the files of one part."""
    rows = []
    for job in jobs:
        files = corpus_files(job, config) if isinstance(job, Job) else set_files(job, config.seed)
        for name, data in files:
            path = config.out / name
            path.parent.mkdir(parents=True, exist_ok=True)
            # No fsync a file: the part's marker carries sizes, which are checked when resuming.
            temporary = path.with_name(f"{path.name}.tmp-{os.getpid()}")
            temporary.write_bytes(data)
            temporary.replace(path)
            rows.append(_row(name, data))
    return rows


def _row(name: str, data: bytes) -> Row:
    return name, len(data), hashlib.sha256(data).hexdigest()


def _marker(out: Path, index: int) -> Path:
    return out / ".parts" / f"part-{index:05d}.json"


def _finish(out: Path, index: int, rows: list[Row]) -> list[Row]:
    write_json(_marker(out, index), rows)
    return rows


def _finished(out: Path, index: int) -> list[Row] | None:
    """The rows of a part that is finished and whose files are all there with their sizes."""
    try:
        rows = json.loads(_marker(out, index).read_text(encoding="utf-8"))
        if all((out / name).stat().st_size == size for name, size, _ in rows):
            return [(name, size, digest) for name, size, digest in rows]
    except (OSError, ValueError):
        pass
    return None


def _truth(corpus: Sequence[Job]) -> dict[str, Sequence[object]]:
    plain = {name for name, scene in SCENES.items() if scene.low_information}
    return {
        "key": [job.key for job in corpus],
        "scene": [job.scene for job in corpus],
        "low_information": [job.scene in plain for job in corpus],
        "fault": [job.fault for job in corpus],
        "duplicate_of": [job.duplicate_of for job in corpus],
        "duplicate_kind": [job.duplicate_kind for job in corpus],
        "index": [job.index for job in corpus],
    }


def _write_table(path: Path, columns: dict[str, Sequence[object]]) -> None:
    with atomic_path(path) as temporary:
        pq.write_table(pa.table(columns), temporary)
