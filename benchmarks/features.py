"""Features of image files (read, decode, resize, network), against the network alone.

    python benchmarks/features.py  # JPEG tiles of the miniature world
    python benchmarks/features.py --images FOLDER  # JPEGs of your own
    python benchmarks/features.py --extractor inception --weights FOLDER

The whole path is eval.judges' own: threads read, decode and resize a batch ahead of the network.
The network alone takes the same images, resized before the clock starts, in the same batches. The
two alternate, part by part, first one and then the other in front, so that what disturbs the
machine disturbs both. The ratio is of wall time, speed of the path over speed of the network;
`CPU` is of processor time. Features must be equal to the last bit.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks import measure
from core.command import command, execute
from core.settings import AtLeast1, settings
from data.images.decode import decode_rgb
from eval.judges.config import ExtractorName
from eval.judges.extractors import load_extractor


@settings
class FeaturesConfig:
    """What to measure."""

    images: Path | None = None
    """Folder of JPEG files; without it tiles of the miniature world are made."""
    limit: AtLeast1 = 5000
    """Images."""
    size: AtLeast1 = 256
    """Side of the miniature world's tiles (pixels)."""
    part: AtLeast1 = 512
    """Images of a part."""
    extractor: ExtractorName = "efficientnet-lite0"
    """As in eval.evaluate."""
    weights: Path | None = None
    """As in eval.evaluate."""
    device: str = "cpu"
    """Where the network runs."""


def run(config: FeaturesConfig) -> None:
    """Print both speeds, and their ratio."""
    extractor = load_extractor(config.extractor, weights=config.weights, device=config.device)
    print(measure.torch_lines(), flush=True)
    with tempfile.TemporaryDirectory() as work:
        if config.images is None:
            for i, tile in enumerate(measure.tiles(min(config.limit, 1000), config.size)):
                (Path(work) / f"{i:05d}.jpg").write_bytes(measure.encoded(tile))
        files = measure.jpeg_files(config.images or Path(work), config.limit)
        files = (files * -(-config.limit // len(files)))[: config.limit]
        path_time, network_time = np.zeros(2), np.zeros(2)

        def read(path: Path) -> np.ndarray:
            return decode_rgb(path.read_bytes(), path.name)

        with measure.quiet():
            extractor(files[:64], decode=read)  # what is loaded and chosen at first use
        for number, start in enumerate(range(0, len(files), config.part)):
            part = files[start : start + config.part]
            prepared = [extractor.prepare(read(path)) for path in part]
            for which in (0, 1) if number % 2 else (1, 0):
                began = measure.clocks()
                if which == 0:
                    with measure.quiet():
                        whole = extractor(part, decode=read)
                    path_time += measure.clocks() - began
                else:
                    size = extractor.batch
                    cuts = [prepared[at : at + size] for at in range(0, len(part), size)]
                    alone = np.concatenate([extractor.finish(cut) for cut in cuts])
                    network_time += measure.clocks() - began
            if not np.array_equal(whole, alone):
                raise AssertionError("the path's features are not the network's")
            wall, cpu = network_time / path_time
            done = start + len(part)
            print(
                f"{config.extractor}, {done} images: path {done / path_time[0]:.1f}/s, network "
                f"{done / network_time[0]:.1f}/s; ratio {wall:.2f}, CPU {cpu:.2f}",
                flush=True,
            )


main = command("benchmarks/features.py", FeaturesConfig, run)

if __name__ == "__main__":
    execute(main)
