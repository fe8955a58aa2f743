"""What is exported loads in the libraries that it is for, at and around every internal boundary."""

from __future__ import annotations

import hashlib
import io
import json
import os
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from data.corpus.specs import open_corpus
from data.formats.index import read_index, write_index
from data.images.chips import decode_chip
from prune.index import main as index
from tests.data.rasters import NAME, pixels, write_raster

# A row group of exported Parquet has 256 rows, a file 1,000 unless --shard-rows says otherwise.
SIZES = (1, 255, 256, 257, 1000, 1001)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """1,001 small images, of two formats, under names with dots in nested folders."""
    folder = tmp_path_factory.mktemp("peers") / "corpus"
    for n in range(max(SIZES)):
        kind = ("png", "jpg")[n % 2]
        path = folder / f"{n // 300}.x" / f"tile.{n:04}.{kind}"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (4, 4), (n % 256, n // 256, 7)).save(path)
    return folder


def make_index(spec: Path | str, count: int, out: Path) -> tuple[Path, dict[str, bytes]]:
    """A subset of the first images of a corpus, and their bytes by key."""
    source = open_corpus(spec)
    samples = [sample for shard in source.shards() for sample in source.read(shard)]
    samples = [sample for sample in samples if sample.data is not None][:count]
    columns: dict[str, Any] = {
        "key": [s.key for s in samples],
        "shard": [s.shard for s in samples],
        "row": [s.row for s in samples],
        "digest": [hashlib.sha256(s.data or b"").hexdigest() for s in samples],
        "entropy": np.linspace(0, 8, count),
        "cluster": np.full(count, -1),
        "similarity": pa.nulls(count, pa.float32()),
        "rank": np.arange(count),
        "chosen": ["random"] * count,
    }
    about = {"method": "random", "params": {}, "inputs": {}, "encoder": None, "code": "c"}
    write_index(out, pa.table(columns), {**about, "counts": {"N": count, "B": count}})
    return out, {s.key: s.data or b"" for s in samples}


def export(made: Path, form: str, out: Path, *flags: str) -> Path:
    assert index(["export", str(made), "--to", form, "--out", str(out), *flags]) == 0
    return out


@pytest.mark.parametrize("count", SIZES)
def test_parquet_loads_in_datasets(corpus: Path, tmp_path: Path, count: int) -> None:
    datasets = pytest.importorskip("datasets", reason="datasets is not installed")
    made, source = make_index(corpus, count, tmp_path / "s.parquet")
    out = export(made, "parquet", tmp_path / "out", "--corpus", str(corpus))
    files = f"{out}/*.parquet"
    loaded = datasets.load_dataset(
        "parquet", data_files=files, split="train", cache_dir=str(tmp_path / "cache")
    )
    assert isinstance(loaded.features["image"], datasets.Image)
    assert loaded[count - 1]["image"].size == (4, 4)  # decoded by Pillow
    raw = loaded.cast_column("image", datasets.Image(decode=False))
    assert {row["key"]: row["image"]["bytes"] for row in raw} == source
    assert raw["digest"][:] == read_index(made)[0]["digest"].to_pylist()


@pytest.mark.parametrize("count", SIZES)
def test_tars_load_in_webdataset(corpus: Path, tmp_path: Path, count: int) -> None:
    wds = pytest.importorskip("webdataset", reason="webdataset is not installed")
    made, source = make_index(corpus, count, tmp_path / "s.parquet")
    out = export(made, "webdataset", tmp_path / "out", "--corpus", str(corpus))
    tars = sorted(str(path) for path in out.glob("*.tar"))
    assert len(tars) == -(-count // 1000)
    found = {}
    for sample in wds.WebDataset(tars, shardshuffle=False):
        about = json.loads(sample["json"])
        found[about["key"]] = sample.get("png") or sample["jpg"]
    assert found == source


@pytest.mark.parametrize("count", SIZES)
def test_croissant_loads_in_mlcroissant(corpus: Path, tmp_path: Path, count: int) -> None:
    croissant = pytest.importorskip("mlcroissant", reason="mlcroissant is not installed")
    made, source = make_index(corpus, count, tmp_path / "subsets.parquet")
    out = export(made, "croissant", tmp_path / "described" / "subset.json")  # not beside it
    loaded = croissant.Dataset(jsonld=os.fspath(out))
    rows = list(loaded.records("images"))
    assert len(rows) == count
    texts = {row["images/key"].decode(): row["images/digest"].decode() for row in rows}
    assert texts == {key: hashlib.sha256(data).hexdigest() for key, data in source.items()}


def test_chips_of_four_bands_are_exported_as_what_others_can_open(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets", reason="datasets is not installed")
    from rasterio.enums import ColorInterp
    from rasterio.io import MemoryFile

    write_raster(tmp_path / "naip" / NAME, pixels(64, 96))
    spec = f"usa1m:{tmp_path / 'naip'}?chip=32"
    made, source = make_index(spec, 6, tmp_path / "s.parquet")
    out = export(made, "parquet", tmp_path / "out", "--corpus", spec)
    loaded = datasets.load_dataset("parquet", data_files=f"{out}/*.parquet", split="train",
                                   cache_dir=str(tmp_path / "cache"))  # fmt: skip
    for row in loaded.cast_column("image", datasets.Image(decode=False)):
        data, expected = row["image"]["bytes"], decode_chip(source[row["key"]])
        with MemoryFile(data) as memory, memory.open() as raster:
            assert np.array_equal(raster.read(), expected.transpose(2, 0, 1))
            x, y = map(int, row["key"].split("#")[1].split(",")[:2])
            assert raster.crs.to_epsg() == 26914
            assert raster.bounds.left == 485_900 + x and raster.bounds.top == 5_209_200 - y
            assert raster.descriptions == ("red", "green", "blue", "near infrared")
            assert raster.colorinterp[3] != ColorInterp.alpha
        with Image.open(io.BytesIO(data)) as opened:
            assert np.array_equal(np.asarray(opened.convert("RGB")), expected[:, :, :3])
    assert loaded[0]["image"].size == (32, 32)


@pytest.mark.parametrize("bands", [1, 3])
def test_chips_of_scenes_are_exported_as_png(tmp_path: Path, bands: int) -> None:
    scene = pixels(64, 96, bands)
    (tmp_path / "scenes").mkdir()
    Image.fromarray(scene[..., 0] if bands == 1 else scene).save(tmp_path / "scenes" / "a.png")
    spec = f"{tmp_path / 'scenes'}?chip=32"
    made, source = make_index(spec, 6, tmp_path / "s.parquet")
    out = export(made, "webdataset", tmp_path / "out", "--corpus", spec)
    with tarfile.open(next(out.glob("*.tar"))) as tar:
        members = {m.name: tar.extractfile(m).read() for m in tar}  # type: ignore[union-attr]
    images = {name: data for name, data in members.items() if name.endswith(".png")}
    assert len(images) == 6 and len(members) == 12
    for name, data in images.items():
        key = json.loads(members[name.replace(".png", ".json")])["key"]
        with Image.open(io.BytesIO(data)) as opened:
            found = np.asarray(opened).reshape(32, 32, bands)
        assert np.array_equal(found, decode_chip(source[key]))
