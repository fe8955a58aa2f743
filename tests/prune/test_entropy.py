"""Entropy: known values, an independent check, and what it does not see."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis.extra.numpy import array_shapes, arrays

from prune.stage1.entropy import gradient_entropy, grey_entropy, shannon

IMAGES = arrays(np.uint8, array_shapes(min_dims=2, max_dims=2, max_side=40))
RAMP = np.tile(np.arange(256, dtype=np.uint8), (64, 1))


@pytest.mark.parametrize("level", [0, 1, 128, 255])
def test_constant_is_zero(level):
    image = np.full((31, 17), level, dtype=np.uint8)
    assert grey_entropy(image) == 0.0 and math.copysign(1, grey_entropy(image)) == 1
    assert gradient_entropy(image) == 0.0


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


def test_noise_is_not_recognised_and_only_gradients_see_through_a_ramp():
    rng = np.random.default_rng(0)
    noise = np.clip(rng.normal(128, 40, (256, 256)), 0, 255).round().astype(np.uint8)
    sand = np.clip(rng.normal(128, 4, (256, 256)), 0, 255).round().astype(np.uint8)
    assert grey_entropy(noise) == pytest.approx(7.36, abs=0.05)
    assert grey_entropy(sand) == pytest.approx(4.05, abs=0.05)
    assert gradient_entropy(noise) > 6.5
    assert gradient_entropy(RAMP) == 0.0


def test_gradient_by_hand():
    image = np.array([[0, 0, 0], [0, 200, 200]], dtype=np.uint8)
    # (dx, dy): (0, 0) and (0, 200): two magnitudes, half a share each
    assert gradient_entropy(image) == 1.0
    corners = np.array([[255, 0], [0, 0]], dtype=np.uint8)  # the largest magnitude there is
    assert gradient_entropy(corners) == 0.0
    assert gradient_entropy(np.zeros((1, 9), dtype=np.uint8)) == 0.0


@pytest.mark.parametrize("measure", [grey_entropy, gradient_entropy])
@pytest.mark.parametrize("image", [
    np.zeros((0, 4), np.uint8), np.zeros((4, 4, 3), np.uint8), np.zeros((4, 4), np.float32),
])  # fmt: skip
def test_refuses_what_is_no_grey_image(measure, image):
    with pytest.raises(ValueError, match="expected uint8"):
        measure(image)
    with pytest.raises(ValueError, match="empty histogram"):
        shannon(np.zeros(256, dtype=np.int64))
