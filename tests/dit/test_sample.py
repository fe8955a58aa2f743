"""The sampling command: files, resuming, refusals."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from core.errors import UserError
from core.stage import Stage, read_manifest
from dit.diffusion.samplers import sample_latents
from dit.latents.store import LatentStore
from dit.model.transformer import DiT
from dit.pretraining.config import DitConfig
from dit.pretraining.train import _sample_hook
from dit.sample import SampleConfig, main
from dit.training.checkpoint import load_model, save_checkpoint
from dit.vae.autoencoder import describe_vae, load_vae
from tests.dit.tiny_vae import save_tiny_vae
from tests.dit.training import latent_store

N = 7
ROOT = Path(__file__).parents[2]
ENV = {**os.environ, "OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "1"}


def small_dit(**options) -> DiT:
    torch.manual_seed(5)
    model = DiT(4, 2, 4, 16, 2, 2, **{"num_classes": 0, **options})
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape) * 0.1)
    return model


def save_run(run: Path, vae: Path, model: DiT, classes: list[str] | None = None) -> Path:
    info = describe_vae(vae)
    raw = model.state_dict()
    ema = {name: value * (1 if name == "pos_embed" else 0.5) for name, value in raw.items()}
    side = model.input_size
    latent = {
        "shape": [4, side, side],
        "scale": info.scale,
        "vae_fingerprint": info.fingerprint,
        "image_size": side * info.factor,
    }
    state = {"model": {"class": "DiT", **model.config}, "latent": latent}
    if classes is not None:
        state["classes"] = classes
    save_checkpoint(run, 3, {"model": raw, "ema": ema}, state)
    return run


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> tuple[Path, Path]:
    """(run folder, VAE folder)."""
    root = tmp_path_factory.mktemp("sample")
    vae = save_tiny_vae(root / "vae")
    return save_run(root / "run", vae, small_dit()), vae


def sample(made: tuple[Path, Path], out: Path, *flags: str) -> Path:
    run, vae = made
    given = ["--checkpoint", str(run), "--vae", str(vae), "--out", str(out), "--n", str(N)]
    assert main([*given, "--sampler", "ddim", "--steps", "4", "--batch", "3", *flags]) == 0
    return out


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.glob("*.png"))}


def test_writes_images_grid_and_record(made, tmp_path, capsys):
    out = sample(made, tmp_path / "out")
    names = [f"{i:06d}.png" for i in range(N)]
    assert sorted(contents(out)) == [*names, "grid.png"]
    assert Image.open(out / names[0]).size == (16, 16)
    assert Image.open(out / "grid.png").size == (7 * 16, 16)
    grid = np.asarray(Image.open(out / "grid.png"))
    assert np.array_equal(grid[:, 32:48], np.asarray(Image.open(out / names[2])))
    assert len(set(contents(out).values())) == N + 1
    manifest = read_manifest(out)
    assert manifest["params"]["sampler"] == "ddim" and manifest["params"]["weights"] == "ema"
    assert "batch" not in manifest["params"]
    assert manifest["inputs"]["vae"] == describe_vae(made[1]).fingerprint
    sample(made, out)
    assert "already done" in capsys.readouterr().out


def test_what_is_recorded_is_what_is_drawn_though_the_run_trains_on(made, tmp_path, monkeypatch):
    run = save_run(tmp_path / "run", made[1], small_dit())
    expected = contents(sample((run, made[1]), tmp_path / "before"))
    stage = SampleConfig.stage

    def then_trained_on(config: SampleConfig) -> Stage:
        found = stage(config)
        (state,) = run.glob("checkpoints/*/state.json")
        tensors = {"model": (raw := DiT(4, 2, 4, 16, 2, 2).state_dict()), "ema": raw}
        known = json.loads(state.read_text())
        save_checkpoint(run, 4, tensors, {name: known[name] for name in ("model", "latent")})
        return found

    monkeypatch.setattr(SampleConfig, "stage", then_trained_on)
    out = sample((run, made[1]), tmp_path / "out")
    assert contents(out) == expected
    assert read_manifest(out)["inputs"] == read_manifest(tmp_path / "before")["inputs"]


def test_continues_to_the_same_bytes(made, tmp_path, monkeypatch):
    whole = contents(sample(made, tmp_path / "whole"))
    out = tmp_path / "cut"
    import dit.sampling.sample

    real, written = dit.sampling.sample.write_image, []

    def dies(folder: Path, name: str, image: np.ndarray) -> None:
        if len(written) == 4:
            raise RuntimeError("power cut")
        written.append(name)
        real(folder, name, image)

    monkeypatch.setattr(dit.sampling.sample, "write_image", dies)
    with pytest.raises(RuntimeError):
        sample(made, out)
    assert len(contents(out)) == 4
    before = (out / "000002.png").stat().st_mtime_ns
    monkeypatch.setattr(dit.sampling.sample, "write_image", real)
    sample(made, out)
    assert contents(out) == whole
    assert (out / "000002.png").stat().st_mtime_ns == before  # its batch was whole


def test_mends_a_damaged_folder(made, tmp_path):
    out = sample(made, tmp_path / "out")
    whole = contents(out)
    (out / "000001.png").unlink()
    (out / "000005.png").write_bytes(b"cut")
    sample(made, out)
    assert contents(out) == whole


def test_seed_weights_and_sampler_matter(made, tmp_path):
    base = contents(sample(made, tmp_path / "base"))
    for name, flags in {
        "seed": ["--seed", "1"],
        "raw": ["--weights", "raw"],
        "ddpm": ["--sampler", "ddpm"],
        "dpmpp": ["--sampler", "dpmpp"],
    }.items():
        assert contents(sample(made, tmp_path / name, *flags)) != base
        with pytest.raises(UserError, match="other settings"):
            sample(made, tmp_path / "base", *flags)


def test_batch_changes_rounding_at_most(made, tmp_path):
    threes = sample(made, tmp_path / "threes")
    ones = sample(made, tmp_path / "ones", "--batch", "1")
    for i in range(N):
        a, b = (np.asarray(Image.open(f / f"{i:06d}.png")).astype(int) for f in (threes, ones))
        assert np.abs(a - b).max() <= 1


def test_another_vae_is_refused(made, tmp_path):
    other = save_tiny_vae(tmp_path / "other", seed=1)
    with pytest.raises(UserError, match="not the VAE"):
        sample((made[0], other), tmp_path / "out")


def test_published_checkpoint_with_guidance(made, tmp_path, monkeypatch):
    from dit.model import published

    monkeypatch.setitem(
        published.MODELS, "tiny", {"patch_size": 2, "depth": 2, "hidden_size": 16, "num_heads": 2}
    )
    path = tmp_path / "dit.pt"
    torch.save(small_dit(num_classes=3).state_dict(), path)
    plain = sample((path, made[1]), tmp_path / "plain")
    strong = sample((path, made[1]), tmp_path / "strong", "--guidance", "4")
    fixed = sample((path, made[1]), tmp_path / "fixed", "--class-label", "1")
    assert contents(plain) != contents(strong)
    same = {name for name, data in contents(plain).items() if contents(fixed)[name] == data}
    assert same == {"000001.png", "000004.png"}
    with pytest.raises(UserError, match="has 3 classes"):
        sample((path, made[1]), tmp_path / "none", "--class-label", "3")


def test_bad_settings_are_refused(made, tmp_path):
    with pytest.raises(UserError, match="--guidance"):
        sample(made, tmp_path / "a", "--guidance", "2")
    with pytest.raises(UserError, match="even stride"):
        sample(made, tmp_path / "b", "--steps", "300")
    with pytest.raises(UserError, match="--n 0"):
        sample(made, tmp_path / "c", "--n", "0")
    with pytest.raises(UserError, match="no complete checkpoint"):
        sample((tmp_path / "nowhere", made[1]), tmp_path / "d")


def test_diverged_weights_are_named(made, tmp_path):
    model = small_dit()
    with torch.no_grad():
        model.final_layer.linear.bias.fill_(float("nan"))
    run = save_run(tmp_path / "run", made[1], model)
    with pytest.raises(UserError, match="not finite"):
        sample((run, made[1]), tmp_path / "out")
    assert not contents(tmp_path / "out")


@pytest.fixture(scope="module")
def four(tmp_path_factory) -> tuple[Path, Path]:
    """(run folder, VAE folder) of four bands."""
    root = tmp_path_factory.mktemp("four")
    vae = save_tiny_vae(root / "vae", in_channels=4)
    return save_run(root / "run", vae, small_dit()), vae


def test_four_bands_keep_their_values(four, tmp_path):
    out = sample(four, tmp_path / "out")
    names = [f"{i:06d}" for i in range(N)]
    listed = [f"{name}.png" for name in names] + ["grid.png", "infrared-grid.png"]
    listed += [f"infrared/{name}.png" for name in names]
    listed += [f"bands/{name}.{kind}" for name in names for kind in ("npy", "tif")]
    assert sorted(read_manifest(out)["files"]) == sorted(listed)
    bands = np.load(out / "bands" / "000003.npy")
    assert bands.shape == (16, 16, 4) and bands.dtype == np.uint8
    colour = np.asarray(Image.open(out / "000003.png"))
    assert np.array_equal(colour, bands[:, :, :3])
    infrared = np.asarray(Image.open(out / "infrared" / "000003.png"))
    assert np.array_equal(infrared, bands[:, :, [3, 0, 1]])
    grid = np.asarray(Image.open(out / "infrared-grid.png"))
    assert np.array_equal(grid[:, 48:64], infrared)


def test_four_bands_are_those_that_the_vae_decodes(four, tmp_path):
    out, vae = sample(four, tmp_path / "out"), load_vae(str(four[1]))
    model, _ = load_model(four[0])
    drawn = vae.decode(sample_latents(model, (4, 4, 4), N, sampler="ddim", steps=4, seed=0))
    assert len({band.tobytes() for band in drawn[0].transpose(2, 0, 1)}) == 4
    bands = np.stack([np.load(out / "bands" / f"{i:06d}.npy") for i in range(N)])
    assert np.abs(bands.astype(int) - drawn).max() <= 1  # rounding: other batches


def test_training_shows_true_colour_and_beside_it_colour_infrared(four, tmp_path):
    vae = load_vae(str(four[1]))
    store = latent_store(tmp_path / "store", vae_fingerprint=vae.fingerprint)
    config = DitConfig(latents=store, out=tmp_path / "run", vae=str(four[1]), sample_every=6)
    model = small_dit()
    grid = np.asarray(Image.open(_sample_hook(config, LatentStore(store))(model, 6)))
    drawn = vae.decode(sample_latents(model, (4, 4, 4), 16, sampler="ddim", steps=50, seed=0))
    assert grid.shape == (4 * 16, 2 * 4 * 16, 3)
    for half, bands in ((grid[:, :64], [0, 1, 2]), (grid[:, 64:], [3, 0, 1])):
        tiles = half.reshape(4, 16, 4, 16, 3).swapaxes(1, 2).reshape(16, 16, 16, 3)
        assert np.abs(tiles.astype(int) - drawn[..., bands]).max() <= 1


@pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")
def test_a_geotiff_says_its_bands_and_is_true_colour_to_others(four, tmp_path):
    import rasterio
    from rasterio.enums import ColorInterp

    out = sample(four, tmp_path / "out")
    bands = np.load(out / "bands" / "000001.npy")
    with rasterio.open(out / "bands" / "000001.tif") as raster:
        assert raster.descriptions == ("red", "green", "blue", "near infrared")
        assert raster.dtypes == ("uint8",) * 4
        assert np.array_equal(raster.read().transpose(1, 2, 0), bands)
        assert ColorInterp.alpha not in raster.colorinterp
    with Image.open(out / "bands" / "000001.tif") as opened:
        assert opened.tag_v2[262] == 2  # photometric: RGB
        assert opened.tag_v2[338] == (0,)  # the fourth sample: unspecified, no transparency
        colour = np.asarray(opened.convert("RGB"))
    assert np.array_equal(colour, np.asarray(Image.open(out / "000001.png")))


def test_four_bands_continue_where_a_file_is_missing(four, tmp_path):
    out = sample(four, tmp_path / "out")
    paths = [path for path in out.rglob("0*") if path.is_file()]
    whole = {path: path.read_bytes() for path in paths}
    (out / "manifest.json").unlink()
    (out / "bands" / "000004.tif").unlink()
    sample(four, out)
    assert {path: path.read_bytes() for path in paths} == whole


@pytest.mark.slow
def test_two_processes_write_the_same_folder(made, tmp_path):
    run, vae = made
    one = sample(made, tmp_path / "one")
    two = tmp_path / "two"
    launch = [sys.executable, "-m", "accelerate.commands.launch", "--cpu", "--num_processes", "2"]
    launch += ["--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no"]
    launch += ["--main_process_port", "0", "-m", "dit.sample", "--checkpoint", str(run)]
    launch += ["--vae", str(vae), "--out", str(two), "--n", str(N), "--sampler", "ddim"]
    command = [*launch, "--steps", "4", "--batch", "3"]
    done = subprocess.run(command, cwd=ROOT, env=ENV, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert contents(one) == contents(two)
    fingerprint = [json.loads((f / "manifest.json").read_text())["fingerprint"] for f in (one, two)]
    assert fingerprint[0] == fingerprint[1]


def test_a_class_is_drawn_by_its_name_or_its_index(made, tmp_path, capsys):
    """Labels 3, 13, 23: 13 is the name of the second class, not the fourteenth."""
    run = save_run(tmp_path / "run", made[1], small_dit(num_classes=3), ["3", "13", "23"])
    turn = contents(sample((run, made[1]), tmp_path / "turn"))
    assert "classes in turn: 3, 13, 23" in capsys.readouterr().out
    named = sample((run, made[1]), tmp_path / "named", "--class-label", "13")
    assert "of the class 13" in capsys.readouterr().out
    same = {name for name, data in contents(named).items() if turn[name] == data}
    assert same == {"000001.png", "000004.png"}
    indexed = sample((run, made[1]), tmp_path / "indexed", "--class-index", "1")
    assert contents(indexed) == contents(named)
    assert read_manifest(named)["params"]["class_label"] == "13"
    assert read_manifest(named)["summary"]["classes"] == ["13"]
    assert read_manifest(indexed)["params"]["class_index"] == 1
    assert read_manifest(tmp_path / "turn")["params"]["class_label"] == -1  # as version 0.1
    assert "class_index" not in read_manifest(tmp_path / "turn")["params"]

    def refused(message, *flags):
        with pytest.raises(UserError, match=message):
            sample((run, made[1]), tmp_path / "none", *flags)
        assert not (tmp_path / "none").exists()

    refused(r"no class of .*run.*; its classes are 3, 13, 23$", "--class-label", "sea")
    refused(r"its classes are 3, 13, 23; --class-index 1 is 13$", "--class-label", "1")
    refused("give one of them", "--class-label", "13", "--class-index", "1")
    with pytest.raises(UserError, match="--class-index 3: the model has 3 classes"):
        sample((run, made[1]), tmp_path / "none", "--class-index", "3")
    with pytest.raises(UserError, match="has no names of classes"):
        sample(made, tmp_path / "none", "--class-label", "sea")


def test_guidance_below_one_and_a_missing_device_say_what_they_are(
    made, tmp_path, capsys, monkeypatch
):
    """Elsewhere 0 is without guidance, and GPUs may be hidden."""
    run = save_run(tmp_path / "run", made[1], small_dit(num_classes=3), ["3", "13", "23"])
    sample((run, made[1]), tmp_path / "out", "--guidance", "0")
    assert "1 is without guidance" in capsys.readouterr().err
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    with pytest.raises(UserError, match=r"--device cuda:9: .*sees \d+ GPUs.*--device auto"):
        sample(made, tmp_path / "none", "--device", "cuda:9")
