"""Chips at a coarser resolution than their raster's: exact area means, keys, what is refused."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import rasterio
from rasterio.transform import Affine

from core.errors import UserError
from data.corpus.rasters.coarser import area_means
from data.corpus.specs import open_corpus
from data.images.chips import decode_chip
from tests.data.rasters import NAME, RGB_X, pixels, write_raster


def weights(edges: np.ndarray, count: int) -> np.ndarray:
    """cells x pixels: how much of each pixel lies between consecutive edges."""
    low, high = edges[:-1, None], edges[1:, None]
    pixel = np.arange(count)[None]
    return np.clip(np.minimum(high, pixel + 1) - np.maximum(low, pixel), 0, None)


def reference(values: np.ndarray, x: np.ndarray, y: np.ndarray, known: np.ndarray) -> np.ndarray:
    """Weighted means of H x W x bands, pixel by pixel of the target, of what is known."""
    wy, wx = weights(y, values.shape[0]), weights(x, values.shape[1])
    total = np.einsum("ih,jw,hwb,hw->ijb", wy, wx, values.astype(np.float64), known)
    area = np.einsum("ih,jw,hw->ij", wy, wx, known.astype(np.float64))
    return np.where(area[..., None] > 0, total / np.where(area > 0, area, 1)[..., None], 0)


def samples(spec: str) -> list:
    corpus = open_corpus(spec)
    return [sample for shard in corpus.shards() for sample in corpus.read(shard)]


@pytest.mark.parametrize("metres", [0.3, 0.6, 0.5])
def test_chips_are_area_means_of_the_ground_under_them(tmp_path, metres):
    data = pixels(97, 110)
    write_raster(tmp_path / "n" / NAME, data, metres=metres)
    corpus = open_corpus(f"usa1m:{tmp_path}/n?chip=16")
    found = [s for shard in corpus.shards() for s in corpus.read(shard)]
    whole = [sample for sample in found if sample.data is not None]
    assert len(whole) == int(110 * metres + 1e-6) // 16 * (int(97 * metres + 1e-6) // 16)
    for sample in whole:
        x, y, *_ = sample.more["window"]
        assert sample.key == f"{NAME}#{x},{y},16x16@1m" and sample.resolution_m == 1
        assert f"{metres:g} m brought to 1 m by area means" in sample.note
        left, bottom, right, top = sample.more["bounds"]
        assert (right - left, top - bottom) == pytest.approx((16, 16))
        assert (left, top) == pytest.approx((485_900 + x, 5_209_200 - y))
        expected = reference(data, (x + np.arange(17)) / metres, (y + np.arange(17)) / metres,
                             np.ones(data.shape[:2]))  # fmt: skip
        got = decode_chip(sample.data).astype(float)
        assert np.abs(got - expected).max() <= 0.5 + 1e-6
    again = list(corpus.fetch([(s.key, s.shard, s.row) for s in whole]))
    assert [s.data for s in again] == [s.data for s in whole]


def test_what_has_no_data_does_not_bleed_in(tmp_path):
    """A raster of value 200 with a hole: means stay 200; the hole's share is an area."""
    data = np.full((80, 80, 4), 200, np.uint8)
    data[10:13, 20:27] = 0
    write_raster(tmp_path / "n" / NAME, data, metres=0.6, nodata=0)
    spec = f"usa1m:{tmp_path}/n?chip=48"
    (refused, *_) = samples(spec)
    assert refused.error == ("nodata", f"{21 * 0.36 / 48**2:.2%} of its pixels have no data")
    (sample, *_) = samples(f"{spec}&nodata=0.01")
    values = set(np.unique(decode_chip(sample.data)).tolist())
    assert values == {0, 200}  # 0: target pixels wholly within the hole


def test_area_means_equal_the_reference_across_the_mask():
    rng = np.random.default_rng(1)
    values = rng.normal(0, 1e4, (3, 31, 29))
    void = rng.random((31, 29)) < 0.4
    x, y = (np.linspace(0.2, side - 0.1, 14) for side in (29, 31))
    means, lacking = area_means(values, x, y, void)
    expected = reference(values.transpose(1, 2, 0), x, y, ~void).transpose(2, 0, 1)
    assert np.allclose(means, expected, atol=1e-7)
    wy, wx = weights(y, 31), weights(x, 29)
    assert lacking == pytest.approx((wy @ void @ wx.T).sum() / ((x[-1] - x[0]) * (y[-1] - y[0])))


def test_native_resolution_and_its_names_stay(tmp_path):
    """1 m files, within 1 %: the same chips, keys and fingerprint whatever is not stated."""
    for metres in (1.0, 0.995):
        folder = tmp_path / f"{metres}"
        write_raster(folder / NAME, metres=metres)
        plain, preset = (open_corpus(f"{p}{folder}?chip=16") for p in ("", "usa1m:"))
        stated = open_corpus(f"usa1m:{folder}?chip=16&resolution=1")
        first, *others = ([(s.key, s.data, s.note, s.error) for s in c.read(c.shards()[0])]
                          for c in (plain, preset, stated))  # fmt: skip
        assert all(other == first for other in others) and first[0][0] == f"{NAME}#0,0,16x16"
        assert plain.fingerprint() == preset.fingerprint() != stated.fingerprint()
        native = open_corpus(f"usa1m:{folder}?chip=16&resolution=native")
        assert native.fingerprint() not in (preset.fingerprint(), stated.fingerprint())


def test_a_key_says_its_resolution(tmp_path):
    """Native chips of earlier tables are still fetched; a key of another resolution is refused."""
    data = pixels(60, 60)
    write_raster(tmp_path / "n" / NAME, data, metres=0.6)
    one, native, two = (open_corpus(f"usa1m:{tmp_path}/n?chip=16{more}")
                        for more in ("", "&resolution=native", "&resolution=2"))  # fmt: skip
    keys = [[s.key for s in c.read(c.shards()[0])] for c in (one, native, two)]
    assert not set(keys[0]) & set(keys[1]) and not set(keys[0]) & set(keys[2])
    place = (keys[1][0], NAME, 0)
    (sample,) = one.fetch([place])
    assert np.array_equal(decode_chip(sample.data), data[:16, :16])
    for corpus, key in ((two, keys[1][0]), (native, keys[0][0]), (two, keys[0][0])):
        with pytest.raises(UserError, match="is not in the grid"):
            list(corpus.fetch([(key, NAME, 0)]))


def test_coarser_rasters_are_read_as_they_are_unless_a_resolution_is_stated(tmp_path):
    write_raster(tmp_path / "n" / NAME, metres=5.0)
    for sample in samples(f"usa1m:{tmp_path}/n?chip=16")[:2]:
        assert sample.data is not None and "@" not in sample.key
        assert sample.note == "5 m a pixel is coarser than 1 m, read as it is"
    (sample,) = samples(f"usa1m:{tmp_path}/n?chip=16&resolution=1")
    assert sample.error is not None and sample.error[0] == "resolution"
    assert "give resolution=5 or more, or resolution=native" in sample.error[1]


@pytest.mark.parametrize("crs", ["EPSG:4326", None])
def test_without_metres_a_stated_resolution_is_refused(tmp_path, crs):
    write_raster(tmp_path / "n" / NAME, crs=crs, origin=(-100.0, 47.0), metres=1e-5)
    (sample,) = samples(f"usa1m:{tmp_path}/n?chip=16&resolution=1")
    assert sample.error is not None and sample.error[0] == "resolution"
    assert "does not say how many metres" in sample.error[1]
    first = samples(f"usa1m:{tmp_path}/n?chip=16")[0]
    assert first.data is not None and first.note == "" and first.key == f"{NAME}#0,0,16x16"


def turned(path, data, transform, crs="EPSG:26914"):
    path.parent.mkdir()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with rasterio.open(
            path, "w", driver="GTiff", height=data.shape[0], width=data.shape[1], count=4,
            dtype="uint8", crs=crs, transform=transform, photometric="minisblack",
        ) as raster:  # fmt: skip
            raster.write(data.transpose(2, 0, 1))
            raster.colorinterp = RGB_X


def test_pixels_that_are_turned_or_not_square_or_in_feet(tmp_path):
    data = pixels(80, 80)
    turned(tmp_path / "r" / NAME, data, Affine(0.3, 0.4, 4e5, 0.4, -0.3, 5e6))  # 0.5 m
    turned(tmp_path / "s" / NAME, data, Affine(0.5, 0, 4e5, 0, -0.25, 5e6))
    foot = 1200 / 3937  # a US survey foot in metres
    turned(tmp_path / "f" / NAME, data, Affine(0.5 / foot, 0, 4e5, 0, -0.5 / foot, 5e6),
           "EPSG:2225")  # fmt: skip
    for name, down in (("r", 2), ("s", 4), ("f", 2)):
        sample = samples(f"usa1m:{tmp_path}/{name}?chip=16")[0]
        means = data[: 16 * down, :32].reshape(16, down, 16, 2, 4).mean((1, 3))
        assert np.array_equal(decode_chip(sample.data), np.floor(means + 0.5)), name
    turned(tmp_path / "t" / NAME, data, Affine(1.5, 0, 4e5, 0, -0.25, 5e6))
    (sample,) = samples(f"usa1m:{tmp_path}/t?chip=16&resolution=1")
    assert sample.error is not None and "1.5 x 0.25 m" in sample.error[1]


def test_stored_values_are_averaged_before_they_are_scaled(tmp_path):
    data = np.full((32, 32, 4), 40, np.uint16)
    data[::2, ::2] = 3880  # clipped to 255 alone, 1000 with the three around it
    write_raster(tmp_path / "n" / NAME, data, metres=0.5, colours=None)
    sample = samples(f"usa1m:{tmp_path}/n?chip=16&scale=0,2000&nodata=1")[0]
    assert np.unique(decode_chip(sample.data)).tolist() == [128]


def test_what_has_no_data_is_black_whatever_the_scale(tmp_path):
    data = np.full((32, 32, 4), 50, np.float32)
    data[4:8, 4:8] = -9999
    write_raster(tmp_path / "n" / NAME, data, metres=0.5, colours=None, nodata=-9999)
    sample = samples(f"usa1m:{tmp_path}/n?chip=16&scale=-100,100&nodata=0.5")[0]
    chip = decode_chip(sample.data)
    assert (chip[2:4, 2:4] == 0).all() and (chip == 0).sum() == 16 and chip.max() == 191


def test_a_value_far_out_of_the_scale_stays_in_its_pixel(tmp_path):
    """A fill value that the header does not state: as at the file's resolution, one dark pixel."""
    data = np.full((32, 32, 4), 50, np.float32)
    data[4, 4] = -3.4e38
    data[20, 9] = 3.4e38
    write_raster(tmp_path / "n" / NAME, data, metres=0.5, colours=None)
    chip = decode_chip(samples(f"usa1m:{tmp_path}/n?chip=16&scale=0,100")[0].data)
    assert (chip[2, 2] == 0).all() and (chip[10, 4] == 255).all()
    assert (chip == 128).sum() + (chip == 127).sum() == (16 * 16 - 2) * 4


@pytest.mark.parametrize("text", ["0", "-1", "fine", "1e9", "nan"])
def test_impossible_resolutions_are_refused(tmp_path, text):
    write_raster(tmp_path / "n" / NAME)
    with pytest.raises(UserError, match=f"resolution={text}: give metres a pixel"):
        open_corpus(f"{tmp_path}/n?chip=16&resolution={text}")
