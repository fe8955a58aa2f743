"""SR and SIS from a DiT of four bands: the ways, what they read and write, and what is refused."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import rasterio
from PIL import Image

from core.errors import UserError
from core.stage import read_manifest
from data.images.chips import chip_to_file, encode_chip
from data.images.composites import composite
from data.pairs.listing import open_sr
from dit.training.checkpoint import latest, load_tensors, read_state, resolve, save_checkpoint
from dit.vae.autoencoder import describe_vae, load_vae, to_unit
from dit.vae.infrared import fit_infrared, read_infrared, write_infrared
from downstream import evaluate, train, train_segmenter
from downstream.tasks.bands import Chip, has_infrared, read_bands, vae_for, with_chips
from downstream.tasks.dataset import resized
from downstream.tasks.pictures import load_png
from tests.dit.tiny_vae import save_tiny_vae
from tests.downstream.conftest import evaluate_arguments, train_arguments

WAYS = ("native", "predicted", "filled", "split")


def save_four(path: Path, pixels: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(chip_to_file(encode_chip(pixels)))


@pytest.fixture(scope="module")
def four(world: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """As `world`, with a VAE of four bands; native/ has its sr/ and sis/ with near infrared."""
    root = tmp_path_factory.mktemp("four")
    shutil.copytree(world, root, dirs_exist_ok=True)
    shutil.rmtree(root / "vae")
    save_tiny_vae(root / "vae", gain=100.0, scaling_factor=1 / 15, in_channels=4)
    info = describe_vae(root / "vae")
    old = read_state(resolve(root / "pretrained"))
    state = {"model": old["model"], "latent": old["latent"]}
    state["latent"]["vae_fingerprint"] = info.fingerprint
    tensors = {name: load_tensors(resolve(root / "pretrained"), name) for name in ("model", "ema")}
    shutil.rmtree(root / "pretrained")
    save_checkpoint(root / "pretrained", 40, tensors, state)
    rng = np.random.default_rng(1)
    seen = []
    for path in sorted((root / "sr").rglob("*.png")) + sorted((root / "sis").rglob("*.*")):
        target = root / "native" / path.relative_to(root)
        if "masks" in path.parts:
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(path, target)
            continue
        rgb = load_png(path)
        infrared = 255 - rgb[..., :1] // 2 - rng.integers(0, 9, (*rgb.shape[:2], 1), np.uint8)
        seen.append(np.concatenate([rgb, infrared], axis=-1))
        save_four(target.with_suffix(".tif"), seen[-1])
    write_infrared(root / "vae", fit_infrared([np.stack(seen)]))
    return root


def arguments(four: Path, task: str, out: Path, way: str, *more: str) -> list[str]:
    given = [*train_arguments(four, task, out, "--bands", way, "--steps", "2"), *more]
    if way == "native":
        given[given.index("--data") + 1] = f"{four}/native/{task}"
    return given


@pytest.fixture(scope="module")
def runs(four: Path) -> dict[tuple[str, str], Path]:
    made = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("WANDB_MODE", "disabled")
        patch.setenv("ACCELERATE_USE_CPU", "1")
        for task, way in [*(("sr", way) for way in WAYS), ("sis", "native"), ("sis", "split")]:
            made[task, way] = four / f"run-{task}-{way}"
            assert train.main(arguments(four, task, made[task, way], way)) == 0
    return made


def drawn(
    four: Path, runs: dict[tuple[str, str], Path], task: str, way: str, out: Path, *more: str
) -> Path:
    given = evaluate_arguments(four, runs[task, way], task, out, *more)
    if way == "native":
        given[given.index("--data") + 1] = f"{four}/native/{task}"
    assert evaluate.main(given) == 0
    return out


@pytest.mark.parametrize(("task", "way"), [("sr", w) for w in WAYS] + [("sis", "native")])
def test_a_way_from_training_to_pictures(
    four: Path, runs: dict[tuple[str, str], Path], tmp_path: Path, task: str, way: str, capsys
) -> None:
    state = read_state(resolve(runs[task, way]))
    assert state["downstream"]["bands"]["way"] == way
    assert read_manifest(runs[task, way])["params"]["bands"] == way
    out = drawn(four, runs, task, way, tmp_path / "out")
    assert f"bands: {way}" in capsys.readouterr().out
    bands = read_manifest(out)["summary"]["bands"]
    assert bands["way"] == way
    assert (bands["infrared"] is None) == (way == "native")
    files = sorted(path.stem for path in (out / "generated").iterdir())
    for name in files:
        assert load_png(out / "target" / f"{name}.png").shape == (16, 16, 3)
        if way == "split":
            assert not (out / "bands").exists()
            continue
        with rasterio.open(out / "bands" / f"{name}.tif") as raster:
            assert raster.descriptions == ("red", "green", "blue", "near infrared")
            pixels = raster.read().transpose(1, 2, 0)
        assert (composite(pixels) == load_png(out / "generated" / f"{name}.png")).all()
        shown = load_png(out / "infrared" / f"{name}.png")
        assert (shown == composite(pixels, "infrared")).all()
    if way != "split":  # a stopped evaluation draws what is missing again
        (out / "manifest.json").unlink()
        before = (out / "bands" / f"{files[0]}.tif").read_bytes()
        (out / "bands" / f"{files[0]}.tif").unlink()
        drawn(four, runs, task, way, out)
        assert (out / "bands" / f"{files[0]}.tif").read_bytes() == before


def test_whole_images_and_chosen_checkpoints_go_the_same_way(
    four: Path, runs: dict[tuple[str, str], Path], tmp_path: Path
) -> None:
    for way in ("native", "predicted", "split"):
        more = ("--crops", "whole", "--checkpoint", "best-test", "--limit", "2")
        out = drawn(four, runs, "sr", way, tmp_path / way, *more)
        assert {load_png(p).shape for p in (out / "generated").iterdir()} == {(24, 28, 3)}
        assert len(list((out / "generated").iterdir())) == 2


def test_ways_see_what_they_say(four: Path) -> None:
    vae, model = load_vae(four / "vae"), read_infrared(four / "vae")
    rgb = np.random.default_rng(0).integers(0, 256, (2, 16, 16, 3), np.uint8)
    record = {"infrared": model.to_json()}
    for way, form in (("predicted", "quadratic"), ("filled", "mean")):
        own = vae_for(vae, {"way": way, **record})
        expected = vae.encode(to_unit(model.fill(rgb, form)))
        for found, value in zip(own.encode(to_unit(rgb)), expected, strict=True):
            assert (found - value).abs().max() < 0.05 * value.std()  # of a rounded near infrared
        assert own.in_channels == 4 and own.decode(expected[0] * vae.scale).shape[-1] == 4
    assert vae_for(vae, {"way": "split", **record}).in_channels == 3
    assert vae_for(vae, {"way": "native", "infrared": None}) is vae


def test_auto_takes_native_where_the_data_have_four_bands(four: Path, tmp_path: Path) -> None:
    plain = train.DownstreamConfig.__dataclass_fields__["bands"].default
    assert plain == "auto"
    for data, way in (("native/sr", "native"), ("sr", "predicted")):
        given = train_arguments(four, "sr", tmp_path / "never")
        given[given.index("--data") + 1] = f"{four}/{data}"
        given[given.index("--steps") + 1] = "1"
        out = tmp_path / way
        given[given.index("--out") + 1] = str(out)
        assert train.main(given) == 0
        assert read_manifest(out)["params"]["bands"] == way


def test_refusals_name_both(four: Path, world: Path, tmp_path: Path) -> None:
    native = train_arguments(world, "sr", tmp_path / "a")
    native[native.index("--data") + 1] = f"{four}/native/sr"
    with pytest.raises(UserError, match=r"\.tif: has four bands .* the VAE takes three"):
        train.main(native)
    with pytest.raises(UserError, match="--bands predicted: .* takes three bands"):
        train.main(train_arguments(world, "sr", tmp_path / "a", "--bands", "predicted"))
    given = train_arguments(four, "sr", tmp_path / "b", "--bands", "native")
    with pytest.raises(UserError, match=r"has no near infrared, --bands native .* four"):
        train.main(given)
    (four / "vae" / "infrared.json").rename(tmp_path / "kept.json")
    try:
        with pytest.raises(UserError, match=r"infrared\.json: missing.*--bands native"):
            train.main(train_arguments(four, "sr", tmp_path / "c", "--bands", "split"))
    finally:
        (tmp_path / "kept.json").rename(four / "vae" / "infrared.json")
    assert not any((tmp_path / name).exists() for name in "abc")


def test_three_bands_keep_their_records(
    world: Path, trained: tuple[str, Path], tmp_path: Path
) -> None:
    _, run = trained
    assert "bands" not in read_manifest(run)["params"]
    newest = latest(run)
    assert newest is not None and "bands" not in read_state(newest)["downstream"]


def test_a_large_quad_is_read_by_windows(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    pixels = rng.integers(1, 256, (100, 130, 4), np.uint8)
    pixels[:40, :40] = 0  # the collar
    # No description: NAIP by its name.
    path = tmp_path / "m_4709963_se_14_1_20090818.tif"
    profile = {"driver": "GTiff", "count": 4, "dtype": "uint8", "width": 130, "height": 100}
    with rasterio.open(path, "w", photometric="RGB", **profile) as raster:
        raster.write(pixels.transpose(2, 0, 1))
    save_four(tmp_path / "small.tif", pixels[:60, 60:])
    assert has_infrared(path)
    listing = with_chips(open_sr(tmp_path), 48)
    items = [item for split in listing.splits.values() for item in split]
    chips = [item for item in items if isinstance(item, Chip)]
    assert len(chips) == 4 and len(items) == 5
    last = max(chips, key=lambda chip: chip.key)
    assert last.key == "m_4709963_se_14_1_20090818_48_48.tif"
    assert (read_bands(last, "rgbn") == pixels[48:96, 48:96]).all()
    with pytest.raises(Exception, match="no data in the chip"):
        read_bands(min(chips, key=lambda chip: chip.key), "rgbn")
    # A single quad is split by its chips.
    (tmp_path / "small.tif").unlink()
    alone = with_chips(open_sr(tmp_path), 48)
    assert {name: len(items) for name, items in alone.splits.items()} == {"train": 3, "test": 1}


def test_the_fourth_band_is_no_transparency() -> None:
    """Pillow's RGBA would give dark infrared no weight in the mean."""
    pixels = np.full((4, 4, 4), 200, np.uint8)
    pixels[:, ::2, :3], pixels[:, ::2, 3] = 100, 0
    found = resized(pixels, (1, 1), Image.Resampling.BOX)
    assert found.ravel().tolist() == [150, 150, 150, 100]


def test_the_segmenter_takes_the_colours(four: Path, tmp_path: Path) -> None:
    given = f"--data {four}/native/sis --out {tmp_path}/s --image-size 16 --tile-size 24 --steps 1"
    more = f"{given} --batch 2 --start random --device cpu --encoder resnet18"
    assert train_segmenter.main(more.split()) == 0
    four_bands = next((four / "native/sis").rglob("*.tif"))
    assert has_infrared(four_bands)
