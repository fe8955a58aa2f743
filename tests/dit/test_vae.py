"""Loading a VAE, encoding and decoding."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from core.errors import UserError
from core.stage import Stage, read_manifest, sha256_file
from dit.vae.autoencoder import (
    DEFAULT_SCALE,
    SHIPPED,
    describe_vae,
    load_vae,
    shipped,
    to_uint8,
    to_unit,
    weights_file,
)
from dit.vae.quality import compare
from tests.dit.tiny_vae import save_tiny_vae


@pytest.fixture
def vae_folder(tmp_path: Path) -> Path:
    return save_tiny_vae(tmp_path / "vae")


def test_encode_and_decode_follow_diffusers(vae_folder: Path) -> None:
    vae = load_vae(vae_folder)
    assert (vae.factor, vae.latent_channels, vae.in_channels) == (4, 4, 3)
    x = torch.rand(5, 3, 16, 16, generator=torch.Generator().manual_seed(0)) * 2 - 1
    mean, std = vae.encode(x, batch_size=2)
    posterior = vae.model.encode(x).latent_dist
    torch.testing.assert_close(mean, posterior.mean)
    torch.testing.assert_close(std, posterior.std)
    assert mean.dtype == std.dtype == torch.float32
    pixels = vae.decode(mean * vae.scale, batch_size=2)
    assert pixels.dtype == np.uint8 and pixels.shape == (5, 16, 16, 3)
    expected = (127.5 * vae.model.decode(mean).sample + 128).clamp(0, 255)
    difference = pixels.astype(float) - expected.permute(0, 2, 3, 1).numpy()
    assert difference.min() > -1.01 and difference.max() < 0.01  # truncated, not rounded
    with pytest.raises(ValueError, match="expected N x 3"):
        vae.encode(torch.zeros(1, 4, 16, 16))


def test_pixels_survive_the_round_trip_and_nan_does_not() -> None:
    pixels = np.arange(256, dtype=np.uint8).reshape(1, 16, 16, 1)
    unit = to_unit(pixels)
    assert unit.shape == (1, 1, 16, 16) and unit.min() == -1 and unit.max() == 1
    assert np.abs(to_uint8(unit).astype(int) - pixels).max() <= 1
    assert to_uint8(torch.tensor([[[[-9.0, 9.0]]]])).ravel().tolist() == [0, 255]
    with pytest.raises(UserError, match="NaN"):
        to_uint8(torch.full((1, 1, 2, 2), float("nan")))


def test_a_config_without_scaling_factor_has_the_published_scale(tmp_path: Path) -> None:
    bare = describe_vae(save_tiny_vae(tmp_path / "bare", scaling_factor=None))
    explicit = describe_vae(save_tiny_vae(tmp_path / "explicit", scaling_factor=0.18215))
    assert bare.scale == DEFAULT_SCALE == 0.18215
    assert bare.fingerprint == explicit.fingerprint
    assert load_vae(tmp_path / "bare").model.config.scaling_factor == 0.18215


def test_fingerprint_covers_weights_scale_and_architecture(tmp_path: Path) -> None:
    made = [
        save_tiny_vae(tmp_path / "a"),
        save_tiny_vae(tmp_path / "b", seed=1),
        save_tiny_vae(tmp_path / "c", scaling_factor=0.2),
        save_tiny_vae(tmp_path / "d"),
    ]
    config = json.loads((made[3] / "config.json").read_text())
    (made[3] / "config.json").write_text(json.dumps({**config, "norm_num_groups": 2}))
    fingerprints = [describe_vae(folder).fingerprint for folder in made]
    assert len(set(fingerprints)) == 4
    assert describe_vae(save_tiny_vae(tmp_path / "again")).fingerprint == fingerprints[0]


def test_what_cannot_be_a_vae_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match="no such file or folder"):
        describe_vae(tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=r"config\.json: missing"):
        describe_vae(tmp_path / "empty")
    folder = save_tiny_vae(tmp_path / "vae")
    config = json.loads((folder / "config.json").read_text())
    for change, message in (
        ({"shift_factor": 0.1}, "shift_factor"),
        ({"_class_name": "VQModel"}, "is a VQModel"),
        ({"scaling_factor": 0}, "positive"),
        ({"out_channels": 4}, "differs from out_channels"),
    ):
        (folder / "config.json").write_text(json.dumps({**config, **change}))
        with pytest.raises(UserError, match=message):
            describe_vae(folder)
    (folder / "config.json").write_text(json.dumps({**config, "layers_per_block": 2}))
    with pytest.raises(UserError, match="missing keys"):  # diffusers would leave them random
        load_vae(folder)
    (folder / "diffusion_pytorch_model.safetensors").unlink()
    with pytest.raises(UserError, match="no weights there"):
        describe_vae(folder)
    import huggingface_hub

    def offline(*arguments: object, **options: object) -> str:
        raise ConnectionError("no network")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", offline)
    with pytest.raises(UserError, match="hf download some/vae"):
        describe_vae("some/vae")


def test_image_size_must_divide(vae_folder: Path) -> None:
    info = describe_vae(vae_folder)
    assert info.latent_shape(64) == (4, 16, 16)
    with pytest.raises(UserError, match="multiple of the VAE's factor 4"):
        info.latent_shape(66)


@pytest.mark.parametrize("name", ["config.json", "diffusion_pytorch_model.safetensors"])
def test_a_vae_that_is_not_as_it_was_trained_is_refused(tmp_path: Path, name: str) -> None:
    stage = Stage(tmp_path / "vae", "dit.train_vae", {}, {})
    stage.open()
    save_tiny_vae(tmp_path / "vae")
    stage.finish({}, ["config.json", "diffusion_pytorch_model.safetensors"], "")
    describe_vae(tmp_path / "vae")
    file = tmp_path / "vae" / name
    data = file.read_bytes()
    changed = data.replace(b'"silu"', b'"silt"') if name == "config.json" else data[:-1] + b"x"
    assert changed != data and len(changed) == len(data)
    file.write_bytes(changed)
    with pytest.raises(UserError, match=rf"{name}: damaged.*dit.train_vae"):
        describe_vae(tmp_path / "vae")


def test_the_shipped_vae_goes_by_its_name(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert shipped() == ["mini-f8"]
    monkeypatch.chdir(tmp_path)
    info = describe_vae("mini-f8")
    assert info.folder == SHIPPED / "mini-f8" and info.latent_shape(64) == (4, 8, 8)
    (tmp_path / "mini-f8").mkdir()  # a folder of that name is meant before
    with pytest.raises(UserError, match=r"config.json: missing"):
        describe_vae("mini-f8")
    with pytest.raises(UserError, match="--vae mini-f8, which is here"):
        describe_vae("mini-f9")


def test_the_shipped_vae_is_small_whole_and_keeps_more_than_means() -> None:
    folder = SHIPPED / "mini-f8"
    manifest = read_manifest(folder)
    for name, entry in manifest["files"].items():
        assert sha256_file(folder / name) == entry["sha256"]
    assert weights_file(folder).stat().st_size < 5_000_000
    assert manifest["params"]["seed"] == 0 and (folder / "training" / "stats.jsonl").is_file()
    vae = load_vae("mini-f8")
    assert {value.dtype for value in vae.model.state_dict().values()} == {torch.float32}
    sheet = np.asarray(Image.open(folder / "reconstructions.png"))  # rows of images, their rebuilt
    tiles = sheet.reshape(4, 64, 8, 64, 3).swapaxes(1, 2)
    images, recorded = tiles[::2].reshape(16, 64, 64, 3), tiles[1::2].reshape(16, 64, 64, 3)
    mean, std = vae.encode(to_unit(images))
    spread = vae.scale * (mean.square() + std.square()).mean().sqrt().item()
    assert 0.5 < spread < 2  # scaled for the DiT
    rebuilt = vae.decode(mean * vae.scale)
    assert np.abs(rebuilt.astype(int) - recorded).max() <= 2
    means = images.reshape(16, 8, 8, 8, 8, 3).mean(axis=(2, 4)).repeat(8, 1).repeat(8, 2)
    assert compare(images, rebuilt)["psnr"] > compare(images, means.astype(np.uint8))["psnr"] + 1
