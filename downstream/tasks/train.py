"""Fine-tune a pretrained DiT for super-resolution (SR) or semantic image synthesis (SIS).

On one process: python -m downstream.train --task sr --init RUN --data ROOT --out OUT. On several
GPUs: accelerate launch -m downstream.train with the same arguments. The model starts equal to the
pretrained one and learns to use its condition; the loop, the checkpoints and the run folder are
those of dit.train.
"""

from __future__ import annotations

import contextlib
import io
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from core.errors import UserError
from core.settings import machine, parse, science, settings
from core.stage import Stage, digest_of
from data.pairs.palettes import load_palette
from dit.training.checkpoint import Weights, fingerprint, read_state, resolve
from dit.training.config import TrainConfig
from dit.vae.autoencoder import describe_vae
from downstream.tasks.tasks import (
    Dates,
    TaskName,
    build_task,
    check_size,
    check_vae,
    open_listing,
)

if TYPE_CHECKING:
    from torch import nn

    from dit.training.loop import SampleHook
    from downstream.tasks.source import DownstreamSource

_FINISHED, _WORK_LEFT, _REFUSED = 0, 3, 2
_SHOWN = 4  # images in the pictures of --sample-every
_SHOWN_STEPS = 25  # DDIM steps of them


@settings
class DownstreamConfig(TrainConfig):
    """Fine-tune a pretrained DiT for super-resolution or semantic image synthesis.

    The paper (Sec. 4.2) initialises from the pretrained DiT and trains 5,000 steps; how the
    condition enters, the degradation and the crops it leaves open.
    """

    task: TaskName
    """sr: super-resolution (SECOND-SR). sis: semantic image synthesis (OpenEarthMap)."""
    init: Path
    """Pretrained DiT: a run folder of dit.train (its newest checkpoint) or a checkpoint."""
    data: Path
    """sr: SECOND, or any folder of images. sis: OpenEarthMap, or <group>/{images,masks}."""
    vae: str = machine("stabilityai/sd-vae-ft-ema")
    """The VAE that the pretrained DiT was trained with: a diffusers folder or a hub id."""
    out: Path
    """Run folder."""
    init_weights: Weights = "ema"
    """Which weights of the pretrained DiT to start from, its average or the raw ones."""
    image_size: int = 256
    """Side of a training crop (pixels); must give the latents that the DiT takes."""
    hr_size: int = 512
    """sr: shorter side that images are brought to before cropping (pixels)."""
    factor: int = 8
    """sr: down-sampling factor, antialiased bicubic down and bicubic up. The paper gives none."""
    dates: Dates = "both"
    """sr: of a SECOND pair use both dates, or the first only."""
    tile_size: int = 1024
    """sis: shorter side that image and mask are brought to before cropping (pixels)."""
    palette: str = "auto"
    """sis: colours of the masks: auto, openearthmap, dubai, second, or a YAML file."""

    steps: int = 5_000
    """Optimiser steps. The paper fine-tunes for 5K."""
    ema_warmup: bool = True
    """Decay min(ema_decay, (1 + s) / (10 + s)) at step s. Without it the average after 5K steps
    is still 0.61 the initial network, whose condition weights are zero."""
    checkpoint_every: int = machine(1_000)
    """Steps between checkpoints; one is always written at the end."""

    workers: int = machine(4)
    """Threads that decode images."""
    cache_gib: float = machine(8.0)
    """Decoded images are kept in memory up to this (GiB, each process); else read every time."""
    is_done: bool = machine(False)
    """Train nothing; exit with 0 when the run is finished, 3 when work is left, 2 when these
    settings are refused."""


def main(argv: Sequence[str] | None = None) -> int | None:
    config = parse(
        DownstreamConfig, argv, prog="python -m downstream.train", description=__doc__ or ""
    )
    if int(os.environ.get("RANK", "0")) == 0:
        return _train(config, speaks=True)
    # The other processes of a launch come to the same conclusions, and stay silent.
    with contextlib.redirect_stdout(io.StringIO()):
        try:
            return _train(config, speaks=False)
        except UserError:
            return _REFUSED


def _train(config: DownstreamConfig, speaks: bool) -> int:
    if config.init.is_file():
        raise UserError(
            f"--init {config.init}: a file; give a run of dit.train (dit.train --init FILE makes "
            "one of a file in the published format)"
        )
    listing = open_listing(config.task, config.data, config.dates)
    info = describe_vae(config.vae)
    inputs = {
        "init": fingerprint(config.init),
        "data": listing.fingerprint("train"),
        "vae": info.fingerprint,
    }
    pretrained = read_state(resolve(config.init))
    check_vae(info, pretrained["latent"], config.vae, config.init)
    check_size(info, config.image_size, pretrained["latent"], config.init)
    if config.task == "sis" and config.palette != "auto":
        inputs["palette"] = digest_of(load_palette(config.palette).describe())
    stage = Stage(config.out, "downstream.train", science(config), inputs)
    if stage.done():
        return _FINISHED
    if config.is_done:
        return _WORK_LEFT

    from accelerate import PartialState
    from accelerate.utils import parse_flag_from_env

    from dit.model.transformer import DiT
    from dit.training.checkpoint import load_model
    from dit.training.loop import train
    from dit.vae.autoencoder import load_vae
    from downstream.conditioning.conditioned import extend
    from downstream.tasks.dataset import choose_palette
    from downstream.tasks.source import DownstreamSource

    base, state = load_model(config.init, config.init_weights)
    if not isinstance(base, DiT):
        raise UserError(f"--init {config.init}: holds a {state['model']['class']}, expected a DiT")

    settings: dict[str, Any] = {"task": config.task, "image_size": config.image_size}
    if config.task == "sr":
        settings |= {"hr_size": config.hr_size, "factor": config.factor, "dates": config.dates}
    else:
        items, quiet = listing.items("train"), not speaks
        palette = (
            choose_palette(items, listing.layout, listing.report, config.workers, quiet)
            if config.palette == "auto"
            else load_palette(config.palette)
        )
        settings |= {"tile_size": config.tile_size, "palette": palette.describe()}
    limits = {
        "cache": int(config.cache_gib * 2**30),
        "workers": config.workers,
        "quiet": not speaks,
    }
    task = build_task(config.task, listing, "train", settings, limits)
    where = "in memory" if task.bank.resident else "read from disk at every step"
    for line in listing.report.lines():
        print(f"[{stage.name}] {line}")
    print(
        f"[{stage.name}] training on {len(task.bank):,} images "
        f"({task.bank.bytes / 2**20:,.0f} MiB, {where})",
        flush=True,
    )

    # The launcher says CPU through the environment; the trainer will look there too.
    state_of_launch = PartialState(cpu=parse_flag_from_env("ACCELERATE_USE_CPU"))
    vae = load_vae(config.vae, state_of_launch.device)
    model = extend(base, task.describe_condition(vae), config.seed)
    extra = {
        "model": {"class": "ConditionedDiT", **model.config},
        "downstream": settings,
        "init": {
            "fingerprint": stage.inputs["init"],
            "weights": config.init_weights,
            "step": state["step"],
        },
        "data": listing.summary(),
    }
    source = DownstreamSource(task, vae)
    on_sample = _sample_hook(config, source) if config.sample_every else None
    return train(config, model, source, config.out, stage, extra, on_sample).exit_code


def _sample_hook(config: DownstreamConfig, source: DownstreamSource) -> SampleHook:
    """Condition | generated | real of the same training images at every call."""
    from dit.diffusion.samplers import sample_latents
    from downstream.tasks.dataset import fixed_crops
    from downstream.tasks.pictures import rows_of, save_png

    task, vae = source.task, source.vae
    crops = fixed_crops(task.bank.sizes, task.image_size, grid=False)[:_SHOWN]
    images, conditions = task.crops(crops)
    given = {"condition": task.condition(conditions, vae)}

    def draw(model: nn.Module, step: int) -> Path:
        latents = sample_latents(
            model,
            source.latent_shape,
            len(crops),
            sampler="ddim",
            steps=_SHOWN_STEPS,
            seed=config.seed,
            model_kwargs=given,
        )
        path = config.out / "samples" / f"step-{step:07d}.png"
        if int(os.environ.get("RANK", "0")):
            return path  # of sharded weights all processes draw the same, and the first writes
        rows = rows_of(list(task.picture(conditions)), list(vae.decode(latents)), list(images))
        return save_png(path, rows)

    return draw
