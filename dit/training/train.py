"""Train a DiT on a latent store (Sec. 4 of the paper; DiT's recipe, unconditional by default).

On one process: python -m dit.train --latents STORE --out RUN. On several GPUs:
accelerate launch -m dit.train --latents STORE --out RUN, with the same result to rounding. On
several CPU processes: ACCELERATE_USE_CPU=1 torchrun --nproc-per-node 2 -m dit.train ...

Run the same command again to continue a run that was killed. SIGTERM or SIGUSR1 makes it write a
checkpoint at the next step (several GPUs: within ten steps) and exit with code 75: run me again;
accelerate launch reports any such code as 1, so ask --is-done. Loss or gradients that are not
finite: the step is skipped and counted; ten in a row end the run, naming the samples.
"""

from __future__ import annotations

import contextlib
import io
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from core.errors import UserError
from core.settings import machine, parse, science, settings
from core.stage import Stage, fingerprint, sha256_file
from dit.training.config import TrainConfig

if TYPE_CHECKING:
    from torch import nn

    from dit.latents.store import LatentStore
    from dit.training.loop import SampleHook

_FINISHED, _WORK_LEFT, _REFUSED = 0, 3, 2
_GRID = 4  # the sample grid is _GRID x _GRID
_GRID_STEPS = 50  # DDIM steps of its samples


@settings
class Config(TrainConfig):
    """Train a DiT."""

    latents: Path
    """Latent store from python -m dit.encode."""
    out: Path
    """Run folder."""
    model: str = "DiT-XL/2"
    """Network: DiT-XL/2 (the paper's), DiT-L/2, DiT-B/2, DiT-S/2, DiT-mini/2 or
    DiT-mini/4 (those two for a CPU)."""
    freq_shift: int = 0
    """Timestep frequencies: 0 as published; 1 as in diffusers, for an export without a patch."""
    labels: Path | None = None
    """Parquet with columns key and label: train class-conditionally. Unconditional without it."""
    class_dropout: float = 0.1
    """With --labels: chance that a label becomes the null class, for classifier-free guidance."""
    init: Path | None = None
    """Start from these weights: a run folder, a checkpoint, or a file in the published DiT format.
    A class-conditional one becomes unconditional (as its null class) unless there are --labels."""
    init_weights: Literal["ema", "raw"] = "ema"
    """Which weights of --init, its average or the raw ones."""
    vae: str = machine("")
    """VAE of the latents, a folder or a hub id; only --sample-every needs it."""
    is_done: bool = machine(False)
    """Train nothing; exit with 0 when the run is finished, 3 when work is left, 2 when these
    settings are refused."""

    def check(self) -> None:
        super().check()
        if not 0.0 <= self.class_dropout < 1.0:
            raise UserError(f"--class-dropout {self.class_dropout}: expected 0 <= chance < 1")
        if self.sample_every and not self.vae:
            raise UserError("--sample-every needs --vae, which made the latents")


def main(argv: Sequence[str] | None = None) -> int | None:
    config = parse(Config, argv, prog="python -m dit.train", description=__doc__ or "")
    if int(os.environ.get("RANK", "0")) == 0:
        return _train(config)
    # The other processes of a launch come to the same conclusions, and stay silent.
    with contextlib.redirect_stdout(io.StringIO()):
        try:
            return _train(config)
        except UserError:
            return _REFUSED


def _train(config: Config) -> int:
    config.check()
    params, inputs = science(config), {"latents": fingerprint(config.latents)}
    if config.labels is not None:
        if not config.labels.is_file():
            raise UserError(f"--labels {config.labels}: no such file")
        inputs["labels"] = sha256_file(config.labels)
    else:
        del params["class_dropout"]
    if config.init is not None:
        from dit.sampling.sample import fingerprint_of

        inputs["init"] = fingerprint_of(config.init)
    else:
        del params["init_weights"]
    stage = Stage(config.out, "dit.train", params, inputs)
    if stage.done():
        return _FINISHED
    if config.is_done:
        return _WORK_LEFT

    import torch

    from dit.latents.store import LatentSource, LatentStore
    from dit.model.transformer import build
    from dit.training.labels import LabelledSource, read_labels, start_from
    from dit.training.loop import train

    store = LatentStore(config.latents, resident="auto")
    channels, height, width = store.shape
    if height != width:
        raise UserError(f"{config.latents}: latents of {height} x {width}, a DiT needs squares")
    source = LatentSource(store)
    options: dict[str, Any] = {"freq_shift": config.freq_shift}
    described: dict[str, Any] = {}
    if config.labels is not None:
        labels = read_labels(config.labels, store.keys)
        source = LabelledSource(store, labels, config.class_dropout)
        options |= {"num_classes": len(labels.names), "class_dropout_prob": config.class_dropout}
        described = {"classes": labels.names}
    on_sample = _sample_hook(config, store) if config.sample_every else None
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        try:
            model = build(config.model, height, channels, **options)
        except ValueError as error:
            raise UserError(
                f"--model {config.model} does not fit the latents of {config.latents} ({error})"
            ) from None
    if config.init is not None:
        for note in start_from(model, config.init, config.init_weights, model.config["num_heads"]):
            print(f"[{stage.name}] {config.init}: {note}")
    extra = {"model": {"class": "DiT", **model.config}, **described}
    return train(config, model, source, config.out, stage, extra, on_sample)


def _sample_hook(config: Config, store: LatentStore) -> SampleHook:
    """Draws the same _GRID**2 starting noises at every call, so that grids can be compared."""
    import torch
    from PIL import Image

    from core.atomic import atomic_path
    from dit.diffusion.samplers import sample_latents
    from dit.vae.autoencoder import load_vae

    main = not int(os.environ.get("RANK", "0"))
    device = "cuda" if torch.cuda.is_available() and main else "cpu"
    vae = load_vae(config.vae, device)
    store.check_vae(vae.fingerprint)

    def draw(model: nn.Module, step: int) -> Path:
        classes = int(getattr(model, "num_classes", 0))
        given = {"y": torch.arange(_GRID**2) % classes} if classes else None
        latents = sample_latents(
            model,
            store.shape,
            _GRID**2,
            sampler="ddim",
            steps=_GRID_STEPS,
            seed=config.seed,
            model_kwargs=given,
        )
        path = config.out / "samples" / f"step-{step:07d}.png"
        if not main:
            return path  # of sharded weights all processes draw the same, and the first writes
        images = vae.decode(latents)
        size = images.shape[1]
        tiles = images.reshape(_GRID, _GRID, size, size, -1).swapaxes(1, 2)
        grid = Image.fromarray(tiles.reshape(_GRID * size, _GRID * size, -1)[..., :3])
        with atomic_path(path) as temporary:
            grid.save(temporary, format="PNG")
        return path

    return draw
