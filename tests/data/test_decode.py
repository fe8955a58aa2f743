"""The decoder: what it accepts is whole and exact, and everything else has a named reason."""

from __future__ import annotations

import io
import os
import pickle

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from data.images.decode import REASONS, Reject, decode, decode_grey, decode_rgb
from tests.data.pictures import HEIGHT, WIDTH, bad, encode, good, scene

GOOD, BAD = good(), bad()

# The decoder silences Pillow, but pytest puts its own filters in the place of others.
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")


def reason(data: bytes, name: str = "", **options) -> str:
    with pytest.raises(Reject) as caught:
        decode(data, name, grey=True, **options)
    return caught.value.reason


@pytest.mark.parametrize("name", GOOD)
def test_accepts_and_agrees_with_pillow(name):
    with Image.open(io.BytesIO(GOOD[name])) as image:
        expected_rgb = np.asarray(image.convert("RGBA" if "alpha" in name else "RGB"))[..., :3]
        expected_grey = np.asarray(Image.fromarray(expected_rgb).convert("L"))
    rgb = decode_rgb(GOOD[name], name)
    grey = decode_grey(GOOD[name], name, luma="rgb")
    assert rgb.shape == (HEIGHT, WIDTH, 3) and grey.shape == (HEIGHT, WIDTH)
    assert rgb.dtype == grey.dtype == np.uint8 and rgb.flags.c_contiguous
    np.testing.assert_array_equal(rgb, expected_rgb)
    np.testing.assert_array_equal(grey, expected_grey)


@pytest.mark.parametrize("name", BAD)
def test_rejects_with_its_reason(name):
    expected, data = BAD[name]
    assert reason(data, name, min_side=16) == expected
    with pytest.raises(Reject):
        decode_rgb(data, name, min_side=16)


def test_every_reason_that_bytes_can_have_is_tried():
    assert {expected for expected, _ in BAD.values()} == set(REASONS) - {"unreadable", "alpha-band"}


def test_jpeg_grey_is_the_files_own_luma_plane():
    data = GOOD["colour.jpg"]
    with Image.open(io.BytesIO(data)) as image:
        image.draft("L", None)  # Pillow's way to ask libjpeg for the Y channel
        expected = np.asarray(image.convert("L"))
    np.testing.assert_array_equal(decode_grey(data), expected)


def test_jpeg_cut_anywhere_is_rejected():
    for kind in ("colour.jpg", "progressive.jpeg", "grey.jpg"):
        data = GOOD[kind]
        for length in range(3, len(data)):
            assert reason(data[:length]) == "corrupt", (kind, length)


@pytest.mark.parametrize(
    "name", ["colour.png", "raw.tif", "tiff_lzw.tif", "lossy.webp", "plain.bmp", "colour.jp2"]
)
def test_other_formats_cut_anywhere_are_rejected(name):
    data = GOOD[name]
    for length in range(0, len(data), 7):
        assert reason(data[:length]) in ("corrupt", "not-an-image", "empty", "bands", "unsupported")


def test_misnamed_is_accepted_on_request_and_noted():
    data = GOOD["colour.png"]
    assert reason(data, "a/b.JPG") == "misnamed"
    pixels, note = decode(data, "a/b.JPG", grey=False, accept_misnamed=True)
    np.testing.assert_array_equal(pixels, decode_rgb(data))
    assert note == "PNG content under a .JPG name"
    assert decode(data, "a/b.img_content", grey=True)[1] == ""  # no image's extension at all


@pytest.mark.parametrize(
    "name", ["grey-alpha.png", "colour-alpha.png", "palette-clear.png", "four.tif"]
)
def test_dropped_alpha_is_noted(name):
    assert decode(GOOD[name], name, grey=True)[1] == "alpha dropped"


def test_alpha_is_dropped_not_blended():
    picture = scene().convert("RGBA")
    picture.putalpha(0)
    np.testing.assert_array_equal(decode_rgb(encode(picture, "PNG")), np.asarray(scene()))


def test_orientation_tag_is_ignored():
    exif = Image.Exif()
    exif[274] = 6  # rotated by a quarter
    rotated = encode(scene(), "JPEG", exif=exif)
    np.testing.assert_array_equal(decode_grey(rotated), decode_grey(GOOD["colour.jpg"]))


def test_limits_are_inclusive_and_carry_the_size():
    data = GOOD["colour.jpg"]
    decode_grey(data, min_side=HEIGHT, max_pixels=WIDTH * HEIGHT)
    with pytest.raises(Reject) as caught:
        decode_grey(data, min_side=HEIGHT + 1)
    assert caught.value.reason == "too-small" and caught.value.size == (WIDTH, HEIGHT)
    with pytest.raises(Reject, match="too-large"):
        decode_grey(data, max_pixels=WIDTH * HEIGHT - 1)


def test_reject_travels_between_processes():
    twin = pickle.loads(pickle.dumps(Reject("too-small", "3 x 4 pixels", (3, 4))))
    assert (twin.reason, twin.detail, twin.size) == ("too-small", "3 x 4 pixels", (3, 4))


def test_damaged_files_do_not_write_to_standard_error(capfd):
    for name in ("tiff_lzw.tif", "tiff_deflate.tif", "jpeg.tif", "colour.jp2"):
        whole = GOOD[name]
        middle = len(whole) // 2
        damaged = whole[:20] + os.urandom(60) + whole[80:middle] + bytes(9) + whole[middle + 9 :]
        try:
            decode(damaged, grey=True)
        except Reject as reject:
            assert reject.reason == "corrupt"
    for name, (expected, data) in BAD.items():
        assert reason(data, name, min_side=16) == expected
    captured = capfd.readouterr()
    assert captured.err == "" and captured.out == ""


SEEDS = sorted(set(GOOD.values()) | {data for _, data in BAD.values() if len(data) < 20000})


@settings(max_examples=400, deadline=None)
@given(st.data())
def test_damaged_bytes_decode_or_are_rejected_and_nothing_else(draw):
    data = bytearray(draw.draw(st.sampled_from(SEEDS)))
    for _ in range(draw.draw(st.integers(0, 5)) if data else 0):
        # Headers are where a decoder's surprises live.
        at = draw.draw(st.integers(0, min(len(data), 200) - 1) | st.integers(0, len(data) - 1))
        data[at] = draw.draw(st.integers(0, 255))
    if draw.draw(st.booleans()):
        data = data[: draw.draw(st.integers(0, len(data)))]
    try:
        pixels = decode_grey(bytes(data), max_pixels=1_000_000)
    except Reject as reject:
        assert reject.reason in REASONS and "\n" not in reject.detail
    else:
        assert pixels.dtype == np.uint8 and pixels.ndim == 2 and pixels.size


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=300))
def test_arbitrary_bytes_are_rejected_or_decoded(data):
    try:
        decode_rgb(data, "x.png")
    except Reject as reject:
        assert reject.reason in REASONS


def test_real_images_decode_like_pillow(shared_data):
    files = sorted((shared_data / "corpus" / "aid").glob("*/*.jpg"))[::200]
    assert files
    for path in files:
        data = path.read_bytes()
        with Image.open(path) as image:
            np.testing.assert_array_equal(decode_rgb(data, path.name), np.asarray(image))
            luma = np.asarray(image.convert("L"))
        np.testing.assert_array_equal(decode_grey(data, path.name, luma="rgb"), luma)


def test_real_traps_are_refused(shared_data):
    expected = {"float64_bgrn.tif": "not-8-bit", "landsat_not_rgbn.tif": "band-order"}
    for name, why in expected.items():
        assert reason((shared_data / "traps" / name).read_bytes(), name) == why
