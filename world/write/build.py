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

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from core.atomic import atomic_path, remove_stale, write_json, write_text
from core.parallel import ordered_map
from core.parts import make_parts
from core.stage import Result, Stage, sha256_file
from data.images.decode import decode_rgb
from world.paint.scenes import SCENES
from world.plan.config import WorldConfig
from world.plan.corpus import Job, plan_corpus
from world.plan.sets import Item, plan_sets, split_lists
from world.write.draw import corpus_files, has_infrared, infrared, set_files
from world.write.encode import Pixels

HELD = ".parts/"  # folder below the world of what is gone when it is finished
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
    tasks = [(i // PART, jobs[i : i + PART]) for i in range(0, len(jobs), PART)]

    def make(left: list[int], tick: Callable[[int], object]) -> Iterator[tuple[int, list[Row]]]:
        draw = functools.partial(_draw, config=config)
        workers = min(config.workers, max(1, len(left)))
        made = ordered_map(draw, [tasks[index] for index in left], workers)
        for index, rows in zip(left, made, strict=True):
            tick(len(tasks[index][1]))
            yield index, rows

    parts = make_parts(
        [len(task) for _, task in tasks],
        finished=lambda index: _finished(out, index),
        make=make,
        write=lambda index, rows: _finish(out, index, rows),
        name="world",
        unit="tile",
    )
    rows = [row for part in parts for row in part if not row[0].startswith(HELD)]
    for name, text in split_lists(config).items():
        write_text(out / name, text)
        rows.append(_row(name, text.encode()))
    _write_table(out / "truth.parquet", _truth(corpus))
    quads = _write_quads(corpus, out, len(tasks), config.size) if config.infrared else []
    rows += quads
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
            **({"quads": len(quads)} if quads else {}),
        },
        ["truth.parquet", "listing.parquet", *(["naip-truth.parquet"] if quads else [])],
        line=(
            f"{len(corpus):,} corpus files, {kinds['reference']:,} reference, "
            f"{kinds['sr']:,} SR and {kinds['sis']:,} SIS images"
        ),
    )
    shutil.rmtree(_marker(out, 0).parent)  # the manifest says now that all parts are there
    return result


def _draw(task: tuple[int, Sequence[Job | Item]], config: WorldConfig) -> list[Row]:
    """Draw and write the files of one part, and hold its tiles of four bands for the quads."""
    part, jobs = task
    rows = []
    four: list[Pixels] = []
    for job in jobs:
        if isinstance(job, Job):
            files = corpus_files(job, config)
            if config.infrared and has_infrared(job):
                four.append(np.dstack([decode_rgb(files[0][1]), infrared(job, config)]))
        else:
            wanted = config.infrared and job.kind != "reference"
            files = set_files(job, config.seed, infrared=wanted)
        rows += [_write(config.out, name, data) for name, data in files]
    if four:
        rows.append(_write(config.out, _held(part), np.stack(four).tobytes()))
    return rows


def _write(out: Path, name: str, data: bytes) -> Row:
    path = out / name
    path.parent.mkdir(parents=True, exist_ok=True)
    # No fsync a file: the part's marker carries sizes, which are checked when resuming.
    temporary = path.with_name(f"{path.name}.tmp-{os.getpid()}")
    temporary.write_bytes(data)
    temporary.replace(path)
    return _row(name, data)


def _held(part: int) -> str:
    """Name of the file of a part's tiles of four bands, which the quads are then made of."""
    return f"{HELD}part-{part:05d}.rgbn"


def _write_quads(corpus: Sequence[Job], out: Path, parts: int, side: int) -> list[Row]:
    """Lay the tiles of four bands side by side in quarter quads, and write which is which."""
    from world.write.naip import write_world  # rasterio takes longer than all else here

    jobs = [job for job in corpus if has_infrared(job)]
    if not jobs:
        return []
    held = [path for part in range(parts) if (path := out / _held(part)).is_file()]

    def tiles() -> Iterator[Pixels]:
        for path in held:
            yield from np.fromfile(path, np.uint8).reshape(-1, side, side, 4)

    files, keys = write_world(out / "naip", len(jobs), tiles())
    scenes, tiles_of = [job.scene for job in jobs], [job.key for job in jobs]
    _write_table(out / "naip-truth.parquet", {"key": keys, "scene": scenes, "tile": tiles_of})
    return [
        (path.relative_to(out).as_posix(), path.stat().st_size, sha256_file(path)) for path in files
    ]


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
