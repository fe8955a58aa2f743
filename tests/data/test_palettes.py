"""Colours to class ids: known palettes, noise, unknown colours, detection."""

from __future__ import annotations

import io
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from core.errors import UserError
from data.images.decode import Reject
from data.pairs.palettes import (
    PALETTES,
    TOLERANCE,
    Palette,
    census,
    decode_mask,
    detect,
    from_dict,
    load_palette,
)

DUBAI = PALETTES["dubai"]


def encoded(image: Image.Image, kind: str = "PNG", **options) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def rgb(*colours: str) -> np.ndarray:
    return np.array([[tuple(bytes.fromhex(colour)) for colour in colours]], np.uint8)


@pytest.mark.parametrize("palette", PALETTES.values(), ids=lambda p: p.name)
def test_paint_and_read_back(palette: Palette) -> None:
    ids = np.arange(palette.classes, dtype=np.uint8)[None]
    back, noisy = palette.ids(palette.paint(ids), "mask.png")
    assert (back == ids).all() and noisy == 0


@pytest.mark.parametrize("palette", PALETTES.values(), ids=lambda p: p.name)
def test_noise_tolerance_cannot_confuse_two_classes(palette: Palette) -> None:
    for (one, a), (two, b) in combinations(palette.entries(), 2):
        if a != b:
            distance = np.linalg.norm(rgb(one).astype(float) - rgb(two).astype(float))
            assert distance > 2 * TOLERANCE, (one, two)


def test_known_colours() -> None:
    colours = rgb("8429F6", "E2A929", "3C1098", "FEDD3A", "6EC1E4", "9B9B9B", "000000")
    ids, _ = DUBAI.ids(colours, "m")
    assert [DUBAI.names[i] for i in ids[0]] == [
        "land", "water", "building", "vegetation", "road", "unlabelled", "unlabelled",
    ]  # fmt: skip
    ids, _ = PALETTES["openearthmap"].ids(rgb("DE1F07", "0045FF"), "m")
    assert ids.tolist() == [[8, 6]]


def test_noisy_colours_are_snapped_and_counted() -> None:
    flat = ["8429F6"] * 30
    ids, noisy = DUBAI.ids(rgb(*flat, "862BF0", "6EC1E4"), "m")
    assert ids.tolist() == [[*[1] * 30, 1, 5]] and noisy == 1


def test_too_many_noisy_colours_are_an_error_that_shows_them() -> None:
    """As a JPEG has them, or another palette of similar colours."""
    with pytest.raises(UserError, match=r"t/m.png: 33% .* not on it: 862BF0 \(1 px\); .*lossless"):
        DUBAI.ids(rgb("8429F6", "862BF0", "6EC1E4"), "t/m.png")


@pytest.mark.parametrize("name", ["openearthmap", "second", "dubai"])
def test_ids_in_three_equal_channels_are_ids(name: str) -> None:
    palette = PALETTES[name]
    ids = np.arange(palette.classes, dtype=np.uint8)[None].repeat(3, 0)
    found, noisy = palette.ids(np.stack([ids] * 3, axis=-1), "m.png")
    assert (found == ids).all() and noisy == 0
    with pytest.raises(UserError, match=r"m.png: class ids beyond palette .*60 \(1 px\)"):
        palette.ids(np.array([[[60, 60, 60], [1, 1, 1]]], np.uint8), "m.png")
    back, _ = palette.ids(palette.paint(ids), "m.png")  # its own greys are colours all the same
    assert (back == ids).all()


def test_dark_greys_of_a_palette_of_ones_own_are_its_colours() -> None:
    palette = from_dict({"name": "grey", "classes": [
        {"name": "a", "colour": "000000"}, {"name": "b", "colour": "010101"},
        {"name": "c", "colour": "202020"}]})  # fmt: skip
    assert palette.ids(rgb("202020", "010101", "000000"), "m")[0].tolist() == [[2, 1, 0]]


def test_unknown_colours_are_listed_with_counts() -> None:
    with pytest.raises(UserError, match=r"tile/m.png.*12AB34 \(2 px\), FF0000 \(1 px\)") as error:
        DUBAI.ids(rgb("8429F6", "12AB34", "FF0000", "12AB34"), "tile/m.png")
    assert "dubai" in str(error.value)


def test_ids_beyond_the_palette() -> None:
    DUBAI.check_ids(np.array([[0, 5]], np.uint8), "m")
    with pytest.raises(UserError, match=r"7 \(2 px\)"):
        DUBAI.check_ids(np.array([[7, 0, 7]], np.uint8), "m")


def test_detection() -> None:
    for palette in PALETTES.values():
        painted = palette.paint(np.arange(palette.classes, dtype=np.uint8)[None])
        assert detect(census([painted])) is palette
    counts = census([rgb("8429F6", "8429F6", "862BF0")])
    assert counts == {0x8429F6: 2, 0x862BF0: 1} and detect(counts).name == "dubai"
    with pytest.raises(UserError, match=r"no known palette.*123456 \(1 px\)"):
        detect(census([rgb("8429F6", "123456")]))
    with pytest.raises(UserError, match="openearthmap, second"):
        detect(census([rgb("FFFFFF", "800000")]))
    assert detect(census([rgb("FFFFFF", "800000")]), prefer="second").name == "second"
    with pytest.raises(UserError, match="no known palette"):
        detect({})


def test_own_palette_from_yaml(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(
        "name: mine\nclasses:\n- {name: no, colour: '000000'}\n- {name: yes, colour: 'ff00aa'}\n"
        "aliases: {'010203': 1}\n"
    )
    palette = load_palette(str(path))
    assert palette.ids(rgb("FF00AA", "000000", "010203"), "m")[0].tolist() == [[1, 0, 1]]
    assert from_dict(palette.describe()) == palette
    path.write_text("name: mine\nclasses: [{name: a, colour: '00'}]")
    with pytest.raises(UserError, match="six hexadecimal"):
        load_palette(str(path))
    path.write_text("name: mine")
    with pytest.raises(UserError, match="not a palette"):
        load_palette(str(path))
    with pytest.raises(UserError, match="known are auto, openearthmap"):
        load_palette("dubay")


def test_two_classes_of_one_colour_are_refused() -> None:
    with pytest.raises(UserError, match="stands for two"):
        Palette("twice", ("a", "b"), ("000000", "000000"))


class TestDecode:
    def test_palette_png_becomes_colours_not_indices(self) -> None:
        colours = rgb("8429F6", "E2A929", "FEDD3A")
        image = Image.fromarray(colours).quantize(8)
        assert image.mode == "P"
        assert (decode_mask(encoded(image), "m.png") == colours).all()

    def test_grey_is_ids(self) -> None:
        grey = np.array([[0, 8, 3]], np.uint8)
        for kind in ("PNG", "TIFF"):
            assert (decode_mask(encoded(Image.fromarray(grey), kind), "m") == grey).all()
        bilevel = Image.fromarray(np.array([[0, 255, 0]], np.uint8)).convert("1")
        assert decode_mask(encoded(bilevel), "m.png").tolist() == [[0, 1, 0]]

    def test_opaque_alpha_is_dropped_and_translucent_refused(self) -> None:
        rgba = np.dstack([rgb("8429F6"), np.full((1, 1, 1), 255, np.uint8)])
        assert (decode_mask(encoded(Image.fromarray(rgba)), "m") == rgb("8429F6")).all()
        rgba[..., 3] = 100
        with pytest.raises(Reject, match="translucent"):
            decode_mask(encoded(Image.fromarray(rgba)), "m")

    @pytest.mark.parametrize(
        ("data", "reason"),
        [
            (b"", "empty"),
            (b"no image", "not-an-image"),
            (encoded(Image.new("RGB", (32, 32)))[:60], "corrupt"),
        ],
    )
    def test_damaged(self, data: bytes, reason: str) -> None:
        with pytest.raises(Reject, match=reason):
            decode_mask(data, "m")

    def test_sixteen_bits_are_refused(self) -> None:
        image = Image.fromarray(np.array([[1000]], np.uint16))
        with pytest.raises(Reject, match="16-bit"):
            decode_mask(encoded(image), "m")


def test_real_dubai_masks(shared_data: Path) -> None:
    """Tile 2 is palette PNG, tile 3 RGB: one palette explains both, to the last pixel."""
    folder = shared_data / "sis" / "dubai"
    names = [f"tile{tile}/masks/image_part_00{n}.png" for tile in (2, 3) for n in (3, 6)]
    paths = [folder / name for name in names]
    masks = [decode_mask(path.read_bytes(), path.name) for path in paths]
    palette = detect(census(masks))
    assert palette.name == "dubai"
    for path, mask in zip(paths, masks, strict=True):
        ids, noisy = palette.ids(mask, path.name)
        assert noisy == 0
        named = palette.paint(ids)
        assert ((named == mask).all(axis=-1) | (mask == 0).all(axis=-1)).all()
