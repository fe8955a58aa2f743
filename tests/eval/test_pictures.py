"""The pictures of a run: what they show, and that they show the images that were scored."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from core.errors import UserError
from core.stage import Stage, sha256_file
from data.formats.index import write_index
from data.formats.scores import SCORES
from data.formats.tables import write_part
from eval.pictures import PicturesConfig, run

KEYS = [f"{n:02}.png" for n in range(24)]


def picture(path: Path, value: int, side: int = 16) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((side, side, 3), value, np.uint8)).save(path)


def finished(folder: Path, names: list[str]) -> None:
    stage = Stage(folder, "test", {}, {})
    stage.open()
    stage.finish({}, names, "made")


@pytest.fixture
def made(tmp_path: Path) -> Path:
    """A run whose method 'rsprune' kept the upper half of the entropies and chose a few."""
    corpus, out = tmp_path / "corpus", tmp_path / "run"
    for n, key in enumerate(KEYS):
        picture(corpus / key, 10 * n, side=80)
    places = {"key": KEYS, "shard": ["files-00000"] * 24, "row": list(range(24))}
    digests = [sha256_file(corpus / key) for key in KEYS]
    entropy = [n / 4 for n in range(24)]
    (out / "scores").mkdir(parents=True)
    known = {"digest": digests, "entropy": entropy, "bytes": [1] * 24, "status": ["ok"] * 24}
    rest = {"width": [80] * 24, "height": [80] * 24, "reason": [""] * 24, "detail": [""] * 24}
    write_part(out / "scores", 0, {**places, **known, **rest}, SCORES)
    finished(out / "scores", ["part-00000.parquet"])
    write_part(out / "assignments", 0, pa.table({"key": KEYS[12:]}))
    chosen = [14, 20, 23]
    columns = {name: [values[i] for i in chosen] for name, values in places.items()}
    columns |= {"digest": [digests[i] for i in chosen], "entropy": [entropy[i] for i in chosen]}
    columns |= {"cluster": [0] * 3, "similarity": [0.5] * 3, "rank": [0, 1, 2]}
    names = ("method", "params", "inputs", "encoder", "code", "counts")
    metadata = {name: {} for name in names}
    rows = pa.table({**columns, "chosen": ["quota"] * 3})
    write_index(out / "subsets" / "rsprune.parquet", rows, metadata)
    samples = [f"{n:06}.png" for n in range(30)]
    for n, name in enumerate(samples):
        picture(out / "samples" / "rsprune" / name, n)
    finished(out / "samples" / "rsprune", samples)
    for task, target in (("sr", "target"), ("sis", "reference")):  # as version 0.1 called it
        pairs = [f"{part}/{n}.png" for part in ("condition", "generated", target) for n in range(9)]
        for name in pairs:
            picture(out / f"{task}-eval" / "rsprune" / name, 99)
        finished(out / f"{task}-eval" / "rsprune", pairs)
    return tmp_path


def config(made: Path) -> PicturesConfig:
    places = {"run": made / "run", "corpus": made / "corpus", "out": made / "pictures"}
    return PicturesConfig(**places, methods=("rsprune",))


def test_four_pictures(made: Path) -> None:
    assert not run(config(made)).reused
    for name in ("entropy", "samples", "sr", "sis"):
        with Image.open(made / "pictures" / f"{name}.png") as image:
            assert image.width > 1000 and len(image.convert("RGB").getcolors(1 << 24)) > 10
    assert run(config(made)).reused


def test_tiles_are_the_images_that_were_scored(made: Path) -> None:
    picture(made / "corpus" / KEYS[20], 0, side=80)
    with pytest.raises(UserError, match=r"'20\.png': its bytes .* are not those that were scored"):
        run(config(made))
