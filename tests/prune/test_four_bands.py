"""Four bands in Stage I and in embeddings: the mean over bands, and colour infrared."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from core.errors import UserError
from core.stage import read_manifest
from data.corpus.specs import open_corpus
from data.formats.embeddings import Embeddings
from data.formats.tables import read_parts
from data.images.chips import decode_chip
from prune.embed import main as embed
from prune.encoders.base import open_encoder
from prune.score import main as score
from tests.data.rasters import NAME, pixels, write_raster


def plain(band: np.ndarray) -> float:
    p = np.bincount(band.ravel(), minlength=256) / band.size
    return float(-(p[p > 0] * np.log2(p[p > 0])).sum())


@pytest.fixture
def naip(tmp_path):
    """Chips whose colours are flat, and whose near infrared has more levels from chip to chip."""
    data = np.full((32, 128, 4), 90, np.uint8)
    for n in range(4):
        data[:, n * 32 : n * 32 + 32, 3] = pixels(32, 32, 1, n)[..., 0] % (2 ** (2 * n)) + 1
        data[:, n * 32 : n * 32 + 16, 0] = 100 + n
    write_raster(tmp_path / "naip" / NAME, data)
    return f"usa1m:{tmp_path}/naip?chip=32"


def scored(corpus, out, *flags):
    assert score(["--corpus", str(corpus), "--out", str(out), "--workers=1", *flags]) == 0
    return read_parts(out)


def test_the_mean_over_bands_is_that_of_each_bands_histogram(naip, tmp_path):
    table = scored(naip, tmp_path / "s", "--entropy=bands")
    grey = scored(naip, tmp_path / "grey")["entropy"].to_pylist()
    corpus = open_corpus(naip)
    for row, sample in zip(table.to_pylist(), corpus.read(corpus.shards()[0]), strict=True):
        chip = decode_chip(sample.data)
        expected = np.mean([plain(chip[..., band]) for band in range(4)])
        assert row["entropy"] == pytest.approx(expected, abs=1e-9)
    found = table["entropy"].to_pylist()
    assert found == sorted(found) and found[-1] - found[0] > 1  # near infrared is seen
    assert max(grey) - min(grey) < 0.1  # which luma cannot


def test_the_mean_over_bands_of_colours_and_of_grey(tmp_path):
    (tmp_path / "c").mkdir()
    three = pixels(32, 40, 3)
    three[..., 1] //= 4
    three[..., 2] = 7
    Image.fromarray(three).save(tmp_path / "c" / "a.png")
    Image.fromarray(three[..., 1]).save(tmp_path / "c" / "b.png")
    found = scored(tmp_path / "c", tmp_path / "s", "--entropy=bands")["entropy"].to_pylist()
    each = [plain(three[..., band]) for band in range(3)]
    assert found == pytest.approx([np.mean(each), each[1]], abs=1e-9)


def test_colour_infrared_is_what_the_encoder_sees(naip, tmp_path, capsys):
    scored(naip, tmp_path / "s")
    flags = ["--corpus", naip, "--scores", str(tmp_path / "s"), "--keep", "1", "--workers=1"]
    assert embed([*flags, "--out", str(tmp_path / "rgb")]) == 0
    assert embed([*flags, "--out", str(tmp_path / "cir"), "--composite", "infrared"]) == 0
    assert "note: colour infrared" in capsys.readouterr().out
    assert "composite" not in read_manifest(tmp_path / "rgb")["params"]
    assert read_manifest(tmp_path / "cir")["params"]["composite"] == "infrared"
    encoder = open_encoder("descriptor")
    encoder.load("cpu", "fp32")
    corpus = open_corpus(naip)
    chips = [decode_chip(s.data) for s in corpus.read(corpus.shards()[0])]
    for name, places in (("rgb", [0, 1, 2]), ("cir", [3, 0, 1])):
        prepared = [encoder.prepare(np.ascontiguousarray(chip[..., places])) for chip in chips]
        found = Embeddings(tmp_path / name).matrix()
        assert np.allclose(found, encoder.finish(prepared), atol=1e-3)
    assert not np.allclose(Embeddings(tmp_path / "rgb").matrix(),
                           Embeddings(tmp_path / "cir").matrix(), atol=1e-2)  # fmt: skip


def test_images_without_near_infrared_have_no_colour_infrared(tmp_path):
    (tmp_path / "c").mkdir()
    Image.fromarray(pixels(32, 32, 3)).save(tmp_path / "c" / "a.png")
    scored(tmp_path / "c", tmp_path / "s")
    flags = ["--corpus", str(tmp_path / "c"), "--scores", str(tmp_path / "s"), "--keep", "1",
             "--workers=1", "--composite=infrared"]  # fmt: skip
    with pytest.raises(UserError, match=r"a\.png: --composite infrared needs chips with near inf"):
        embed([*flags, "--out", str(tmp_path / "e")])
    with pytest.raises(UserError, match="reference sets have true colours"):
        embed(["--reference", str(tmp_path / "c"), "--out", str(tmp_path / "r"),
               "--composite=infrared"])  # fmt: skip
