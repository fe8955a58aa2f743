"""The centre crop: sizes, the parts taken, no aliasing, no colour shift."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from data.images.transforms import center_crop


def noise(height, width, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


@given(st.integers(1, 90), st.integers(1, 90), st.integers(1, 40))
def test_always_the_size_asked_for(height, width, size):
    result = center_crop(noise(height, width), size)
    assert result.shape == (size, size, 3) and result.dtype == np.uint8
    assert result.flags.c_contiguous


@given(st.integers(1, 60), st.integers(1, 60), st.integers(1, 40), st.integers(0, 255))
def test_a_flat_image_stays_flat(height, width, size, level):
    flat = np.full((height, width, 3), level, dtype=np.uint8)
    assert (center_crop(flat, size) == level).all()


def test_right_size_is_untouched_and_longer_side_is_cut_in_the_middle():
    image = noise(64, 64)
    np.testing.assert_array_equal(center_crop(image, 64), image)
    wide = noise(64, 100)
    np.testing.assert_array_equal(center_crop(wide, 64), wide[:, 18:82])
    tall = noise(101, 64)
    np.testing.assert_array_equal(center_crop(tall, 64), tall[18:82])


def test_halving_is_a_mean_of_four():
    image = noise(64, 64)
    blocks = image.reshape(32, 2, 32, 2, 3).mean(axis=(1, 3))
    difference = center_crop(image, 32) - blocks
    assert np.abs(difference).max() <= 1.0  # rounded once across and once down


def test_between_halvings_it_is_bicubic():
    image = noise(96, 48)
    expected = Image.fromarray(image).resize((32, 64), Image.Resampling.BICUBIC)
    np.testing.assert_array_equal(center_crop(image, 32), np.asarray(expected)[16:48])


@pytest.mark.parametrize("image", [
    np.zeros((9, 9), np.uint8), np.zeros((9, 9, 5), np.uint8), np.zeros((9, 9, 3), np.float32),
    np.zeros((0, 9, 3), np.uint8),
])  # fmt: skip
def test_refuses_anything_but_three_or_four_bands(image):
    with pytest.raises(ValueError, match="expected uint8"):
        center_crop(image, 8)


def test_refuses_size_zero():
    with pytest.raises(ValueError, match="at least 1"):
        center_crop(noise(9, 9), 0)


def test_a_fourth_band_is_scaled_like_the_others_and_is_no_alpha():
    rgb, infrared = noise(150, 101), noise(150, 101, seed=1)[..., 0]
    infrared[:50] = 0  # as alpha it would hide what is under it
    four = center_crop(np.dstack([rgb, infrared]), 24)
    np.testing.assert_array_equal(four[..., :3], center_crop(rgb, 24))
    alone = center_crop(np.dstack([infrared] * 3), 24)
    np.testing.assert_array_equal(four[..., 3], alone[..., 0])
