"""The segmenter, and adherence to a mask: its formulas, and a model that ignores its mask."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from core.errors import UserError
from core.stage import read_manifest
from data.images.pretrained import find_lite0, load_lite0
from downstream import evaluate, train_segmenter
from downstream.tasks.adherence import Confusion, confusions
from downstream.tasks.judge import measure_adherence
from downstream.tasks.pictures import load_png, save_png
from downstream.tasks.segmenter import _build, _start_pretrained, load_segmenter
from tests.downstream.conftest import DUBAI, evaluate_arguments
from tests.wandb_files import read_runs


def random_ids(count: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 4, (count, 6, 7), dtype=np.uint8)


class TestFormulas:
    def test_confusions_count_pixels(self) -> None:
        found, masks = random_ids(5, 0), random_ids(5, 1)
        counts = confusions(found, masks, 4)
        for n in range(5):
            for a in range(4):
                for b in range(4):
                    assert counts[n, a, b] == ((masks[n] == a) & (found[n] == b)).sum()

    def test_iou_and_accuracy_are_those_of_the_sets(self) -> None:
        """By sets of pixels; class 0 is unknown: its pixels count nowhere."""
        found, masks = random_ids(8, 2) % 3 + 1, random_ids(8, 3)
        result = Confusion(confusions(found, masks, 4), list("uabc"), [0]).summary()
        known = masks > 0
        by_class = {}
        for index, name in enumerate("abc", start=1):
            asked, there = (masks == index) & known, (found == index) & known
            by_class[name] = (asked & there).sum() / (asked | there).sum()
        assert result["per_class"] == pytest.approx(by_class)
        assert result["miou"]["value"] == pytest.approx(np.mean(list(by_class.values())))
        assert result["accuracy"]["value"] == pytest.approx((found == masks)[known].mean())
        for name in ("miou", "accuracy"):
            low, high = result[name]["interval_95"]
            assert low < result[name]["value"] < high and result[name]["images"] == 8

    def test_a_class_in_no_mask_has_no_iou(self) -> None:
        masks = np.ones((3, 2, 2), np.uint8)
        result = Confusion(confusions(masks, masks, 3), list("uab"), [0]).summary()
        assert result["per_class"] == {"a": 1.0, "b": None} and result["miou"]["value"] == 1.0

    def test_masks_of_unknown_alone_have_no_values(self) -> None:
        masks = np.zeros((3, 2, 2), np.uint8)
        result = Confusion(confusions(masks + np.uint8(1), masks, 3), list("uab"), [0]).summary()
        assert result["miou"]["value"] is None and result["accuracy"]["interval_95"] is None


def settings_of(world: Path, out: Path, *more: str) -> list[str]:
    sizes = "--image-size 16 --tile-size 24 --steps 50 --batch 4 --learning-rate 5e-3 --device cpu"
    light = "--encoder tu-mobilenetv3_small_050 --log-every 25"
    return [*f"--data {world}/sis --out {out} {sizes} {light}".split(), *more]


@pytest.fixture(scope="module")
def segmenter(world: Path) -> Path:
    """Images of this world are painted in their masks' colours, which it learns at once."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("WANDB_MODE", "offline")
        assert train_segmenter.main(settings_of(world, world / "segmenter")) == 0
    return world / "segmenter"


def test_it_learns_and_says_how_well(world: Path, segmenter: Path, capsys) -> None:
    manifest = read_manifest(segmenter)
    val = manifest["summary"]["val"]
    assert val["miou"]["value"] > 0.55 and val["accuracy"]["value"] > 0.65
    assert "unlabelled" not in val["per_class"] and len(val["per_class"]) == 5
    assert manifest["summary"]["started_from"] == "random" and val["images"] == 4
    lines = [json.loads(line) for line in (segmenter / "stats.jsonl").read_text().splitlines()]
    assert lines[-1]["step"] == 50 and lines[-1]["loss"] < 0.7 * lines[0]["loss"]
    (told,) = read_runs(segmenter)
    assert told.run.job_type == "downstream.train_segmenter"
    assert [(row["samples_seen"], row["segmenter/loss"]) for row in told.history] == [
        (4 * line["step"], line["loss"]) for line in lines
    ]
    assert train_segmenter.main(settings_of(world, segmenter)) == 0
    assert "already done" in capsys.readouterr().out


def test_it_takes_any_size_and_finds_no_unknown_class(world: Path, segmenter: Path) -> None:
    network = load_segmenter(segmenter, "cpu")
    images = np.random.default_rng(0).integers(0, 256, (2, 21, 40, 3), np.uint8)
    found = network(images)
    assert found.shape == (2, 21, 40) and found.min() >= 1
    assert (network(images) == found).all()


def test_a_model_that_ignores_its_mask_is_seen(
    world: Path, segmenter: Path, tmp_path: Path
) -> None:
    """Images painted by their own masks reach the ceiling; painted by other masks, the floor."""
    rng = np.random.default_rng(5)
    ids = rng.integers(1, DUBAI.classes, (8, 4, 4), dtype=np.uint8).repeat(4, 1).repeat(4, 2)
    names = [f"image{n}" for n in range(8)]
    settings = {"palette": DUBAI.describe(), "image_size": 16, "tile_size": 24}

    def judged(shown: np.ndarray, out: Path) -> dict:
        for name, mask, drawn in zip(names, ids, shown, strict=True):
            for part, of in (("condition", mask), ("target", mask), ("generated", drawn)):
                (out / part).mkdir(parents=True, exist_ok=True)
                save_png(out / part / f"{name}.png", DUBAI.paint(of))
        return measure_adherence(segmenter, out, names, settings, "cpu")

    good, bad = judged(ids, tmp_path / "good"), judged(np.roll(ids, 3, axis=0), tmp_path / "bad")
    assert good["miou"] == good["real"]["miou"] and good["miou"]["value"] > 0.55
    assert good["shuffled"]["miou"]["value"] < 0.5 * good["miou"]["value"]
    _, high = bad["miou"]["interval_95"]
    assert high < good["miou"]["interval_95"][0]
    assert bad["miou"]["value"] == pytest.approx(good["shuffled"]["miou"]["value"], abs=0.15)
    assert bad["real"] == good["real"]


def test_evaluation_writes_it(
    world: Path, trained: tuple[str, Path], segmenter: Path, tmp_path: Path
) -> None:
    task, run = trained
    out = tmp_path / "out"
    arguments = evaluate_arguments(world, run, task, out, "--segmenter", str(segmenter))
    if task == "sr":
        with pytest.raises(UserError, match="was trained for sr, which has no masks"):
            evaluate.main(arguments)
        return
    assert evaluate.main([*arguments, "--crops", "grid"]) == 0
    found = json.loads((out / "adherence.json").read_text())
    assert "adherence.json" in read_manifest(out)["files"]
    assert found["miou"]["images"] == found["shuffled"]["miou"]["images"] == 16
    assert found["real"]["miou"]["value"] > 0.55 > found["shuffled"]["miou"]["value"]
    other = tmp_path / "other"
    changes = ("--tile-size", "20", "--steps", "1")
    assert train_segmenter.main(settings_of(world, other, *changes)) == 0
    more = [*evaluate_arguments(world, run, task, tmp_path / "new"), "--segmenter", str(other)]
    with pytest.raises(UserError, match="--tile-size 20, the run with 24"):
        evaluate.main(more)


def test_refusals(world: Path, tmp_path: Path, trained: tuple[str, Path]) -> None:
    given = settings_of(world, tmp_path / "out")
    with pytest.raises(UserError, match="weights are at hand for"):
        train_segmenter.main([*given, "--start", "pretrained", "--encoder", "resnet18"])
    with pytest.raises(UserError, match="does not build it"):
        train_segmenter.main([*given, "--encoder", "tu-no_such_model"])
    with pytest.raises(UserError, match="not made by downstream"):
        load_segmenter(trained[1], "cpu")


def test_the_encoder_starts_from_the_package() -> None:
    try:
        find_lite0()
    except UserError as error:
        pytest.skip(str(error))
    network = _build("unet", "tu-tf_efficientnet_lite0", 3)
    _start_pretrained(network)
    published = load_lite0().state_dict()
    inner = network.encoder.model.state_dict()
    assert len(inner) > 200 and all((inner[name] == published[name]).all() for name in inner)


def test_a_tile_picture_is_its_mask(tmp_path: Path) -> None:
    """The masks are read back from the pictures that a person sees."""
    ids = random_ids(1, 4)[0]
    save_png(tmp_path / "a.png", DUBAI.paint(ids))
    assert (DUBAI.ids(load_png(tmp_path / "a.png"), "a")[0] == ids).all()
    assert Image.open(tmp_path / "a.png").mode == "RGB"
