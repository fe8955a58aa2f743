"""Entropy: known values, an independent check, and what it does not see."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis.extra.numpy import array_shapes, arrays
from PIL import Image

from prune.stage1.entropy import (
    MEASURES,
    denoised_entropy,
    gradient_entropy,
    grey_entropy,
    shannon,
)
from world.paint.tiles import render

IMAGES = arrays(np.uint8, array_shapes(min_dims=2, max_dims=2, max_side=40))
RAMP = np.tile(np.arange(256, dtype=np.uint8), (64, 1))


@pytest.mark.parametrize("level", [0, 1, 128, 255])
def test_constant_is_zero(level):
    image = np.full((31, 17), level, dtype=np.uint8)
    assert grey_entropy(image) == 0.0 and math.copysign(1, grey_entropy(image)) == 1
    assert gradient_entropy(image) == denoised_entropy(image) == 0.0


def test_known_values():
    assert grey_entropy(RAMP) == 8.0
    assert grey_entropy(np.array([[0, 255]], dtype=np.uint8)) == 1.0
    assert grey_entropy(np.array([[7, 7, 7, 9]], dtype=np.uint8)) == pytest.approx(
        2 - 0.75 * math.log2(3), abs=1e-12
    )
    assert grey_entropy(np.array([[3]], dtype=np.uint8)) == 0.0


@given(IMAGES)
def test_agrees_with_the_definition(image):
    total, levels = image.size, image.ravel().tolist()
    shares = [levels.count(level) / total for level in set(levels)]
    expected = -math.fsum(p * math.log2(p) for p in shares)
    assert grey_entropy(image) == pytest.approx(expected, abs=2e-12)
    assert shannon(np.bincount(image.ravel(), minlength=256)) == pytest.approx(expected, abs=2e-12)


@given(IMAGES)
def test_bounds_and_symmetries(image):
    entropy = grey_entropy(image)
    assert 0.0 <= entropy <= min(8.0, math.log2(image.size) + 1e-12)
    assert grey_entropy(255 - image) == entropy  # exactly: ties must tie
    assert grey_entropy(image[::-1, ::-1]) == grey_entropy(image.T) == entropy
    assert 0.0 <= gradient_entropy(image) <= 8.0
    assert 0.0 <= denoised_entropy(image) <= 8.0


def test_noise_is_not_recognised_and_only_gradients_see_through_a_ramp():
    rng = np.random.default_rng(0)
    noise = np.clip(rng.normal(128, 40, (256, 256)), 0, 255).round().astype(np.uint8)
    sand = np.clip(rng.normal(128, 4, (256, 256)), 0, 255).round().astype(np.uint8)
    assert grey_entropy(noise) == pytest.approx(7.36, abs=0.05)
    assert grey_entropy(sand) == pytest.approx(4.05, abs=0.05)
    assert gradient_entropy(noise) > 6.5
    assert gradient_entropy(RAMP) == 0.0


def planted_noise(deviation, rng, count, size):
    """Dull tiles, flat or a smooth slope, with white noise of so many grey levels."""
    down, across = np.mgrid[:size, :size] / size
    for _ in range(count):
        slope = rng.uniform(-25, 25, 2)
        plain = rng.uniform(60, 190) + slope[0] * down + slope[1] * across
        noisy = plain + rng.normal(0, deviation, (size, size))
        yield np.clip(np.rint(noisy), 0, 255).astype(np.uint8)


def dropped(measure, tiles, noisy):
    """Shares of the noisy and of the other tiles that are not among the highest 85 %."""
    values = np.array([MEASURES[measure](tile) for tile in [*tiles, *noisy]])
    out = np.zeros(len(values), bool)
    out[np.argsort(values, kind="stable")[: round(0.15 * len(values))]] = True
    return out[len(tiles) :].mean(), out[: len(tiles)].mean()


def noise_is_found(tiles, least):
    rng = np.random.default_rng(0)
    count = round(0.15 / 0.85 * len(tiles))  # 15 % of the pool
    for deviation in (10, 20, 40):
        noisy = list(planted_noise(deviation, rng, count, tiles[0].shape[0]))
        found, lost = dropped("denoised", tiles, noisy)
        assert found >= least and lost <= 1 - least, (deviation, found, lost)
        assert deviation < 20 or dropped("gradient", tiles, noisy)[0] <= 0.1, deviation
        assert deviation < 40 or dropped("grey", tiles, noisy)[0] <= 0.1, deviation


def test_denoised_finds_planted_noise_among_rendered_tiles():
    scenes = ("suburb", "forest", "city", "industry")
    tiles = [render(scenes[i % 4], 0, i, 96).rgb for i in range(68)]
    noise_is_found([(tile @ [0.299, 0.587, 0.114]).astype(np.uint8) for tile in tiles], 0.95)


def test_denoised_finds_planted_noise_among_real_tiles(shared_data):
    paths = sorted((shared_data / "corpus" / "aid").rglob("*.jpg"))[::16]
    tiles = [np.asarray(Image.open(path).convert("L")) for path in paths]
    tiles = [tile for tile in tiles if tile.std() > 20]  # textured
    assert len(tiles) > 150
    noise_is_found(tiles, 0.98)


def test_denoised_by_hand():
    image = np.zeros((8, 8), np.uint8)
    image[:, 4:] = 80
    assert denoised_entropy(image) == 0.0  # one difference is one bin
    steps = np.repeat(np.repeat(np.array([[0, 90, 90], [0, 90, 90], [0, 90, 90]]), 4, 0), 4, 1)
    steps = steps.astype(np.uint8)  # dx 90, 0, 90, 0; a vertical edge does not look like noise
    assert denoised_entropy(steps) == 1.0
    rng = np.random.default_rng(0)
    noise = np.clip(rng.normal(128, 20, (256, 256)), 0, 255).round().astype(np.uint8)
    assert denoised_entropy(noise) < 1.0 < 5.0 < gradient_entropy(noise)
    assert denoised_entropy(RAMP) < 0.1
    assert denoised_entropy(np.zeros((7, 99), np.uint8)) == 0.0


def test_gradient_by_hand():
    image = np.array([[0, 0, 0], [0, 200, 200]], dtype=np.uint8)
    # (dx, dy): (0, 0) and (0, 200): two magnitudes, half a share each
    assert gradient_entropy(image) == 1.0
    corners = np.array([[255, 0], [0, 0]], dtype=np.uint8)  # the largest magnitude there is
    assert gradient_entropy(corners) == 0.0
    assert gradient_entropy(np.zeros((1, 9), dtype=np.uint8)) == 0.0


@pytest.mark.parametrize("measure", MEASURES.values())
@pytest.mark.parametrize("image", [
    np.zeros((0, 4), np.uint8), np.zeros((4, 4, 3), np.uint8), np.zeros((4, 4), np.float32),
])  # fmt: skip
def test_refuses_what_is_no_grey_image(measure, image):
    with pytest.raises(ValueError, match="expected uint8"):
        measure(image)
    with pytest.raises(ValueError, match="empty histogram"):
        shannon(np.zeros(256, dtype=np.int64))
