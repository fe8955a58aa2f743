"""Stage I's pass over each form of a corpus, against the bare decode of the same bytes.

    python benchmarks/readers.py                       # tiles of the miniature world
    python benchmarks/readers.py --images FOLDER       # JPEGs of your own

The pass is `prune.score` in one process: open, list, read, hash, decode, measure, write the
table. The bare decode is simplejpeg to grey, from memory, in the same process, before and after
each pass. `ratio` is of wall time; `CPU` of processor time, which other programs disturb less.
Peak memory is that of a process of its own which does the pass alone, over 1x and 10x the shards.
"""

from __future__ import annotations

import contextlib
import dataclasses
import io
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))

FORMS = ("folder", "webdataset", "rs5m", "arrow", "arrow-early", "parquet")
_CHILD = """
import re, sys
from prune.score import main
main(["--corpus", sys.argv[1], "--out", sys.argv[2], "--workers", "1"])
print(re.search(r"VmHWM:\\s+(\\d+)", open("/proc/self/status").read())[1])
"""


@dataclasses.dataclass(frozen=True)
class ReadersConfig:
    """What to measure."""

    images: Path | None = None
    """Folder of JPEG files; without it 1,000 tiles of the miniature world are made."""
    limit: int = 2000
    """Images taken from it."""
    size: int = 256
    """Side of the miniature world's tiles (pixels)."""
    copies: int = 5
    """Names under which each image is there: a pass of a second or less measures its start."""
    repeats: int = 5
    """Passes over each form; the median ratio counts."""
    shard_rows: int = 1000
    """Images in a shard."""
    times: int = 10
    """Copies of the shards for the second memory figure."""


def prepare(config: ReadersConfig, work: Path) -> list[Path]:
    """The corpus in every form below `work`. Returns its JPEG files."""
    from data.corpus import open_corpus
    from data.world.convert import convert

    folder = work / "folder"
    folder.mkdir()
    if config.images is None:
        from data.world.encode import jpeg
        from data.world.scenes import SCENES
        from data.world.tiles import render

        names = list(SCENES)
        for i in range(min(config.limit, 1000)):
            tile = render(names[i % len(names)], 0, i, config.size).rgb
            (folder / f"{i:05d}-0.jpg").write_bytes(jpeg(tile, 90))
    else:
        found = sorted(p for p in config.images.rglob("*") if p.suffix.lower() in (".jpg", ".jpeg"))
        for i, path in enumerate(found[: config.limit]):
            shutil.copyfile(path, folder / f"{i:05d}-0.jpg")
    for path in sorted(folder.iterdir()):
        for copy in range(1, config.copies):
            shutil.copyfile(path, folder / f"{path.stem[:-2]}-{copy}.jpg")
    for form in FORMS[1:]:
        with contextlib.redirect_stdout(io.StringIO()):
            convert(open_corpus(folder), work / form, form, config.shard_rows)  # type: ignore[arg-type]
    return sorted(folder.iterdir())


def spec(work: Path, form: str) -> str:
    """What to open a form by."""
    presets = {"rs5m": "rs5m:", "arrow": "git10m:", "arrow-early": "git10m:"}
    return f"{presets.get(form, '')}{work / form}"


def clocks() -> np.ndarray:
    """Seconds of (wall, processor) time."""
    return np.array([time.perf_counter(), time.process_time()])


def decode_all(images: list[bytes]) -> np.ndarray:
    """Seconds (wall, processor) of the bare decode."""
    import simplejpeg

    start = clocks()
    for data in images:
        simplejpeg.decode_jpeg(data, "GRAY")
    return clocks() - start


def score(corpus: str, out: Path) -> np.ndarray:
    """Seconds (wall, processor) of the whole pass."""
    from prune.score import main

    shutil.rmtree(out, ignore_errors=True)
    quiet = io.StringIO()
    start = clocks()
    with contextlib.redirect_stdout(quiet), contextlib.redirect_stderr(quiet):
        main(["--corpus", corpus, "--out", str(out), "--workers", "1"])
    return clocks() - start


def peak(corpus: str, out: Path) -> float:
    """Peak resident MiB of a process that does the pass and ends; mapped files count."""
    shutil.rmtree(out, ignore_errors=True)
    done = subprocess.run(
        [sys.executable, "-c", _CHILD, corpus, str(out)],
        capture_output=True, text=True, check=True, cwd=Path(__file__).parents[1],
    )  # fmt: skip
    return int(done.stdout.splitlines()[-1]) / 1024


def multiply(work: Path, form: str, times: int) -> Path:
    """A folder with each shard (or file) of a form under `times` names, hard links all."""
    more = work / "more" / form
    for path in sorted(p for p in (work / form).rglob("*") if p.is_file()):
        for copy in range(times):
            target = more / path.relative_to(work / form).parent / f"{copy:02d}-{path.name}"
            target.parent.mkdir(parents=True, exist_ok=True)
            os.link(path, target)
    return more


def main() -> None:
    """Print one line a form."""
    import tyro

    config = tyro.cli(ReadersConfig, description=__doc__)
    with tempfile.TemporaryDirectory() as temporary:
        work = Path(temporary)
        images = [path.read_bytes() for path in prepare(config, work)]
        mean = sum(map(len, images)) / len(images) / 1e3
        print(f"{len(images):,} JPEGs of {mean:.1f} kB on average; one process, page cache warm")
        print(f"{'form':12} {'pass img/s':>11} {'decode img/s':>13} {'ratio':>6} {'CPU':>5}"
              f" {'peak MiB':>9} {config.times:>4}x shards")  # fmt: skip
        for form in FORMS:
            score(spec(work, form), work / "scores")  # imports, page cache
            passes, decodes = [], []
            for _ in range(config.repeats):
                before = decode_all(images)
                passes.append(score(spec(work, form), work / "scores"))
                decodes.append((before + decode_all(images)) / 2)
            ratios = np.median(np.array(decodes) / np.array(passes), axis=0)
            speeds = [len(images) / np.median([t[0] for t in times]) for times in (passes, decodes)]
            multiply(work, form, config.times)
            one = peak(spec(work, form), work / "scores")
            many = peak(spec(work / "more", form), work / "scores")
            print(
                f"{form:12} {speeds[0]:11,.0f} {speeds[1]:13,.0f} {ratios[0]:6.2f} {ratios[1]:5.2f}"
                f" {one:9,.0f} {many:11,.0f}",
                flush=True,
            )
            shutil.rmtree(work / "more" / form)


if __name__ == "__main__":
    main()
