"""The miniature world: determinism, formats, truth, faults, resuming."""

from __future__ import annotations

import hashlib
import io
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import rasterio
from PIL import Image

from core.errors import UserError
from core.stage import read_manifest
from data.corpus.specs import open_corpus
from data.images.chips import decode_chip
from data.images.decode import Reject, decode_grey, decode_rgb
from world.build import main, run
from world.paint.scenes import CROP, GRASS, LAND_COVER, SCENES, TREE, WATER
from world.paint.tiles import render
from world.plan.config import WorldConfig
from world.plan.corpus import plan_corpus
from world.plan.faults import BROKEN
from world.plan.sets import ABSENT, plan_sets
from world.write.draw import corpus_files
from world.write.naip import write_quad

ROOT = Path(__file__).parents[2]
SMALL = [
    "--tiles=120", "--size=32", "--broken=1", "--reference-per-class=1",
    "--sr-images=3", "--sis-pairs=6", "--pair-size=48",
]  # fmt: skip


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("world") / "w"
    assert main(["--out", str(out), *SMALL, "--workers=1"]) == 0
    return out


def truth(out: Path) -> list[dict]:
    return pq.read_table(out / "truth.parquet").to_pylist()


def entropy(grey: np.ndarray) -> float:
    fractions = np.bincount(grey.ravel(), minlength=256) / grey.size
    fractions = fractions[fractions > 0]
    return float(-(fractions * np.log2(fractions)).sum())


def listing(out: Path) -> bytes:
    return (out / "listing.parquet").read_bytes()


def test_fractions_sum_to_one_and_scenes_of_low_information_dominate() -> None:
    assert sum(scene.fraction for scene in SCENES.values()) == pytest.approx(1.0)
    assert sum(scene.fraction for scene in SCENES.values() if scene.low_information) > 0.5
    assert len(SCENES) >= 12


@pytest.mark.parametrize("scene", SCENES)
def test_tile_is_a_pure_function(scene: str) -> None:
    first, again = render(scene, 5, 9, 32), render(scene, 5, 9, 32)
    for a, b in ((first.rgb, again.rgb), (first.nir, again.nir), (first.mask, again.mask)):
        assert a.dtype == np.uint8 and np.array_equal(a, b)
    assert first.rgb.shape == (32, 32, 3) and first.nir.shape == first.mask.shape == (32, 32)
    assert first.mask.max() < len(LAND_COVER)
    for other in (render(scene, 5, 10, 32), render(scene, 6, 9, 32)):
        assert not np.array_equal(first.rgb, other.rgb)
    assert not np.array_equal(first.rgb, render(scene, 5, 9, 32, stream="reference").rgb)


def test_render_refuses_what_it_cannot_draw() -> None:
    with pytest.raises(ValueError, match="unknown scene 'moon'"):
        render("moon", 0, 0, 64)
    with pytest.raises(ValueError, match="size 8"):
        render("sea", 0, 0, 8)


def test_near_infrared_tells_vegetation_from_water() -> None:
    index: dict[int, list[float]] = {}
    for scene in ("forest", "river", "coast", "suburb", "fields"):
        for number in range(4):
            tile = render(scene, 1, number, 64)
            red, nir = tile.rgb[..., 0].astype(float), tile.nir.astype(float)
            ndvi = (nir - red) / (nir + red + 1)
            for cover in (TREE, WATER, GRASS, CROP):
                if (tile.mask == cover).sum() > 40:
                    index.setdefault(cover, []).append(float(ndvi[tile.mask == cover].mean()))
    assert len(index[TREE]) >= 10 and len(index[WATER]) >= 5
    assert max(index[WATER]) < 0 < min(index[TREE])
    assert np.mean(index[TREE]) > np.mean(index[CROP]) > np.mean(index[WATER])


def test_second_epoch_is_the_same_place_changed() -> None:
    changed, kept = [], []
    for number in range(4):
        before, after = (render("industry", 2, number, 64, epoch=e).mask for e in (0, 1))
        changed.append(((before == 8) != (after == 8)).mean())
        kept.append((before == after).mean())
    assert 0.005 < np.mean(changed) < 0.4 and np.mean(kept) > 0.6
    assert np.mean(kept) > (before == render("industry", 2, 9, 64).mask).mean()


@pytest.mark.slow
def test_entropy_removes_the_tiles_of_low_information() -> None:
    """Top 30 % by grey-level entropy: nine in ten of those go, every other scene stays."""
    config = WorldConfig(out=Path("unused"), tiles=300, size=64, seed=3)
    rows = []
    for job in plan_corpus(config):
        try:
            grey = decode_grey(corpus_files(job, config)[0][1], job.key, min_side=16)
        except Reject:
            continue
        rows.append((entropy(grey), job.fault or job.scene))
    rows.sort(reverse=True)
    kept = Counter(kind for _, kind in rows[: round(0.3 * len(rows))])
    every = Counter(kind for _, kind in rows)
    low = [scene.name for scene in SCENES.values() if scene.low_information] + ["blank"]
    assert sum(every[kind] for kind in low) > 0.5 * len(rows)
    assert sum(kept[kind] for kind in low) <= 0.1 * sum(every[kind] for kind in low)
    for kind in ("forest", "fields", "mountain", "suburb", "city"):
        assert kept[kind] > 0, kind
    assert kept["forest"] < every["forest"]  # natural overlap: not every wood has contrast
    assert kept["noise"] == every["noise"] > 0  # the known weakness of histogram entropy


def test_same_bytes_for_any_number_of_workers(world: Path, tmp_path: Path) -> None:
    out = tmp_path / "two"
    assert main(["--out", str(out), *SMALL, "--workers=2"]) == 0
    assert listing(out) == listing(world)
    assert (out / "truth.parquet").read_bytes() == (world / "truth.parquet").read_bytes()


def test_listing_names_every_file_and_its_digest(world: Path) -> None:
    rows = pq.read_table(world / "listing.parquet").to_pylist()
    own = {"truth.parquet", "listing.parquet", "manifest.json"}
    found = {
        str(path.relative_to(world))
        for path in world.rglob("*")
        if path.is_file() and path.name not in own and not path.name.startswith(".")
    }
    assert {row["path"] for row in rows} == found
    for row in rows:
        data = (world / row["path"]).read_bytes()
        assert (row["bytes"], row["sha256"]) == (len(data), hashlib.sha256(data).hexdigest())


def test_corpus_reads_with_the_corpus_reader(world: Path) -> None:
    corpus = open_corpus(world / "corpus")
    samples = {s.key: s for shard in corpus.shards() for s in corpus.read(shard)}
    rows = {row["key"]: row for row in truth(world)}
    assert set(samples) == set(rows) and len(rows) == 120
    assert not any(name in key for key in rows for name in SCENES)
    for key, row in rows.items():
        broken = row["fault"].startswith("broken:")
        data = samples[key].data
        if broken and not data:
            continue
        try:
            pixels = decode_rgb(data, key, min_side=16)
        except Reject:
            assert broken, key
        else:
            assert not broken and pixels.shape == (32, 32, 3)


def test_every_kind_of_broken_file_is_there_and_broken(world: Path) -> None:
    reasons = {}
    for row in truth(world):
        if row["fault"].startswith("broken:"):
            data = (world / "corpus" / row["key"]).read_bytes()
            with pytest.raises(Reject) as caught:
                decode_rgb(data, row["key"], min_side=16)
            reasons[row["fault"].removeprefix("broken:")] = caught.value.reason
    assert reasons == {
        "empty": "empty", "truncated": "corrupt", "text": "not-an-image",
        "gif-named-jpg": "misnamed", "png-named-jpg": "misnamed", "animated-gif": "animated",
        "animated-png": "animated", "cmyk": "cmyk", "png16": "16-bit", "tiny": "too-small",
    }  # fmt: skip
    assert set(reasons) == set(BROKEN)


def test_duplicates_point_at_their_originals(world: Path) -> None:
    rows = {row["key"]: row for row in truth(world)}
    copies = [row for row in rows.values() if row["duplicate_of"]]
    assert {"exact", "jpeg", "shift", "brightness"} == {row["duplicate_kind"] for row in copies}
    for row in copies:
        original = rows[row["duplicate_of"]]
        assert original["scene"] == row["scene"] and not original["duplicate_of"]
        one, two = ((world / "corpus" / key).read_bytes() for key in (row["key"], original["key"]))
        if row["duplicate_kind"] == "exact":
            assert one == two
        else:
            a, b = (decode_grey(data).astype(float) for data in (one, two))
            assert one != two and np.abs(a - b).mean() < 60


def test_blank_and_lost_strips(world: Path) -> None:
    rows = truth(world)
    for row in rows:
        pixels = None
        if row["fault"] in ("blank", "nodata"):
            pixels = decode_rgb((world / "corpus" / row["key"]).read_bytes())
        if row["fault"] == "blank":
            assert pixels.std() == 0
        elif row["fault"] == "nodata":
            flat = (pixels < 12).all(axis=2) | (pixels > 243).all(axis=2)
            assert flat.mean() > 0.15
    faults = Counter(row["fault"] for row in rows)
    assert faults["blank"] == 4 and faults["nodata"] == 1 and faults["noise"] == 1


def test_truth_is_derivable_from_the_public_function(world: Path) -> None:
    lossless = [row for row in truth(world) if row["key"].endswith(".png") and row["scene"]]
    row = next(row for row in lossless if not row["fault"] and not row["duplicate_of"])
    pixels = np.asarray(Image.open(world / "corpus" / row["key"]))
    assert np.array_equal(pixels, render(row["scene"], 0, row["index"], 32).rgb)


def test_reference_sr_and_sis_layouts(world: Path) -> None:
    assert {p.name for p in (world / "reference").iterdir()} == set(SCENES)
    assert (world / "reference/harbour/harbour_001.jpg").is_file()
    for folder, count in (("sr", 2), ("sr/test", 1)):
        names = [sorted(p.name for p in (world / folder / i).iterdir()) for i in ("im1", "im2")]
        assert names[0] == names[1] and len(names[0]) == count
    root = world / "sis/OpenEarthMap_wo_xBD"
    seen = {}
    for split in ("train", "val", "test"):
        for name in (root / f"{split}.txt").read_text().split():
            image = root / name.rsplit("_", 1)[0] / "images" / name
            label = image.parent.parent / "labels" / name
            seen[name] = split
            if name in ABSENT:
                assert not image.exists()
                continue
            assert label.exists() == (split != "test")
            assert Image.open(image).size == (48, 48)
            if label.exists():
                mask = np.asarray(Image.open(label))
                assert mask.dtype == np.uint8 and mask.ndim == 2 and mask.max() <= 8
            assert Image.open(image).tag_v2[33550][0] == 0.5  # metres a pixel
    assert Counter(seen.values()) == {"train": 6, "val": 2, "test": 1}


def test_rasters_of_the_truth_on_request(tmp_path: Path) -> None:
    out = tmp_path / "w"
    flags = ["--tiles=30", "--size=32", "--broken=0", "--reference-per-class=0"]
    none = ["--sr-images=0", "--sis-pairs=0", "--write-truth-rasters", "--workers=1"]
    assert main(["--out", str(out), *flags, *none]) == 0
    row = next(r for r in truth(out) if r["scene"] == "sea" and not r["duplicate_of"])
    mask = np.asarray(Image.open(out / "truth" / f"{row['key']}.mask.png"))
    assert np.array_equal(mask, render("sea", 0, row["index"], 32).mask)
    assert (out / "truth" / f"{row['key']}.nir.png").is_file()


def test_four_bands_on_request(world: Path, tmp_path: Path) -> None:
    """All that is not broken, as NAIP comes; SR and SIS beside; nothing else changes."""
    out = tmp_path / "w"
    assert main(["--out", str(out), *SMALL, "--workers=2", "--infrared"]) == 0
    extra = ("naip/", "sr-rgbn/", "sis-rgbn/")
    rows = pq.read_table(out / "listing.parquet").to_pylist()
    plain = [row for row in rows if not row["path"].startswith(extra)]
    assert plain == pq.read_table(world / "listing.parquet").to_pylist()
    assert "infrared" not in read_manifest(world)["params"] and not (out / ".parts").exists()

    jobs = {row["key"]: row for row in truth(out)}
    chips = pq.read_table(out / "naip-truth.parquet").to_pylist()
    assert {row["tile"] for row in chips} == {
        key for key, row in jobs.items() if not row["fault"].startswith("broken:")
    }
    assert all(row["scene"] == jobs[row["tile"]]["scene"] for row in chips)
    corpus = open_corpus(f"usa1m:{out / 'naip'}?chip=32&nodata=1")
    samples = {s.key: s for shard in corpus.shards() for s in corpus.read(shard)}
    found = {}
    for row in chips:
        pixels = decode_chip(samples[row["key"]].data)
        colours = decode_rgb((out / "corpus" / row["tile"]).read_bytes())
        assert np.array_equal(pixels[..., :3], colours)
        found[row["tile"]] = pixels[..., 3]
        job = jobs[row["tile"]]
        if not job["fault"] and job["duplicate_kind"] in ("", "exact"):
            assert np.array_equal(pixels[..., 3], render(job["scene"], 0, job["index"], 32).nir)
        elif job["fault"] == "blank":
            assert (pixels == pixels[0, 0, 0]).all()
    alike = [
        np.corrcoef(found[key].ravel(), found[row["duplicate_of"]].ravel())[0, 1]
        for key, row in jobs.items() if row["duplicate_kind"] in ("jpeg", "brightness")
    ]  # fmt: skip
    assert alike and min(alike) > 0.5 and np.mean(alike) > 0.9
    assert len(list((out / "naip").glob("m_*.tif"))) == 5  # with strips at their edges:
    assert sum(s.error is not None and s.error[0] == "partial-chip" for s in samples.values()) > 5


def test_sets_of_four_bands_are_those_of_three_and_infrared(tmp_path: Path) -> None:
    out = tmp_path / "w"
    flags = ["--tiles=30", "--size=16", "--broken=0", "--reference-per-class=0", "--workers=1"]
    sets = ["--sr-images=3", "--sis-pairs=6", "--pair-size=32", "--infrared"]
    assert main(["--out", str(out), *flags, *sets]) == 0
    for kind in ("sr", "sis"):
        three, four = (
            {p.relative_to(out / folder).with_suffix(""): p
             for p in (out / folder).rglob("*") if p.is_file()}
            for folder in (kind, f"{kind}-rgbn")
        )  # fmt: skip
        assert three.keys() == four.keys() and len(three) >= 6
        for name, path in three.items():
            if path.suffix == ".txt" or "labels" in name.parts:
                assert four[name].read_bytes() == path.read_bytes()
                continue
            with rasterio.open(four[name]) as raster:
                assert raster.descriptions == ("red", "green", "blue", "near infrared")
                assert raster.crs.to_epsg() == 32632 and raster.res == (0.5, 0.5)
                pixels = raster.read().transpose(1, 2, 0)
            assert np.array_equal(pixels[..., :3], np.asarray(Image.open(path)))
            assert not np.array_equal(pixels[..., 3], pixels[..., 0])


def test_killed_run_continues_to_the_same_bytes(world: Path, tmp_path: Path) -> None:
    out = tmp_path / "killed"
    command = [sys.executable, "-m", "world.build", "--out", str(out), *SMALL, "--workers=1"]
    process = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.DEVNULL)
    while not list(out.glob(".parts/*.json")) and process.poll() is None:
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL and not (out / "manifest.json").exists()
    kept = {path: path.stat().st_mtime_ns for path in out.glob(".parts/*.json")}
    assert kept
    finished = [
        p for p in (out / "corpus").rglob("*.*") if p.stat().st_mtime_ns < min(kept.values())
    ]
    before = {path: path.stat().st_mtime_ns for path in finished}
    (out / "corpus" / "z15" / f"000001.jpg.tmp-{process.pid}").write_bytes(b"half")
    assert main(["--out", str(out), *SMALL, "--workers=1"]) == 0
    assert listing(out) == listing(world)
    assert {path: path.stat().st_mtime_ns for path in before} == before  # not drawn again
    assert not list(out.rglob("*.tmp-*")) and not (out / ".parts").exists()


def test_second_run_is_a_quick_no_op_and_other_settings_are_refused(
    world: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    code = (
        "import sys; from world.build import main; main(sys.argv[1:]);"
        "sys.exit(any(m in sys.modules for m in ('numpy', 'scipy', 'PIL', 'pyarrow', 'torch')))"
    )
    done = [sys.executable, "-c", code, "--out", str(world), *SMALL]
    assert subprocess.run(done, cwd=ROOT).returncode == 0
    assert "already done" in capfd.readouterr().out
    with pytest.raises(UserError, match="seed: 0 there, 1 now"):
        main(["--out", str(world), *SMALL, "--seed=1"])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"tiles": 0}, "--tiles 0"),
        ({"blank": 1.5}, "--blank 1.5"),
        ({"png": -0.1}, "--png -0.1"),
        ({"size": 8}, "--size 8"),
        ({"pair_size": 16}, "--pair-size 16"),
        ({"workers": 0}, "--workers 0"),
        ({"tiles": 20, "broken": 2}, "more than half"),
    ],
)
def test_impossible_worlds_are_refused(change: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        run(WorldConfig(out=Path("unused"), **change))


def test_plans_have_unique_paths() -> None:
    config = WorldConfig(out=Path("unused"))
    keys = [job.key for job in plan_corpus(config)]
    assert len(set(keys)) == len(keys) == 3000 and keys == sorted(keys)
    paths = [path for item in plan_sets(config) for path in item.paths]
    assert len(set(paths)) == len(paths)


def test_animations_have_several_frames(world: Path) -> None:
    frames = {}
    for row in truth(world):
        if row["fault"].startswith("broken:animated"):
            data = (world / "corpus" / row["key"]).read_bytes()
            frames[row["fault"].removeprefix("broken:")] = Image.open(io.BytesIO(data)).n_frames
    assert frames == {"animated-gif": 3, "animated-png": 3}


def test_the_truth_says_which_scenes_are_of_low_information(world: Path) -> None:
    low = {row["scene"] for row in truth(world) if row["low_information"]}
    other = {row["scene"] for row in truth(world) if not row["low_information"]}
    assert low == {"sea", "cloud", "desert"} and not low & other


def test_python_door(tmp_path: Path) -> None:
    config = WorldConfig(
        out=tmp_path / "w", tiles=30, size=16, broken=0, reference_per_class=0, sr_images=0,
        sis_pairs=0, workers=1,
    )  # fmt: skip
    made = run(config)
    assert made.summary["corpus"] == 30 and not made.reused
    again = run(config)
    assert again.reused and again.summary == made.summary


def test_rasters_are_written_to_relative_places(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    tiles = [np.full((16, 16, 4), 40 * i + 9, np.uint8) for i in range(3)]
    for out in (Path("naip"), Path("./a b/c"), Path("../" + tmp_path.name + "/d")):
        write_quad(out, 0, tiles)
        found = open_corpus(f"usa1m:{out}?chip=16&nodata=1")
        assert len(found) == 8 and found.root == out
