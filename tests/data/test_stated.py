"""What the user states of images: ?bands= and ?scale= in every container, ?chip= of any image."""

from __future__ import annotations

import io
import pickle

import numpy as np
import pytest
import rasterio
from PIL import Image

from core.errors import UserError
from core.stage import read_manifest
from data.corpus.rasters import scale
from data.corpus.specs import open_corpus
from data.formats.tables import read_parts
from data.images.chips import chip_to_file, decode_chip, encode_chip
from data.images.decode import Reject, decode, decode_rgb
from prune.score import main as score
from tests.data.pictures import encode, scene
from tests.data.rasters import pixels, write_raster
from tests.data.shards import images, samples, write_arrow, write_tar

RNG = np.random.default_rng(5)
DEEP = RNG.integers(200, 4000, (40, 56, 3), dtype=np.uint16)


def scaled(values, low, high):
    part = np.clip((values.astype(np.float64) - low) / (high - low), 0, 1)
    return np.floor(255 * part + 0.5).astype(np.uint8)


def tiff(values, **options):
    with rasterio.MemoryFile() as memory:
        with memory.open(
            driver=options.pop("driver", "GTiff"),
            dtype=values.dtype,
            height=values.shape[0],
            width=values.shape[1],
            count=values.shape[2],
            **options,
        ) as file:
            file.write(values.transpose(2, 0, 1))
        return memory.read()


@pytest.fixture
def files():
    return {
        "a/deep.tif": tiff(DEEP),
        "a/pan.png": encode(Image.fromarray(DEEP[..., 0]), "PNG"),
        "b/planar.tif": tiff(pixels(40, 56, 3), photometric="minisblack", interleave="band"),
        "b/plain.jpg": encode(scene(), "JPEG"),
        "b/wrong.png": tiff(DEEP),
        "broken.tif": tiff(DEEP)[:-2000],
    }


@pytest.fixture
def containers(files, tmp_path):
    for name, data in files.items():
        path = tmp_path / "folder" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    write_tar(tmp_path / "tar" / "x.tar", dict(sorted(files.items())))
    names = sorted(files)
    write_arrow(
        tmp_path / "arrow" / "x.arrow", {"image": images(*(files[n] for n in names), paths=names)}
    )
    return [f"{tmp_path}/folder?", f"{tmp_path}/tar?key=member&", f"{tmp_path}/arrow?key=path&"]


def test_stated_bands_and_scale_give_the_same_pixels_in_every_container(containers):
    found = []
    for spec in containers:
        corpus = open_corpus(f"{spec}bands=rgb&scale=200,3000")
        read = {sample.key: sample for sample in samples(corpus)}
        places = [(s.key, s.shard, s.row) for s in read.values()]
        assert [s.data for s in corpus.fetch(places)] == [s.data for s in read.values()]
        (batch,) = (corpus.batch(shard) for shard in corpus.shards())
        assert len(pickle.loads(pickle.dumps(batch))) == len(corpus) == 6
        found.append({key: (sample.data, sample.error) for key, sample in read.items()})
    assert found[0] == found[1] == found[2]
    for name, expected in {
        "a/deep.tif": scaled(DEEP, 200, 3000),
        "a/pan.png": scaled(DEEP[..., :1], 200, 3000),
        "b/planar.tif": pixels(40, 56, 3),
    }.items():
        np.testing.assert_array_equal(decode_chip(found[0][name][0]), expected, name)
        grey = np.asarray(Image.fromarray(expected.squeeze()).convert("L"))
        np.testing.assert_array_equal(decode(found[0][name][0], grey=True)[0], grey)
    assert found[0]["b/plain.jpg"][0] == encode(scene(), "JPEG")  # 8 bits are left alone
    assert found[0]["broken.tif"][1][0] == "corrupt"
    with pytest.raises(Reject, match="misnamed"):
        decode(found[0]["b/wrong.png"][0], "b/wrong.png", grey=True)


def test_without_a_statement_the_reason_names_it(files):
    said = {"a/deep.tif": "?scale=", "a/pan.png": "?scale=", "b/planar.tif": "?bands=rgb"}
    for name, option in said.items():
        with pytest.raises(Reject) as caught:
            decode_rgb(files[name], name)
        assert option in caught.value.detail, name


def test_jpeg_2000_is_read_as_deep_as_it_is(tmp_path):
    (tmp_path / "a.jp2").write_bytes(tiff(DEEP, driver="JP2OpenJPEG", quality=100, reversible=True))
    (tmp_path / "b.jp2").write_bytes(encode(scene(), "JPEG2000"))
    deep, shallow = samples(open_corpus(f"{tmp_path}?bands=rgb&scale=200,3000"))
    np.testing.assert_array_equal(decode_chip(deep.data), scaled(DEEP, 200, 3000))
    np.testing.assert_array_equal(decode_chip(shallow.data), np.asarray(scene()))
    deep, shallow = samples(open_corpus(tmp_path))
    np.testing.assert_array_equal(decode_rgb(shallow.data, "b.jp2"), np.asarray(scene()))
    with pytest.raises(Reject, match=r"16-bit: uint16 bands.*state SPEC\?scale=MIN,MAX"):
        decode_rgb(deep.data, "a.jp2")


def test_percentiles_are_of_the_corpus_the_same_each_time_and_recorded(tmp_path, capsys):
    values = [RNG.integers(100 * i, 100 * i + 3000, (40, 40, 3), dtype=np.uint16) for i in range(9)]
    for i, found in enumerate(values):
        path = tmp_path / "c" / f"{i}.tif"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(tiff(found, photometric="rgb"))
    (tmp_path / "c" / "rgb.jpg").write_bytes(encode(scene(), "JPEG"))
    spec = f"{tmp_path}/c?scale=p2,p98"
    used = np.concatenate([found[::2, ::2].ravel() for found in values])
    low, high = (float(f"{v:.6g}") for v in np.percentile(used, (2, 98)))
    corpus = open_corpus(spec)
    assert corpus.facts() == {"scale": [low, high]}
    for i, found in enumerate(values):
        got = next(s for s in samples(corpus) if s.key == f"{i}.tif")
        np.testing.assert_array_equal(decode_chip(got.data), scaled(found, low, high))
    assert score(["--corpus", spec, "--out", str(tmp_path / "s")]) == 0
    shown = capsys.readouterr().out
    assert f"9 images are scaled: {low:.12g} to 0, {high:.12g} to 255 (?scale=" in shown
    assert score(["--corpus", f"{tmp_path}/c/0.tif?chip=40&scale=7,9", "--out",
                  str(tmp_path / "one")]) == 0  # fmt: skip
    (tmp_path / "eight").mkdir()
    (tmp_path / "eight" / "rgb.jpg").write_bytes(encode(scene(), "JPEG"))
    assert score(["--corpus", f"{tmp_path}/eight?scale=7,9", "--out", str(tmp_path / "e")]) == 0
    shown = capsys.readouterr().out
    assert "1 images are scaled: 7 to 0, 9 to 255" in shown
    assert "no image was scaled by ?scale=7,9, which leaves 8-bit values alone" in shown
    assert read_manifest(tmp_path / "s")["summary"]["read"] == {"scale": [low, high]}
    # As numbers it is the same corpus; other files, or other numbers, are another one.
    stated = open_corpus(f"{tmp_path}/c?scale={low!r},{high!r}")
    assert stated.fingerprint() == corpus.fingerprint() == open_corpus(spec).fingerprint()
    assert open_corpus(f"{tmp_path}/c?scale=0,{high!r}").fingerprint() != corpus.fingerprint()
    (tmp_path / "c" / "9.tif").write_bytes(tiff(values[0] + np.uint16(20000), photometric="rgb"))
    assert open_corpus(spec).facts() != corpus.facts()
    chips = open_corpus(f"{tmp_path}/c/?.tif?chip=40&scale=p2,p98")
    assert chips.facts() == open_corpus(spec).facts()
    with pytest.raises(UserError, match="without --extend"):
        score(["--corpus", spec, "--out", str(tmp_path / "t"), "--extend", str(tmp_path / "s")])


def test_percentiles_of_nothing_and_of_one_value(tmp_path, monkeypatch):
    path = tmp_path / "c" / "a.tif"
    path.parent.mkdir()
    path.write_bytes(tiff(pixels(20, 20, 3)))
    for spec in (f"{tmp_path}/c?scale=p2,p98", f"{path}?chip=16&scale=p2,p98"):
        with pytest.raises(UserError, match="no file that was looked at has values to scale"):
            open_corpus(spec).fingerprint()
    path.write_bytes(tiff(np.full((20, 20, 1), 700, np.uint16)))
    with pytest.raises(UserError, match="percentiles 2 and 98 are both 700"):
        open_corpus(f"{tmp_path}/c?scale=p2,p98").fingerprint()
    assert scale.evenly(5) == [0, 1, 2, 3, 4] and scale.evenly(100, 4) == [0, 33, 66, 99]


@pytest.mark.parametrize(
    ("kind", "name", "mode", "more"),
    [
        ("JPEG", "a.jpg", "RGB", {}),
        ("JPEG", "a.jpeg", "L", {}),
        ("JPEG", "p.jpg", "RGB", {"progressive": True, "quality": 60}),
        ("PNG", "a.png", "RGB", {}),
        ("PNG", "g.png", "L", {}),
        ("PNG", "p.png", "P", {}),
        ("PNG", "1.png", "1", {}),
        ("PNG", "rgba.png", "RGBA", {}),
        ("BMP", "a.bmp", "RGB", {}),
        ("GIF", "a.gif", "P", {}),
        ("WEBP", "a.webp", "RGB", {}),
        ("TIFF", "a.tif", "RGB", {}),
        ("JPEG2000", "a.jp2", "RGB", {}),
    ],
)
def test_any_image_is_cut_into_what_a_crop_of_it_is(tmp_path, kind, name, mode, more):
    data = encode(scene(width=100, height=70).convert(mode), kind, **more)
    (tmp_path / name).write_bytes(data)
    whole = decode_rgb(data, name)
    found = samples(open_corpus(f"{tmp_path}?chip=32&nodata=1"))
    assert [s.key for s in found[:2]] == [f"{name}#0,0,32x32", f"{name}#32,0,32x32"]
    assert [s.error and s.error[0] for s in found].count(None) == 6 and len(found) == 12
    for sample in found:
        if sample.data is not None:
            x, y, width, height = sample.more["window"]
            np.testing.assert_array_equal(
                decode_rgb(sample.data), whole[y : y + height, x : x + width]
            )
    corpus = open_corpus(f"{tmp_path}?chip=32&nodata=1")
    whole_chips = [s for s in found if s.data is not None][::-1]
    again = corpus.fetch([(s.key, s.shard, s.row) for s in whole_chips])
    assert [s.data for s in again] == [s.data for s in whole_chips]
    assert [s.key for s in samples(open_corpus(f"{tmp_path}/*?chip=32"))] == [s.key for s in found]


def test_images_that_cannot_be_cut_are_one_row_each(tmp_path):
    frames = {"save_all": True, "append_images": [scene(1)]}
    jpeg = encode(scene(width=64, height=64), "JPEG")
    for name, data in {
        "animated.gif": encode(scene(), "GIF", **frames),
        "animated.webp": encode(scene(), "WEBP", **frames),
        "cmyk.jpg": encode(scene().convert("CMYK"), "JPEG"),
        "cut.jpg": jpeg[:-300],
        "empty.png": b"",
        "misnamed.png": jpeg,
        "pages.tif": encode(scene(), "TIFF", **frames),
        "small.png": encode(scene(), "PNG"),
    }.items():
        (tmp_path / name).write_bytes(data)
    (tmp_path / "notes.txt").write_text("x")
    (tmp_path / "small.pgw").write_text("x")
    corpus = open_corpus(f"{tmp_path}?chip=64")
    found = {s.key: s.error for s in samples(corpus)}
    assert [error[0] for error in found.values()] == [
        "animated",
        "animated",
        "cmyk",
        "corrupt",
        "empty",
        "misnamed",
        "animated",
        "partial-chip",
    ]
    assert "48 x 40 pixels: give ?chip=40 or less" in found["small.png#0,0,48x40"][1]
    assert corpus.facts() == {"left_out": {".txt": 1, ".pgw": 1}}


def test_transparent_pixels_of_a_png_have_no_data(tmp_path):
    picture = scene(width=64, height=32).convert("RGBA")
    alpha = np.full((32, 64), 255, np.uint8)
    alpha[:, :10] = 0
    picture.putalpha(Image.fromarray(alpha))
    (tmp_path / "a.png").write_bytes(encode(picture, "PNG"))
    errors = [s.error and s.error[0] for s in samples(open_corpus(f"{tmp_path}?chip=32"))]
    assert errors == ["nodata", None]


def test_deep_rasters_are_cut_with_a_stated_scale(tmp_path):
    values = RNG.integers(0, 5000, (64, 64, 5), dtype=np.uint16)
    path = write_raster(tmp_path / "s2.tif", values, colours=None)
    (first, *_) = samples(open_corpus(f"{path}?chip=32&bands=xbgrn&scale=0,4000"))
    np.testing.assert_array_equal(
        decode_chip(first.data), scaled(values[:32, :32, [3, 2, 1, 4]], 0, 4000)
    )
    assert first.data == encode_chip(scaled(values[:32, :32, [3, 2, 1, 4]], 0, 4000))
    refused = samples(open_corpus(f"{path}?chip=32&bands=xbgrn"))
    assert [s.error[0] for s in refused] == ["16-bit"] and "?scale=p2,p98" in refused[0].error[1]


def test_a_scene_from_corpus_to_table(tmp_path):
    (tmp_path / "c").mkdir()
    buffer = io.BytesIO()
    scene(width=200, height=100).save(buffer, "PNG")
    (tmp_path / "c" / "city.png").write_bytes(buffer.getvalue())
    (tmp_path / "c" / "city.png.aux.xml").write_text("<x/>")
    assert score(["--corpus", f"{tmp_path}/c?chip=50", "--out", str(tmp_path / "s")]) == 0
    table = read_parts(tmp_path / "s")
    assert table["status"].to_pylist() == ["ok"] * 8
    assert table["key"][7].as_py() == "city.png#150,50,50x50"


def test_faults_that_came_from_real_files(shared_data):
    faults = shared_data / "faults"
    planar = samples(open_corpus(faults / "tiff_planar_minisblack"))
    for sample in planar:
        with pytest.raises(Reject, match="band-order: nothing says that its"):
            decode(sample.data, grey=True)
    stated = samples(open_corpus(f"{faults}/tiff_planar_minisblack?bands=rgb"))
    for sample in stated:
        with rasterio.open(faults / "tiff_planar_minisblack" / sample.key) as file:
            expected = file.read([1, 2, 3]).transpose(1, 2, 0)
        np.testing.assert_array_equal(decode_rgb(sample.data), expected)
    for path in sorted((faults / "mask_tiff").glob("*.tif")):
        with rasterio.open(path) as file:
            expected = file.read([1, 2, 3]).transpose(1, 2, 0)
        np.testing.assert_array_equal(decode_rgb(path.read_bytes(), path.name), expected)
    for options in ("", "?bands=rgbn"):
        found = samples(open_corpus(f"{faults}/alpha_chips{options}"))
        assert [s.error for s in found] == [None] and "taken as near infrared" in found[0].note
    trap = shared_data / "traps" / "rgba_fourth_band_is_alpha.tif"
    for options in ("", "?bands=rgbn"):
        (refused,) = samples(open_corpus(f"{trap}{options}"))
        assert refused.error[0] == "alpha-band"


@pytest.mark.parametrize("bands", [1, 3])
def test_chips_are_exported_in_a_form_that_others_open(bands):
    values = pixels(9, 7, bands)
    data = chip_to_file(encode_chip(values))
    with Image.open(io.BytesIO(data)) as image:
        assert image.format == "PNG"
        np.testing.assert_array_equal(np.asarray(image).reshape(values.shape), values)
