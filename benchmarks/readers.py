"""Stage I's pass over each form of a corpus, against the bare decode of the same bytes.

    python benchmarks/readers.py                       # tiles of the miniature world
    python benchmarks/readers.py --images FOLDER       # JPEGs of your own

The pass is `prune.score` in one process (a thread of which reads and hashes ahead): open, list,
read, hash, decode, measure, write the table. The bare decode is simplejpeg from memory to grey,
which is all that Stage I needs, in the same process, before and after each pass; `RGB` is the
ratio to a decode to RGB, as a training loader does it. For GeoTIFFs it is rasterio's reading of
the same windows, all four bands. Ratios are of wall time, speed of the pass over speed of the
decode; `CPU` is of processor time, which other programs disturb less. Peak memory is that of a
process of its own which does the pass alone, over 1x and 10x the shards.

The tiles are JPEGs of about 38 kB, Git-10M's average being 37 kB: the more bytes an image has,
the more of the time is its decode.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))

import rasterio
import simplejpeg
from rasterio.windows import Window

from benchmarks import measure
from core.command import command, execute
from core.settings import AtLeast0, AtLeast1, settings
from data.corpus.specs import open_corpus
from prune.score import ScoreConfig
from prune.score import run as score
from world.write.convert import write_shards
from world.write.naip import write_quad

FORMS = ("folder", "webdataset", "rs5m", "arrow", "arrow-early", "parquet", "naip")
_CHILD = """
import re, sys
from pathlib import Path
from prune.score import ScoreConfig, run
run(ScoreConfig(corpus=sys.argv[1], out=Path(sys.argv[2]), workers=1))
print(re.search(r"VmHWM:\\s+(\\d+)", open("/proc/self/status").read())[1])
"""


@settings
class ReadersConfig:
    """What to measure."""

    images: Path | None = None
    """Folder of JPEG files; without it 1,000 tiles of the miniature world are made."""
    limit: AtLeast1 = 2000
    """Images taken from it."""
    size: AtLeast1 = 256
    """Side of the miniature world's tiles (pixels)."""
    copies: AtLeast1 = 5
    """Names under which each image is there: a pass of a second or less measures its start."""
    repeats: AtLeast1 = 5
    """Passes over each form; the median ratio counts."""
    shard_rows: AtLeast1 = 1000
    """Images in a shard."""
    times: AtLeast0 = 10
    """Copies of the shards for the second memory figure; 0 measures no memory."""
    forms: tuple[str, ...] = FORMS
    """Forms to measure."""


def prepare(config: ReadersConfig, work: Path) -> list[Path]:
    """The corpus in every form below `work`. Returns its JPEG files."""
    folder = work / "folder"
    folder.mkdir()
    if config.images is None:
        chips = []
        for i, tile in enumerate(measure.tiles(min(config.limit, 1000), config.size)):
            (folder / f"{i:05d}-0.jpg").write_bytes(measure.encoded(tile))
            chips.append(np.dstack([tile.rgb, tile.nir]))
        if "naip" in config.forms:
            for start in range(0, len(chips), 200):
                write_quad(work / "naip", start // 200, chips[start : start + 200])
    else:
        for i, path in enumerate(measure.jpeg_files(config.images, config.limit)):
            shutil.copyfile(path, folder / f"{i:05d}-0.jpg")
    for path in sorted(folder.iterdir()):
        for copy in range(1, config.copies):
            shutil.copyfile(path, folder / f"{path.stem[:-2]}-{copy}.jpg")
    for form in set(config.forms) - {"folder", "naip"}:
        write_shards(open_corpus(folder), work / form, form, config.shard_rows)  # type: ignore[arg-type]
    return sorted(folder.iterdir())


def spec(work: Path, form: str, chip: int) -> str:
    """What to open a form by."""
    if form == "naip":
        return f"usa1m:{work / form}?chip={chip}"
    presets = {"rs5m": "rs5m:", "arrow": "git10m:", "arrow-early": "git10m:"}
    return f"{presets.get(form, '')}{work / form}"


def decode_all(images: list[bytes], colours: str) -> np.ndarray:
    """Seconds (wall, processor) an image of the bare decode to 'GRAY' or 'RGB'."""
    start = measure.clocks()
    for data in images:
        simplejpeg.decode_jpeg(data, colours)
    return (measure.clocks() - start) / len(images)


def read_windows(folder: Path, chip: int) -> np.ndarray:
    """Seconds (wall, processor) a cell of reading rasters, cells at the edges included."""
    cells = 0
    start = measure.clocks()
    for path in sorted(folder.glob("*.tif")):
        with rasterio.open(path) as raster:
            for y in range(0, raster.height, chip):
                for x in range(0, raster.width, chip):
                    cells += 1
                    if x + chip <= raster.width and y + chip <= raster.height:
                        raster.read(window=Window(x, y, chip, chip))  # type: ignore[call-arg]
    return (measure.clocks() - start) / cells


def score_pass(corpus: str, out: Path) -> np.ndarray:
    """Seconds (wall, processor) an image of the whole pass."""
    shutil.rmtree(out, ignore_errors=True)
    start = measure.clocks()
    with measure.quiet():
        made = score(ScoreConfig(corpus=corpus, out=out, workers=1))
    return (measure.clocks() - start) / made.summary["n"]


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
            place = path.relative_to(work / form)
            target = more / place.parent / f"{copy:02d}-{place.name}"
            if form == "naip":  # a quarter quad is known by its name
                target = more / f"{copy:02d}" / place
            target.parent.mkdir(parents=True, exist_ok=True)
            os.link(path, target)
    return more


def run(config: ReadersConfig) -> int:
    """Print one line a form."""
    print(measure.machine_line())
    with tempfile.TemporaryDirectory() as temporary:
        work = Path(temporary)
        files = prepare(config, work)
        images = [path.read_bytes() for path in files if path.stem.endswith("-0")]
        mean = sum(map(len, images)) / len(images) / 1e3
        print(f"{len(files):,} JPEGs of {mean:.1f} kB on average; one process, page cache warm")
        print(f"{'form':12} {'pass img/s':>11} {'decode img/s':>13} {'ratio':>6} {'CPU':>5}"
              f" {'RGB':>5}"
              + f" {'peak MiB':>9} {config.times:>4}x shards" * (config.times > 0))  # fmt: skip
        for form in config.forms:
            if form != "naip" or (work / form).is_dir():
                print(line(form, images, config, work), flush=True)
    return 0


def line(form: str, images: list[bytes], config: ReadersConfig, work: Path) -> str:
    """One form's line."""

    def decode(colours: str) -> np.ndarray:
        if form == "naip":
            return read_windows(work / form, config.size)
        return decode_all(images, colours)

    corpus, out = spec(work, form, config.size), work / "scores"
    score_pass(corpus, out)  # imports, page cache
    passes, decodes, colour = [], [], []
    for _ in range(config.repeats):
        before = decode("GRAY")
        passes.append(score_pass(corpus, out))
        decodes.append((before + decode("GRAY")) / 2)
        colour.append(decode("RGB"))
    grey, rgb = (np.median(np.array(d) / np.array(passes), axis=0) for d in (decodes, colour))
    speeds = [1 / np.median([t[0] for t in times]) for times in (passes, decodes)]
    text = f"{form:12} {speeds[0]:11,.0f} {speeds[1]:13,.0f}"
    text += f" {grey[0]:6.2f} {grey[1]:5.2f} {rgb[0]:5.2f}"
    if config.times:
        multiply(work, form, config.times)
        one, many = peak(corpus, out), peak(spec(work / "more", form, config.size), out)
        shutil.rmtree(work / "more" / form)
        text += f" {one:9,.0f} {many:11,.0f}"
    return text


main = command("benchmarks.readers", ReadersConfig, run, __doc__ or "")

if __name__ == "__main__":
    execute(main)
