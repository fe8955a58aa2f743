"""The pictures of a run: what they show, and that they show the images that were scored."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

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
from eval.records.curves import save_figure
from eval.report.pictures import CONDITIONS

KEYS = [f"{n:02}.png" for n in range(24)]
GREY = {"condition": 50, "generated": 100}  # of the pairs; the targets are 200


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
        names = {part: [f"{part}/{n}.png" for n in range(9)] for part in (*GREY, target)}
        for part, pairs in names.items():
            for name in pairs:
                picture(out / f"{task}-eval" / "rsprune" / name, GREY.get(part, 200))
        finished(out / f"{task}-eval" / "rsprune", [*itertools.chain(*names.values())])
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


def drawn(made: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """The figures, by file name."""
    figures: dict[str, Any] = {}

    def keep(figure: Any, out: Path) -> Path:
        figures[out.name] = figure
        return save_figure(figure, out)

    monkeypatch.setattr("eval.report.pictures.save_figure", keep)
    run(config(made))
    return figures


def rows_of(figure: Any) -> dict[str, set[int]]:
    """Title of each row of tiles -> the grey levels in it, its white gaps left out."""
    axes = [axis for axis in figure.axes if axis.images]
    return {
        axis.get_title(loc="left"): set(np.unique(axis.images[0].get_array()).tolist()) - {255}
        for axis in axes
    }


def test_each_row_shows_what_its_title_says(made: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    figures = drawn(made, monkeypatch)
    rows = rows_of(figures["entropy.png"])
    assert rows["dropped by Stage I, lowest to highest entropy"] == {10 * n for n in range(12)}
    assert rows["selected by Stage II"] == {140, 200, 230}
    kept = {10 * n for n in range(12, 24)} - {140, 200, 230}
    assert rows["kept by Stage I, not selected"] == kept
    legend = [text.get_text() for text in figures["entropy.png"].axes[0].get_legend().get_texts()]
    assert [line.rpartition("(")[2] for line in legend] == ["12)", "9)", "3)"]
    assert rows_of(figures["samples.png"]) == {
        "generated, trained on the RS-Prune subset": set(range(24)),
        "real images of the RS-Prune subset": {140, 200, 230},
    }
    for task, condition in CONDITIONS.items():
        shown = {condition: {50}, "RS-Prune": {100}, "real image": {200}}
        assert rows_of(figures[f"{task}.png"]) == shown


def test_few_samples_fill_one_row(made: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = made / "run" / "samples" / "rsprune"
    (folder / "manifest.json").unlink()
    finished(folder, [f"{n:06}.png" for n in range(8)])
    assert set(range(8)) in rows_of(drawn(made, monkeypatch)["samples.png"]).values()
