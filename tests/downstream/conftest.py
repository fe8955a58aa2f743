"""A tiny pretrained DiT, a tiny VAE and pairs for both tasks, which the commands' tests share."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from data.pairs.palettes import PALETTES
from dit.model.transformer import DiT
from dit.training.checkpoint import save_checkpoint
from dit.vae.autoencoder import describe_vae
from downstream import train
from tests.dit.tiny_vae import save_tiny_vae

DUBAI = PALETTES["dubai"]


@pytest.fixture(autouse=True)
def quiet_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_MODE", "disabled")
    monkeypatch.setenv("ACCELERATE_USE_CPU", "1")


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """vae/, pretrained/ (a run of dit.train's shape), sr/ and sis/."""
    root = tmp_path_factory.mktemp("world")
    rng = np.random.default_rng(0)
    # Its random means are spread so far that the posterior's noise does not drown them.
    save_tiny_vae(root / "vae", gain=100.0, scaling_factor=1 / 15)
    save_tiny_vae(root / "other-vae", seed=1)
    model = DiT(input_size=4, patch_size=2, in_channels=4, hidden_size=32, depth=2, num_heads=2)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=generator))
    ema = {name: value + 0.01 for name, value in model.state_dict().items()}
    info = describe_vae(root / "vae")
    latent = {
        "shape": [4, 4, 4],
        "scale": info.scale,
        "vae_fingerprint": info.fingerprint,
        "image_size": 16,
    }
    state = {"model": {"class": "DiT", **model.config}, "latent": latent}
    save_checkpoint(root / "pretrained", 40, {"model": model.state_dict(), "ema": ema}, state)
    for n in range(20):
        pixels = rng.integers(0, 256, (6, 7, 3), dtype=np.uint8).repeat(5, 0).repeat(5, 1)
        path = root / f"sr/im/{n}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(path)
    for tile, count in (("tile1", 16), ("tile2", 4)):
        for n in range(count):
            ids = rng.integers(0, DUBAI.classes, (6, 7)).repeat(5, 0).repeat(5, 1)
            for kind, suffix in (("images", "jpg"), ("masks", "png")):
                path = root / f"sis/{tile}/{kind}/{n}.{suffix}"
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(DUBAI.paint(ids.astype(np.uint8))).save(path)
    return root


def train_arguments(world: Path, task: str, out: Path, *more: str) -> list[str]:
    sizes = {"sr": "--hr-size 24 --factor 4", "sis": "--tile-size 24"}[task]
    settings = f"--task {task} --image-size 16 {sizes} --steps 6 --batch 4 --checkpoint-every 3"
    paths = f"--init {world}/pretrained --data {world}/{task} --vae {world}/vae --out {out}"
    return [*f"{settings} {paths} --learning-rate 1e-2 --keep 9 --log-every 3".split(), *more]


def evaluate_arguments(world: Path, run: Path, task: str, out: Path, *more: str) -> list[str]:
    paths = f"--run {run} --data {world}/{task} --vae {world}/vae --out {out}"
    return [*f"{paths} --steps 4 --batch 3 --device cpu".split(), *more]


@pytest.fixture(scope="module", params=["sr", "sis"])
def trained(world: Path, request: pytest.FixtureRequest) -> tuple[str, Path]:
    task, run = request.param, world / f"run-{request.param}"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("WANDB_MODE", "disabled")
        patch.setenv("ACCELERATE_USE_CPU", "1")
        arguments = train_arguments(world, task, run)
        assert train.main([*arguments, "--is-done"]) == 3 and not run.exists()
        assert train.main(arguments) == 0
        assert train.main([*arguments, "--is-done"]) == 0
    return task, run
