"""Images of four bands: judged in two composites, and a VAE's reconstructions of them."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from core.errors import UserError
from core.stage import Stage
from data.corpus.specs import open_corpus
from data.formats.index import write_index
from data.images.chips import chip_to_file, decode_chip, encode_chip
from dit.vae.autoencoder import load_vae, to_unit
from dit.vae.pictures import image_files, write_image
from eval import evaluate, reconstruction
from eval.distances.frechet import fit, frechet_distance
from eval.judges.extractors import load_extractor
from tests.dit.tiny_vae import save_tiny_vae

SIDE, N = 32, 8


def pixels(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (SIDE, SIDE, 4), np.uint8)


@pytest.fixture
def made(tmp_path: Path) -> tuple[list[str], np.ndarray]:
    """Flags of a corpus of four-band chips, all held out; and its images."""
    (tmp_path / "naip").mkdir()
    for n in range(N):
        (tmp_path / "naip" / f"{n}.tif").write_bytes(chip_to_file(encode_chip(pixels(n))))
    spec = f"{tmp_path}/naip?chip={SIDE}"
    corpus = open_corpus(spec)
    found = [sample for shard in corpus.shards() for sample in corpus.read(shard)]
    rows = pa.table({
        "key": [s.key for s in found], "shard": [s.shard for s in found],
        "row": [s.row for s in found],
        "digest": [hashlib.sha256(s.data).hexdigest() for s in found], "pool": [True] * N,
    })  # fmt: skip
    pq.write_table(rows, tmp_path / "holdout.parquet")
    images = np.stack([decode_chip(sample.data) for sample in found])
    flags = ["--corpus", spec, "--holdout", str(tmp_path / "holdout.parquet")]
    flags += ["--image-size", str(SIDE), "--extractor", "descriptor", "--device", "cpu"]
    return flags, images


def samples(folder: Path, bands: int = 4) -> tuple[Path, np.ndarray]:
    stage = Stage(folder, "test.samples", {"sampler": "ddim"}, {})
    stage.open()
    drawn = np.stack([pixels(100 + n)[..., :bands] for n in range(N)])
    for n, image in enumerate(drawn):
        write_image(folder, f"{n:06d}", image)
    stage.finish({}, [f for n in range(N) for f in image_files(f"{n:06d}", bands)], "")
    return folder, drawn


def test_holdouts_in_both_composites_with_the_vaes_floor(tmp_path: Path, made) -> None:
    flags, images = made
    folder, drawn = samples(tmp_path / "samples")
    vae, out = save_tiny_vae(tmp_path / "vae", in_channels=4), tmp_path / "m.json"
    given = ["--generated", str(folder), "--vae", str(vae), "--out", str(out)]
    assert evaluate.main([*flags, *given]) == 0
    found, extractor = json.loads(out.read_text()), load_extractor("descriptor")
    for entry, bands in ((found, [0, 1, 2]), (found["infrared"], [3, 0, 1])):
        sides = [np.ascontiguousarray(side[..., bands]) for side in (drawn, images)]
        expected = frechet_distance(*(fit(extractor(side)) for side in sides))
        pool = entry["holdouts"]["pool"]
        assert pool["distance"]["value"] == pytest.approx(expected, rel=1e-4)
        assert pool["vae_floor"]["value"] > 0 and "distance" in pool["after_vae"]
    three, _ = samples(tmp_path / "three", 3)
    with pytest.raises(UserError, match=r"images of three bands.*bands=rgb"):
        evaluate.main([*flags, "--generated", str(three), "--out", str(tmp_path / "3.json")])


def test_floors_are_of_the_composite_that_they_stand_beside(tmp_path: Path, made) -> None:
    """Four images held out, four trained on; the floors by hand in both composites."""
    flags, images = made
    rows = pq.read_table(tmp_path / "holdout.parquet")
    pq.write_table(rows.slice(0, 4), tmp_path / "holdout.parquet")
    index = rows.slice(4).drop_columns(["pool"])
    more = {"entropy": [5.0] * 4, "cluster": [-1] * 4, "similarity": [None] * 4}
    for name, values in {**more, "rank": [0, 1, 2, 3], "chosen": ["random"] * 4}.items():
        index = index.append_column(name, pa.array(values))
    subset, out = tmp_path / "subset.parquet", tmp_path / "m.json"
    stage = Stage(subset, "prune.select", {}, {})
    stage.open()
    parts = ("method", "params", "inputs", "code", "counts")
    write_index(subset, index, {"encoder": None, **{name: {} for name in parts}})
    stage.finish({}, [subset.name], "")
    folder, _ = samples(tmp_path / "samples")
    vae = save_tiny_vae(tmp_path / "vae", in_channels=4)
    given = ["--generated", str(folder), "--vae", str(vae), "--subset", str(subset)]
    assert evaluate.main([*flags, *given, "--out", str(out)]) == 0
    found, extractor = json.loads(out.read_text()), load_extractor("descriptor")
    loaded = load_vae(str(vae), "cpu")
    mean, _ = loaded.encode(to_unit(images))
    rebuilt, (held, trained) = loaded.decode(mean * loaded.scale), (slice(0, 4), slice(4, 8))
    for entry, bands in ((found, [0, 1, 2]), (found["infrared"], [3, 0, 1])):

        def distance(one: np.ndarray, other: np.ndarray, bands: list[int] = bands) -> float:
            sides = [np.ascontiguousarray(side[..., bands]) for side in (one, other)]
            return pytest.approx(frechet_distance(*(fit(extractor(s)) for s in sides)), rel=1e-4)

        pool = entry["holdouts"]["pool"]
        assert pool["vae_floor"]["value"] == distance(rebuilt[held], images[held])
        assert pool["subset_floor"]["value"] == distance(images[trained], images[held])
        after = pool["after_vae"]["subset_floor"]["value"]
        assert after == distance(rebuilt[trained], rebuilt[held])


def test_reconstruction_of_each_band(tmp_path: Path, made) -> None:
    flags, images = made
    vae, out = save_tiny_vae(tmp_path / "vae", in_channels=4), tmp_path / "r.json"
    assert reconstruction.main([*flags, "--vae", str(vae), "--out", str(out)]) == 0
    pool = json.loads(out.read_text())["holdouts"]["pool"]
    assert len(pool["quality"]["psnr_band"]) == 4 and pool["quality"]["images"] == N
    assert set(pool["quality"]["infrared"]["red_correlation"]) == {"images", "rebuilt"}
    loaded, extractor = load_vae(str(vae), "cpu"), load_extractor("descriptor")
    rebuilt = loaded.decode(loaded.encode(to_unit(images))[0] * loaded.scale)
    for name, bands in (("rgb", [0, 1, 2]), ("infrared", [3, 0, 1])):
        sides = [np.ascontiguousarray(side[..., bands]) for side in (rebuilt, images)]
        expected = frechet_distance(*(fit(extractor(side)) for side in sides))
        assert pool[name]["distance"]["value"] == pytest.approx(expected, rel=1e-4)
    assert Image.open(out.with_suffix(".png")).size == (N * 2 * SIDE, 2 * SIDE)
    rgb = save_tiny_vae(tmp_path / "rgb")
    with pytest.raises(UserError, match=r"takes 3 bands.*have 4"):
        reconstruction.main([*flags, "--vae", str(rgb), "--out", str(tmp_path / "x.json")])
