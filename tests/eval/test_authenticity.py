"""Planted faults are caught: a memoriser by authenticity, a mode-dropper by recall and coverage."""

from __future__ import annotations

import numpy as np
import pytest

from core.errors import UserError
from data.images.descriptor import describe
from eval.distances.authenticity import authenticity, pixels
from eval.distances.manifold import class_recall
from eval.distances.measure import measure
from world.paint.tiles import render

SCENES = ("sea", "forest", "fields", "suburb", "city")


def tiles(start: int, count: int, scenes: tuple[str, ...] = SCENES) -> tuple[np.ndarray, list[str]]:
    """Tiles of 64 px, uint8 [count, 64, 64, 3], the scene types in turn, and their names."""
    labels = [scenes[i % len(scenes)] for i in range(count)]
    images = [render(name, 0, start + i, 64).rgb for i, name in enumerate(labels)]
    return np.stack(images), labels


@pytest.fixture(scope="module")
def sets() -> dict[str, np.ndarray]:
    return {
        "training": tiles(0, 150)[0],
        "unseen": tiles(1000, 300)[0],
        "honest": tiles(2000, 100)[0],  # as a generator that learnt the distribution
    }


def noisy_copies(images: np.ndarray) -> np.ndarray:
    noise = np.random.default_rng(0).normal(0.0, 3.0, images.shape)
    return np.clip(np.rint(images + noise), 0, 255).astype(np.uint8)


@pytest.mark.parametrize("space", [describe, pixels])
def test_authenticity_catches_a_memoriser(sets, space) -> None:  # type: ignore[no-untyped-def]
    training, unseen = space(sets["training"]), space(sets["unseen"])
    honest = authenticity(space(sets["honest"]), training, unseen)
    copied = authenticity(space(noisy_copies(sets["training"][:100])), training, unseen)
    nearer = copied["nearer_to_training"]
    assert nearer["value"] > 0.95 and nearer["interval_95"][0] > nearer["real"] + 0.2
    assert copied["authentic"]["value"] < 0.1 < copied["authentic"]["real"]
    # Nobody else is accused: as near to the one set as to the other, as real images are.
    for share in (honest["nearer_to_training"], honest["authentic"]):
        assert share["value"] == pytest.approx(share["real"], abs=0.15)
    assert honest["nearer_to_training"]["value"] == pytest.approx(0.5, abs=0.15)
    assert honest["n"] == 150


def test_distances_do_not_catch_a_memoriser(sets) -> None:  # type: ignore[no-untyped-def]
    """Why authenticity is there: by every distance copies are as good as new images."""
    real = describe(sets["unseen"][:100])
    copied = measure("descriptor", describe(noisy_copies(sets["training"][:100])), real)
    honest = measure("descriptor", describe(sets["honest"]), real)
    low, high = honest["kernel_interval_95"]
    assert low <= copied["kernel_value"] <= high


def test_coverage_and_class_recall_catch_a_mode_dropper(sets) -> None:  # type: ignore[no-untyped-def]
    images, labels = tiles(3000, 100)
    real, honest = describe(images), describe(sets["honest"])
    dropped = describe(tiles(4000, 100, tuple(s for s in SCENES if s != "suburb"))[0])
    with_all = measure("descriptor", honest, real)["metrics"]
    without = measure("descriptor", dropped, real)["metrics"]
    assert without["coverage"]["interval_95"][1] < with_all["coverage"]["interval_95"][0]
    assert without["precision"]["value"] > with_all["precision"]["interval_95"][0]  # sees nothing
    classes = class_recall(dropped, real, labels)
    assert min(classes, key=lambda name: classes[name]["generated_share"]) == "suburb"
    assert classes["suburb"]["generated_share"] < 0.05
    assert class_recall(honest, real, labels)["suburb"]["generated_share"] > 0.1


def test_nearest_and_ties_are_counted_as_written() -> None:
    training = np.array([[0.0], [1.0], [10.0]])
    unseen = np.array([[-5.0], [-5.0], [-5.0], [-5.0], [-5.0], [-5.0]])
    found = authenticity(np.array([[0.1], [-2.5], [-4.0], [10.5]]), training, unseen)
    # 0.1 and 10.5 are nearer to training, -2.5 is as near, -4 is nearer to the unseen.
    assert found["nearer_to_training"]["value"] == pytest.approx(2.5 / 4)
    # Nearest training images 0, 0, 0, 10 have their own nearest at 1, 1, 1, 9.
    assert found["authentic"]["value"] == pytest.approx(2 / 4)
    assert found["n"] == 3


def test_pixels_are_area_means() -> None:
    image = np.arange(32 * 32 * 3, dtype=np.int64).reshape(1, 32, 32, 3) % 256
    means = image.reshape(16, 2, 16, 2, 3).mean(axis=(1, 3)) / 255
    assert pixels(image.astype(np.uint8)) == pytest.approx(means.reshape(1, -1), abs=0.51 / 255)
    with pytest.raises(UserError, match="uint8"):
        pixels(image / 255.0)


def test_too_few_unseen_images_are_refused() -> None:
    with pytest.raises(UserError, match=r"unseen features of shape \(3, 2\): need \[n >= 4"):
        authenticity(np.zeros((1, 2)), np.zeros((5, 2)), np.zeros((3, 2)))
