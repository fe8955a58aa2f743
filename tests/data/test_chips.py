"""The bytes that a chip travels as: exact, strict, and never anything but a chip or a Reject."""

from __future__ import annotations

import contextlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data.images.chips import chip_size, decode_chip, encode_chip
from data.images.decode import Reject, bands, decode, decode_rgbn, sniff
from tests.data.pictures import encode, scene
from tests.data.rasters import pixels


@given(st.integers(1, 9), st.integers(1, 9), st.sampled_from([1, 3, 4]), st.integers(0, 99))
def test_there_and_back(height, width, depth, seed):
    chip = pixels(height, width, depth, seed=seed)
    data = encode_chip(chip)
    np.testing.assert_array_equal(decode_chip(data), chip)
    assert chip_size(data) == (width, height) and sniff(data) == "PAM" and bands(data) == depth
    assert data == encode_chip(np.asfortranarray(chip))  # the same pixels, the same digest


def test_only_one_three_or_four_bands_of_bytes_are_a_chip():
    for wrong in (pixels(bands=2), pixels().astype(np.uint16), pixels()[..., 0]):
        with pytest.raises(ValueError, match="expected uint8 H x W x 1, 3 or 4"):
            encode_chip(wrong)
    with pytest.raises(Reject, match="no near infrared"):
        decode_rgbn(encode(scene(), "PNG"))


@pytest.mark.parametrize(("old", "new", "reason"), [
    (b"DEPTH 4", b"DEPTH 3", "bands"), (b"RGB_NIR", b"RGB_ALPHA", "bands"),
    (b"MAXVAL 255", b"MAXVAL 65535", "16-bit"), (b"MAXVAL 255", b"MAXVAL 1", "unsupported"),
    (b"WIDTH 70", b"WIDTH 71", "corrupt"), (b"WIDTH 70", b"WIDTH 0", "corrupt"),
    (b"HEIGHT 40\n", b"", "corrupt"), (b"WIDTH 70", b"WIDTH 99999999", "too-large"),
])  # fmt: skip
def test_other_headers_are_rejected(old, new, reason):
    data = encode_chip(pixels(40, 70))
    assert old in data
    for read in (decode_rgbn, lambda d: decode(d, grey=True), lambda d: decode(d, grey=False)):
        with pytest.raises(Reject) as caught:
            read(data.replace(old, new, 1))
        # no width at all: of a decoder that asks for a smallest side, too small
        assert caught.value.reason == reason or b"WIDTH 0" in new


def test_cut_anywhere_it_is_rejected():
    data = encode_chip(pixels(6, 5))
    for cut in range(len(data)):
        with pytest.raises(Reject):
            decode(data[:cut], grey=True)
    with pytest.raises(Reject):
        decode(data + b"\0", grey=True)


@settings(max_examples=60)
@given(st.data())
def test_damaged_bytes_decode_or_are_rejected(draw):
    data = bytearray(encode_chip(pixels(6, 5)))
    for _ in range(draw.draw(st.integers(1, 5))):
        data[draw.draw(st.integers(0, 70))] = draw.draw(st.integers(0, 255))
    with contextlib.suppress(Reject):
        assert decode(bytes(data), grey=False)[0].ndim == 3


def test_limits_hold_for_chips():
    with pytest.raises(Reject, match="too-small"):
        decode(encode_chip(pixels(20, 9)), grey=True, min_side=10)
    with pytest.raises(Reject, match="too-large"):
        decode(encode_chip(pixels(20, 9)), grey=True, max_pixels=179)
