"""Stage I's score of JPEG tiles, against the bare decode and the plain way of doing it.

    python benchmarks/entropy.py                       # tiles of the miniature world
    python benchmarks/entropy.py --images FOLDER       # JPEGs of your own

`pass` is what prune.score does in one process, from open files to columns: list, read, digest,
decode to grey, entropy, row (its batches, without the start of the command and without Parquet).
`decode` is simplejpeg to grey from memory, nothing else. `plain` is Pillow's convert("L") and
scikit-image's shannon_entropy of each file. Paired: decode before and after each pass, medians.
Two processes are compared with one over the whole command, on as many images as make it long.

The tiles are of the size that Git-10M's have on average, 37 kB: the more bytes an image has, the
more of the time is its decode, and the nearer the pass comes to it.
"""

from __future__ import annotations

import shutil
import sys
import tempfile
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))

import simplejpeg

from benchmarks import measure
from core.command import command, execute
from core.settings import AtLeast1, settings
from data.corpus.specs import open_corpus
from prune.score import ScoreConfig
from prune.score import run as score
from prune.stage1.score import score_shards


@settings
class EntropyConfig:
    """What to measure."""

    images: Path | None = None
    """Folder of JPEG files; without it 500 tiles of the miniature world are made."""
    size: AtLeast1 = 256
    """Side of the miniature world's tiles (pixels)."""
    files: AtLeast1 = 2000
    """Files in the folder that is scored (the images again and again)."""
    long: AtLeast1 = 20
    """Times as many for the comparison of two processes with one."""
    repeats: AtLeast1 = 7
    """Passes; the median ratio counts."""


def prepare(config: EntropyConfig, folder: Path, count: int) -> list[bytes]:
    """Write `count` files; returns their contents."""
    folder.mkdir()
    if config.images is None:
        images = [measure.encoded(tile) for tile in measure.tiles(500, config.size)]
    else:
        found = measure.jpeg_files(config.images, config.files)
        images = [path.read_bytes() for path in found]
    chosen = [images[i % len(images)] for i in range(count)]
    for i, data in enumerate(chosen):
        (folder / f"{i:06d}.jpg").write_bytes(data)
    return chosen


def decode_all(images: list[bytes]) -> np.ndarray:
    """Seconds (wall, processor) of the bare decode."""
    start = measure.clocks()
    for data in images:
        simplejpeg.decode_jpeg(data, "GRAY")
    return measure.clocks() - start


def score_all(folder: Path) -> np.ndarray:
    """Seconds (wall, processor) of Stage I's pass in this process."""
    config = ScoreConfig(corpus=str(folder), out=folder, workers=1)
    start = measure.clocks()
    corpus = open_corpus(folder)
    for _ in score_shards(corpus, corpus.shards(), config):
        pass
    return measure.clocks() - start


def plain_all(folder: Path) -> np.ndarray:
    """Seconds (wall, processor) of Pillow and scikit-image."""
    from PIL import Image
    from skimage.measure import shannon_entropy

    start = measure.clocks()
    for path in sorted(folder.iterdir()):
        with Image.open(path) as image:
            shannon_entropy(np.asarray(image.convert("L")))
    return measure.clocks() - start


def score_command(folder: Path, out: Path, workers: int) -> np.ndarray:
    """Seconds (wall, processor) of prune.score."""
    shutil.rmtree(out, ignore_errors=True)
    start = measure.clocks()
    with measure.quiet():
        score(ScoreConfig(corpus=str(folder), out=out, workers=workers))
    return measure.clocks() - start


def run(config: EntropyConfig) -> int:
    """Print the ratios."""
    with tempfile.TemporaryDirectory() as temporary:
        work = Path(temporary)
        images = prepare(config, work / "tiles", config.files)
        print(measure.machine_line())
        print(f"{len(images):,} JPEGs, {sum(map(len, images)) / len(images) / 1e3:.1f} kB each")
        score_all(work / "tiles")  # imports, page cache
        passes, decodes = [], []
        for _ in range(config.repeats):
            before = decode_all(images)
            passes.append(score_all(work / "tiles"))
            decodes.append((before + decode_all(images)) / 2)
        ratio = np.median(np.array(decodes) / np.array(passes), axis=0)
        mine = np.median(passes, axis=0) / len(images) * 1e6
        bare = np.median(decodes, axis=0) / len(images) * 1e6
        print(f"pass    {mine[0]:7.0f} us an image (CPU {mine[1]:.0f})")
        print(f"decode  {bare[0]:7.0f} us an image (CPU {bare[1]:.0f}); "
              f"decode / pass {ratio[0]:.2f} (CPU {ratio[1]:.2f})")  # fmt: skip
        try:
            plain = plain_all(work / "tiles") / len(images) * 1e6
        except ImportError:
            print("scikit-image is not installed")
        else:
            print(f"plain   {plain[0]:7.0f} us an image (CPU {plain[1]:.0f}); "
                  f"plain / pass {plain[0] / mine[0]:.1f} (CPU {plain[1] / mine[1]:.1f})")
        del images
        prepare(config, work / "long", config.files * config.long)
        ratios = []
        for _ in range(3):
            one = score_command(work / "long", work / "scores", 1)
            with measure.Peak() as peak:
                two = score_command(work / "long", work / "scores", 2)
            ratios.append(one / two)
        print(f"{config.files * config.long:,} images: one process / two processes "
              f"{np.median(ratios, axis=0)[0]:.2f}, peak memory of two "
              f"{peak.above:,.0f} MiB above the start")  # fmt: skip
    return 0


main = command("benchmarks.entropy", EntropyConfig, run, __doc__ or "")

if __name__ == "__main__":
    execute(main)
