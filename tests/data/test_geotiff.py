"""Chips of GeoTIFFs: every window is a row, the bands are those they claim to be."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
import rasterio
from rasterio.enums import ColorInterp

from core.errors import UserError
from data.corpus.folder import FolderCorpus
from data.corpus.rasters import geotiff
from data.corpus.rasters.raster import REASONS, acquired
from data.corpus.specs import open_corpus
from data.images.chips import encode_chip
from data.images.decode import Reject, decode_grey, decode_rgb, decode_rgbn
from prune import score
from tests.data.rasters import NAME, RGB_X, pixels, write_raster
from tests.data.shards import samples

NIR_FIRST = (ColorInterp.undefined, ColorInterp.red, ColorInterp.green, ColorInterp.blue)


def chips(path, options="chip=32"):
    return samples(open_corpus(f"{path}?{options}"))


def refusal(path, options="chip=32"):
    (sample,) = chips(path, options)
    assert sample.data is None and sample.key == path.name
    return sample.error


def test_every_window_of_the_grid_is_a_row(tmp_path):
    data = pixels(70, 100)
    write_raster(tmp_path / NAME, data)
    found = chips(tmp_path / NAME)
    assert [s.row for s in found] == list(range(12))  # 3 x 4 cells
    assert [s.key for s in found[:5]] == [
        f"{NAME}#0,0,32x32", f"{NAME}#32,0,32x32", f"{NAME}#64,0,32x32", f"{NAME}#96,0,4x32",
        f"{NAME}#0,32,32x32",
    ]  # fmt: skip
    whole = [s for s in found if s.error is None]
    assert len(whole) == 6
    assert {s.error for s in found} - {None} == {
        ("partial-chip", f"{size} pixels at the edge of its raster")
        for size in ("4 x 32", "32 x 6", "4 x 6")
    }
    for sample in whole:
        x, y, width, height = sample.more["window"]
        expected = data[y : y + height, x : x + width]
        np.testing.assert_array_equal(decode_rgbn(sample.data), expected)
        np.testing.assert_array_equal(decode_rgb(sample.data), expected[..., :3])
        assert sample.data == encode_chip(expected) and sample.name == ""


def test_place_day_and_resolution_of_a_chip(tmp_path):
    write_raster(tmp_path / NAME, pixels(64, 64), metres=0.6)
    last = chips(tmp_path / NAME)[3]
    assert last.more == {
        "date": "2015-09-26", "window": [32, 32, 32, 32], "crs": "EPSG:26914",
        "bounds": pytest.approx([485919.2, 5209161.6, 485938.4, 5209180.8]),
    }  # fmt: skip
    assert last.resolution_m == 0.6
    for name, day in {
        "m_3012161_ne_16_060_20190815_20191203.tif": "2019-08-15",
        "M_3012161_NW_16_H_20190815.TIF": "2019-08-15",
        "m_3012161_nw_16_1_20191315.tif": None, "s_3012161_nw_16_1_20190815.tif": None,
        "m_3012161_20190815.tif": None,
    }.items():  # fmt: skip
        assert acquired(name) == day, name
    degrees = write_raster(
        tmp_path / "d" / NAME, crs="EPSG:4326", origin=(-74.0, -8.0), metres=1e-4
    )
    assert chips(degrees)[0].resolution_m is None
    nowhere = chips(write_raster(tmp_path / "n" / NAME, crs=None))[0]
    assert nowhere.more["crs"] is None and nowhere.more["bounds"] is None and nowhere.data


def test_band_order_is_stated_known_or_refused(tmp_path):
    data = pixels(32, 32)
    nameless = write_raster(tmp_path / "scene.tif", data, colours=None)
    error = refusal(nameless)
    assert error[0] == "band-order" and "SPEC?bands=rgbn" in error[1] and "undefined" in error[1]

    def read(path, options="chip=32"):
        (sample,) = chips(path, options)
        return decode_rgbn(sample.data)

    np.testing.assert_array_equal(read(nameless, "chip=32&bands=rgbn"), data)
    np.testing.assert_array_equal(read(nameless, "chip=32&bands=NRGB"), data[..., [1, 2, 3, 0]])
    np.testing.assert_array_equal(read(nameless, "chip=32&bands=bgrn"), data[..., [2, 1, 0, 3]])
    said = write_raster(
        tmp_path / "said.tif", data, colours=None, descriptions=("NIR", "Blue", "green", "Red")
    )
    np.testing.assert_array_equal(read(said), data[..., [3, 2, 1, 0]])
    assert "band 1 is 'r' by ?bands=rgbn, but the file calls it nir" in refusal(
        said, "chip=32&bands=rgbn"
    )[1]
    quad = write_raster(tmp_path / "quad" / NAME, data, colours=None)
    np.testing.assert_array_equal(read(quad), data)
    false = write_raster(tmp_path / "false" / NAME, data, colours=NIR_FIRST)
    assert refusal(false)[0] == "band-order" and "by its name" in refusal(false)[1]
    # three colours and a band of which nothing is known, under any name: not near infrared yet
    assert refusal(write_raster(tmp_path / "rgbx.tif", data, colours=RGB_X))[0] == "band-order"


@pytest.mark.parametrize(("reason", "said", "data", "colours"), [
    ("bands", "2 bands, the second no alpha", pixels(bands=2), None),
    ("bands", "5 bands; say which are which by ?bands=", pixels(bands=5), None),
    ("not-8-bit", "float64", pixels().astype(np.float64), None),
    ("16-bit", "uint16", pixels().astype(np.uint16), None),
    ("not-8-bit", "int8", pixels().astype(np.int8), None),
    ("not-8-bit", "complex64", pixels().astype(np.complex64), None),
])  # fmt: skip
def test_files_of_another_kind_are_refused_by_name(tmp_path, reason, said, data, colours):
    path = write_raster(tmp_path / NAME, data, colours=colours)
    error = refusal(path)
    assert error[0] == reason and said in error[1]
    if reason != "bands":  # a statement about bands changes nothing about values
        assert refusal(path, "chip=32&bands=rgbn") == error


def test_usa1m_needs_four_bands_and_other_rasters_do_not(tmp_path):
    three, one = pixels(32, 32, 3), pixels(32, 32, 1)
    for name, data, colours in (("rgb.tif", three, RGB_X), ("pan.tif", one, None)):
        path = write_raster(tmp_path / name[:3] / name, data, colours=colours)
        (sample,) = chips(path)
        assert sample.key == f"{name}#0,0,32x32" and sample.data == encode_chip(data)
        np.testing.assert_array_equal(decode_rgb(sample.data), np.broadcast_to(data, (32, 32, 3)))
        with pytest.raises(Reject, match="no near infrared"):
            decode_rgbn(sample.data)
        (refused,) = samples(open_corpus(f"usa1m:{path.parent}?chip=32"))
        assert refused.error[0] == "bands" and "not four (R, G, B, NIR)" in refused.error[1]
    quad = write_raster(tmp_path / "naip" / NAME, three, colours=None)  # NAIP's folder rgb
    assert chips(quad)[0].data == encode_chip(three)


ALPHA = (*RGB_X[:3], ColorInterp.alpha)


def test_a_stated_order_overrides_the_tag_and_says_so(tmp_path):
    data = pixels(32, 32)
    path = write_raster(tmp_path / "chip_1.tif", data, colours=ALPHA)  # as GDAL tags RGBN
    error = refusal(path)
    assert error[0] == "alpha-band"
    assert "SPEC?bands=rgbn" in error[1] and "SPEC?bands=rgb " in error[1]
    (stated,) = chips(path, "chip=32&bands=rgbn")
    assert stated.data == encode_chip(data)
    assert stated.note == "band 4, tagged alpha, taken as near infrared (?bands=rgbn)"
    (blue,) = chips(path, "chip=32&bands=bgrn")  # three colours that were never stated either
    assert blue.data == encode_chip(data[..., [2, 1, 0, 3]])
    assert blue.note.startswith("band 1, tagged red, taken as blue; band 3")
    data[5:9, 5:9, 3] = 0
    masked = write_raster(tmp_path / "alpha.tif", data, colours=ALPHA)
    assert chips(masked, "chip=32&bands=rgbn")[0].data == encode_chip(data)  # infrared of 0 is data
    assert chips(masked, "chip=32&bands=rgb")[0].error[0] == "nodata"
    (lax,) = chips(masked, "chip=32&bands=rgb&nodata=0.1")
    assert lax.data == encode_chip(data[..., :3])


def test_naip_by_name_or_description_opens_as_usa1m(tmp_path, capsys):
    data = pixels(300, 300)
    path = write_raster(tmp_path / "q" / NAME, data, colours=ALPHA)
    corpus = open_corpus(path.parent)
    first = samples(corpus)[0]
    assert first.data == encode_chip(data[:256, :256])
    assert first.note == "band 4, tagged alpha, taken as near infrared (a NAIP file)"
    told = write_raster(tmp_path / "t" / "tile.tif", data, colours=None)
    with rasterio.open(told, "r+") as raster:
        raster.update_tags(TIFFTAG_IMAGEDESCRIPTION="USDA FSA NAIP 2019")
    assert samples(open_corpus(told))[0].data == encode_chip(data[:256, :256])
    data[..., 3] = np.where(data[..., 3] > 99, 255, 0)  # gdalwarp -dstalpha of a three-band file
    error = refusal(write_raster(tmp_path / "w" / NAME, data, colours=ALPHA), "chip=256")
    assert error[0] == "alpha-band" and "holds 0 and 255 alone" in error[1]
    assert score.main(["--corpus", str(path.parent), "--out", str(tmp_path / "s")]) == 0
    shown = capsys.readouterr().out
    assert shown.count("band 4, tagged alpha, taken as near infrared (a NAIP file)") == 1


def test_damaged_files_are_rows(tmp_path):
    whole = write_raster(tmp_path / "w" / NAME, pixels(128, 128)).read_bytes()
    folder = tmp_path / "c"
    folder.mkdir()
    names = [f"m_4709963_{q}_14_1_20150926.tif" for q in ("ne", "nw", "se", "sw")]
    (folder / names[0]).touch()
    (folder / names[1]).write_bytes(b"<html>not found</html>")
    (folder / names[2]).write_bytes(whole[: len(whole) // 2])
    (folder / names[3]).write_bytes(whole)
    found = samples(open_corpus(f"usa1m:{folder}?chip=64"))
    by_file = {name: [s for s in found if s.key.startswith(name)] for name in names}
    assert [s.error[0] for s in by_file[names[0]]] == ["empty"]
    assert [s.error[0] for s in by_file[names[1]]] == ["not-an-image"]
    half = [s.error and s.error[0] for s in by_file[names[2]]]
    assert half in (["corrupt"], [None, None, "corrupt", "corrupt"], ["corrupt"] * 4)
    assert all(str(tmp_path) not in s.error[1] for s in found if s.error)
    assert [s.error for s in by_file[names[3]]] == [None] * 4
    vrt = folder / "vrt.tif"
    vrt.write_text('<VRTDataset rasterXSize="9" rasterYSize="9"></VRTDataset>')
    assert refusal(vrt)[0] == "not-an-image"  # a list of other files is no file of the corpus


def test_headers_that_would_fill_the_memory_are_refused(tmp_path, monkeypatch):
    path = tmp_path / NAME
    with rasterio.open(path, "w", driver="GTiff", width=300_000, height=64, count=4, dtype="uint8",
                       photometric="minisblack", alpha="unspecified",
                       sparse_ok=True):  # fmt: skip
        pass
    assert refusal(path)[0] == "too-large" and "300,000 x 64" in refusal(path)[1]
    monkeypatch.setattr("data.images.raster.MAX_BLOCK_BYTES", 4 * 128 * 128 - 1)
    error = refusal(write_raster(path, pixels(128, 128), tiled=True, blockxsize=128,
                                 blockysize=128))  # fmt: skip
    assert error[0] == "too-large" and "in blocks of 65,536 bytes" in error[1]


def test_a_collar_is_no_data_where_the_file_says_nothing(tmp_path):
    data = pixels(32, 160)
    data[:, :40] = 0  # the collar: one chip in full, a quarter of the next
    data[5, 70, :3] = 0  # black, with infrared
    data[7, 100] = data[0, 110] = data[20:24, 104:120] = 0  # a shadow, and a pixel at the edge
    path = write_raster(tmp_path / NAME, data)
    errors = [s.error for s in chips(path)]
    assert errors[0] == ("nodata", "100.00% of its pixels have no data")
    assert errors[1] == ("nodata", "25.00% of its pixels have no data")
    assert errors[2:] == [None] * 3
    lax = [s.error is None for s in chips(path, "chip=32&nodata=0.25")]
    assert lax == [False, True, True, True, True]
    wedge = pixels(32, 32)
    wedge[np.add.outer(np.arange(32), np.arange(32)) < 8] = 0  # 36 pixels of a corner
    assert refusal_of(chips(write_raster(tmp_path / "w" / NAME, wedge))[0]) == "nodata"


def refusal_of(sample):
    return sample.error and sample.error[0]


def test_the_files_own_word_on_what_has_no_data_decides(tmp_path):
    data = pixels(32, 96)
    data[:, :32] = 0  # a collar, by its looks
    data[7, 40] = 0
    zero = write_raster(tmp_path / "zero" / NAME, data, nodata=0)
    assert [refusal_of(s) for s in chips(zero)] == ["nodata", "nodata", None]
    other = np.where(data == 0, 255, np.minimum(data, 254)).astype(np.uint8)
    other[:, 64:] = 0
    white = write_raster(tmp_path / "white" / NAME, other, nodata=255)
    assert [refusal_of(s) for s in chips(white)] == ["nodata", "nodata", None]
    with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True):
        masked = write_raster(tmp_path / "mask" / NAME, data)
        with rasterio.open(masked, "r+") as raster:
            raster.write_mask(np.repeat(np.arange(96) < 70, 32).reshape(96, 32).T)
    assert [refusal_of(s) for s in chips(masked)] == [None, None, "nodata"]
    floats = pixels(32, 32).astype(np.float32)
    floats[3, 3] = np.nan
    path = write_raster(tmp_path / "nan" / NAME, floats)
    assert refusal_of(chips(path, "chip=32&scale=0,255")[0]) == "nodata"


def test_fetch_by_key_in_any_order(tmp_path):
    for quarter, seed in (("ne", 1), ("nw", 2)):
        name = f"m_4709963_{quarter}_14_1_20150926.tif"
        write_raster(tmp_path / "a" / name, pixels(64, 64, seed=seed))
    corpus = open_corpus(f"usa1m:{tmp_path}?chip=32")
    found = samples(corpus)
    places = [(s.key, s.shard, s.row) for s in found]
    assert places[0][0].startswith("a/m_") and len(corpus) == 8
    mixed = [places[i] for i in (7, 0, 5, 1, 6, 0)]
    again = list(corpus.fetch(mixed))
    assert [(s.key, s.shard, s.row) for s in again] == mixed
    assert [s.data for s in again] == [found[i].data for i in (7, 0, 5, 1, 6, 0)]
    write_raster(tmp_path / "a" / "m_0000000_ne_14_1_20150926.tif")  # shifts rows, not keys
    moved = open_corpus(f"usa1m:{tmp_path}?chip=32")
    assert [s.data for s in moved.fetch(mixed)] == [s.data for s in again]
    with pytest.raises(UserError, match="not in the grid of 48-pixel chips"):
        list(open_corpus(f"usa1m:{tmp_path}?chip=48").fetch(mixed))
    with pytest.raises(UserError, match="is no chip of it: it has 3 files"):
        list(moved.fetch([("b.tif#0,0,32x32", "b.tif", 0)]))
    for path in (tmp_path / "a").glob("*_nw_*"):
        path.unlink()
    (gone,) = corpus.batch(found[4].shard, 4, 5)
    assert gone.data == found[4].data or gone.error[0] in ("corrupt", "unreadable")
    key, shard, row = places[0]
    below = open_corpus(f"{tmp_path}/a/*.tif?chip=32")  # named from another folder
    assert next(below.fetch([(key.removeprefix("a/"), shard, row)])).data == found[0].data


def test_shards_are_files_or_several_small_ones(tmp_path, monkeypatch):
    names = [f"m_470996{i}_ne_14_1_20150926.tif" for i in range(5)]
    for i, name in enumerate(names):
        write_raster(tmp_path / name, pixels(40, 40, seed=i))
    size = (tmp_path / names[0]).stat().st_size
    monkeypatch.setattr(geotiff, "SHARD_BYTES", 2 * size)
    corpus = open_corpus(f"{tmp_path}?chip=32")
    assert corpus.shards() == [names[0], names[2], names[4]]
    assert [corpus.count(shard) for shard in corpus.shards()] == [8, 8, 4]
    batch = pickle.loads(pickle.dumps(corpus.batch(names[2], 3, 6)))
    assert len(batch) == 3 and [s.row for s in batch] == [3, 4, 5]
    assert [s.key for s in batch] == [
        f"{names[2]}#32,32,8x8", f"{names[3]}#0,0,32x32", f"{names[3]}#32,0,8x32",
    ]  # fmt: skip
    assert [s.key for s in corpus.read(names[2])][3:6] == [s.key for s in batch]
    with pytest.raises(UserError, match="no shard"):
        corpus.batch(names[1])
    before = corpus.fingerprint()
    assert open_corpus(f"usa1m:{tmp_path}?chip=32").fingerprint() == before
    for other in ("chip=16", "chip=32&bands=rgbn", "chip=32&nodata=0.5"):
        assert open_corpus(f"{tmp_path}?{other}").fingerprint() != before


def test_which_folders_are_cut_and_which_are_images(tmp_path):
    write_raster(tmp_path / "naip" / NAME)
    (tmp_path / "naip" / "README.txt").touch()
    assert open_corpus(tmp_path / "naip").kind == "geotiff"
    assert open_corpus(tmp_path / "naip").root == tmp_path / "naip"
    assert open_corpus(f"{tmp_path}/naip/*.tif").root is None
    assert isinstance(open_corpus(f"folder:{tmp_path}/naip"), FolderCorpus)
    write_raster(tmp_path / "rgb" / "agricultural00.tif", pixels(32, 32, 3))  # as UC Merced
    assert isinstance(open_corpus(tmp_path / "rgb"), FolderCorpus)
    write_raster(tmp_path / "mixed" / NAME)
    (tmp_path / "mixed" / "a.jpg").touch()
    assert isinstance(open_corpus(tmp_path / "mixed"), FolderCorpus)
    assert open_corpus(f"{tmp_path}?chip=32").kind == "geotiff"  # below it, as it is asked for
    (tmp_path / "empty").mkdir()
    for spec, message in {
        f"usa1m:{tmp_path}/empty": "no .tif files in",
        f"{tmp_path}/empty?chip=32": "no image files in",
        f"usa1m:{tmp_path}/naip?bands=rgb": "bands=rgb: give the order",
        f"{tmp_path}/naip?bands=rgg": "bands=rgg: give the order",
        f"{tmp_path}/naip?scale=9,3": "scale=9,3: give the values that become 0 and 255",
        f"{tmp_path}/naip?scale=p2,98": "scale=p2,98: give the values",
        f"{tmp_path}/naip?scale=p2,p102": "scale=p2,p102: give the values",
        f"{tmp_path}/naip?scale=2": "scale=2: give the values",
        f"{tmp_path}/naip?chip=8": "chip=8: give pixels a side",
        f"{tmp_path}/naip?chip=x": "chip=x: give pixels a side",
        f"{tmp_path}/naip?bands=rgbb": "bands=rgbb: give the order",
        f"{tmp_path}/naip?nodata=2": "nodata=2: give a fraction",
        f"{tmp_path}/naip?urban=/no/such.gpkg": "urban=/no/such.gpkg: no such file",
        f"{tmp_path}/naip?size=3": "unknown option 'size'",
    }.items():
        with pytest.raises(UserError) as caught:
            open_corpus(spec)
        assert message in str(caught.value)


def test_luma_of_a_chip_is_that_of_its_red_green_blue(tmp_path):
    from PIL import Image

    data = pixels(32, 32)
    expected = np.asarray(Image.fromarray(np.ascontiguousarray(data[..., :3])).convert("L"))
    np.testing.assert_array_equal(decode_grey(encode_chip(data)), expected)


def test_every_reason_is_tried():
    from pathlib import Path

    here = Path(__file__).parent
    text = "".join((here / f"test_{name}.py").read_text() for name in ("geotiff", "urban",
                                                                       "resolution"))  # fmt: skip
    assert all(f'"{reason}"' in text for reason in REASONS)
