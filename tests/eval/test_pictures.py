"""The pictures of an experiment: what they show, and that they show the images scored."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from core.errors import UserError
from core.stage import sha256_file
from data.formats.index import write_index
from data.formats.scores import SCORES
from data.formats.tables import write_part
from eval.pictures import main
from eval.records.curves import save_figure
from eval.report.pictures import CONDITIONS
from tests.eval.plans import PlanMaker
from tests.vouch import vouch

KEYS = [f"{n:02}.png" for n in range(24)]
CHOSEN = [14, 20, 23]
CELL = "git10m/rsprune-70"
TASKS = ("generation", "sr", "sis", "clustering")


def picture(path: Path, value: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((80, 80, 3), value, np.uint8)).save(path)


def scored(maker: PlanMaker, cell: str, corpus: Path) -> None:
    """A corpus of grey tiles, its scores, and a subset of the upper half of its entropies."""
    for n, key in enumerate(KEYS):
        picture(corpus / key, 10 * n)
    places = {"key": KEYS, "shard": ["files-00000"] * 24, "row": list(range(24))}
    digests = [sha256_file(corpus / key) for key in KEYS]
    entropy = [n / 4 for n in range(24)]
    known = {"digest": digests, "entropy": entropy, "bytes": [1] * 24, "status": ["ok"] * 24}
    rest = {"width": [80] * 24, "height": [80] * 24, "reason": [""] * 24, "detail": [""] * 24}
    write_part(maker.out(cell, "scores"), 0, {**places, **known, **rest}, SCORES)
    vouch(maker.out(cell, "scores"))
    columns = {name: [values[i] for i in CHOSEN] for name, values in places.items()}
    columns |= {"digest": [digests[i] for i in CHOSEN], "entropy": [entropy[i] for i in CHOSEN]}
    columns |= {"cluster": [0] * 3, "similarity": [0.5] * 3, "rank": [0, 1, 2]}
    names = ("method", "params", "inputs", "encoder", "code", "counts")
    rows = pa.table({**columns, "chosen": ["quota"] * 3})
    write_index(maker.out(cell, "subset"), rows, {name: {} for name in names})
    vouch(maker.out(cell, "subset"))


@pytest.fixture
def made(tmp_path: Path) -> PlanMaker:
    """An experiment whose Ours kept the upper half of the entropies and chose a few."""
    maker = PlanMaker(tmp_path, corpora={"git10m": str(tmp_path / "corpus")})
    maker.family(CELL, "rsprune", label="Ours", tasks=TASKS)
    scored(maker, CELL, tmp_path / "corpus")
    maker.write()
    return maker


def draw(maker: PlanMaker) -> Path:
    """Run the command; the folder of the pictures."""
    runs = ["--profile", maker.profile, "--runs", str(maker.runs)]
    assert main([maker.experiment, *runs]) == 0
    return maker.runs / maker.profile / maker.experiment / "pictures"


def test_four_pictures(made: PlanMaker, capsys: pytest.CaptureFixture[str]) -> None:
    out = draw(made)
    for name in ("entropy", "samples", "sr", "sis"):
        with Image.open(out / f"{name}.png") as image:
            assert image.width > 1000 and len(image.convert("RGB").getcolors(1 << 24)) > 10
    draw(made)
    assert "already done" in capsys.readouterr().out


def test_tiles_are_the_images_that_were_scored(made: PlanMaker) -> None:
    picture(Path(made.corpora["git10m"]) / KEYS[20], 0)
    with pytest.raises(UserError, match=r"'20\.png': its bytes .* are not those that were scored"):
        draw(made)


def drawn(maker: PlanMaker, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """The figures, by file name."""
    figures: dict[str, Any] = {}

    def keep(figure: Any, out: Path) -> Path:
        figures[out.name] = figure
        return save_figure(figure, out)

    monkeypatch.setattr("eval.report.pictures.save_figure", keep)
    draw(maker)
    return figures


def rows_of(figure: Any) -> dict[str, set[int]]:
    """Title of each row of tiles -> the grey levels in it, its white gaps left out."""
    axes = [axis for axis in figure.axes if axis.images]
    return {
        axis.get_title(loc="left"): set(np.unique(axis.images[0].get_array()).tolist()) - {255}
        for axis in axes
    }


def test_each_row_shows_what_its_title_says(
    made: PlanMaker, monkeypatch: pytest.MonkeyPatch
) -> None:
    figures = drawn(made, monkeypatch)
    rows = rows_of(figures["entropy.png"])
    assert rows["dropped by Stage I, lowest to highest entropy"] == {10 * n for n in range(12)}
    assert rows["selected by Stage II"] == {140, 200, 230}
    kept = {10 * n for n in range(12, 24)} - {140, 200, 230}
    assert rows["kept by Stage I, not selected"] == kept
    legend = [text.get_text() for text in figures["entropy.png"].axes[0].get_legend().get_texts()]
    assert [line.rpartition("(")[2] for line in legend] == ["12)", "9)", "3)"]
    assert rows_of(figures["samples.png"]) == {
        "generated, trained on the Ours subset": {8 * n for n in range(24)},
        "real images of the Ours subset": {140, 200, 230},
    }
    for task, condition in CONDITIONS.items():
        shown = {condition: {50}, "Ours": {100}, "real image": {200}}
        assert rows_of(figures[f"{task}.png"]) == shown


def test_few_samples_fill_one_row(made: PlanMaker, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = made.out(CELL, "samples")
    manifest = (folder / "manifest.json").read_text()
    for n in range(8, 30):
        manifest = manifest.replace(f'"{n:06}.png"', f'"gone/{n:06}.png"')
        (folder / "gone").mkdir(exist_ok=True)
        (folder / f"{n:06}.png").rename(folder / "gone" / f"{n:06}.png")
    (folder / "manifest.json").write_text(manifest)
    rows = rows_of(drawn(made, monkeypatch)["samples.png"])
    assert {8 * n for n in range(8)} <= set().union(*rows.values())
    assert len(rows) == 2


def test_an_unfinished_experiment_shows_what_there_is(
    made: PlanMaker, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    made.family("git10m/random-70", "random", label="Random", tasks=TASKS,
                stop={"sr-images": "failed"})  # fmt: skip
    made.family("git10m/full", "full", label="Full", tasks=TASKS, stop={"train": "running"})
    scored(made, "git10m/random-70", Path(made.corpora["git10m"]))
    made.write()
    figures = drawn(made, monkeypatch)
    samples = rows_of(figures["samples.png"])
    assert "generated, trained on the Random subset" in samples and len(samples) == 4
    assert list(rows_of(figures["sr.png"])) == [CONDITIONS["sr"], "Ours", "real image"]
    assert list(rows_of(figures["sis.png"])) == [CONDITIONS["sis"], "Ours", "Random", "real image"]
    shutil.rmtree(made.out(CELL, "scores"))
    capsys.readouterr()
    draw(made)
    assert "nothing to be seen yet" in capsys.readouterr().out


def test_each_of_several_corpora_has_its_folder(tmp_path: Path) -> None:
    corpora = {name: str(tmp_path / name) for name in ("git10m", "rs5m")}
    maker = PlanMaker(tmp_path, corpora=corpora)
    for name, place in corpora.items():
        maker.family(f"{name}/rsprune-70", "rsprune", corpus=name, tasks=("clustering",))
        scored(maker, f"{name}/rsprune-70", Path(place))
    maker.write()
    out = draw(maker)
    assert {str(path.relative_to(out)) for path in out.rglob("*.png")} == {
        "git10m/entropy.png", "rs5m/entropy.png",
    }  # fmt: skip
