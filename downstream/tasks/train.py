"""Fine-tuning: the pretrained DiT with a condition, in the training loop of dit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from accelerate import PartialState
from accelerate.utils import parse_flag_from_env
from torch import nn

from core.engines import process_group
from core.errors import UserError
from core.stage import Result, Stage
from data.pairs.palettes import load_palette
from dit.diffusion.samplers import sample_latents
from dit.model.transformer import DiT
from dit.training import loop
from dit.training.checkpoint import load_model
from dit.vae.autoencoder import describe_vae, load_vae
from downstream.conditioning.model import extend
from downstream.tasks.bands import line_of, vae_for
from downstream.tasks.config import DownstreamConfig
from downstream.tasks.dataset import choose_palette, fixed_crops
from downstream.tasks.pictures import rows_of, save_png
from downstream.tasks.source import DownstreamSource, open_pairs

_SHOWN = 4  # images in the pictures of --sample-every
_SHOWN_STEPS = 25  # DDIM steps of them


def train(config: DownstreamConfig, stage: Stage) -> Result:
    """Fine-tune the model, or go on from the run folder's newest checkpoint.

    Raises UserError for an --init that holds no plain DiT, for data of which nothing can be used,
    and as dit.training.loop.train does.
    """
    base, state = load_model(config.init, config.init_weights)
    if not isinstance(base, DiT):
        raise UserError(f"--init {config.init}: holds a {state['model']['class']}, expected a DiT")
    listing, bands = config.listed(describe_vae(config.vae))
    quiet = not process_group().main
    settings: dict[str, Any] = {"task": config.task, "image_size": config.image_size}
    if config.task == "sr":
        settings |= {"hr_size": config.hr_size, "factor": config.factor, "dates": config.dates}
    else:
        palette = (
            choose_palette(
                listing.items("train"), listing.layout, listing.report, config.workers, quiet
            )
            if config.palette == "auto"
            else load_palette(config.palette)
        )
        settings |= {"tile_size": config.tile_size, "palette": palette.describe()}
    if config.validation:
        settings["validation"] = config.validation
    if bands is not None:
        settings["bands"] = bands
        print(f"[{stage.name}] {line_of(bands)}")
    cache = int(config.cache_gib * 2**30)
    pairs = open_pairs(listing, "train", settings, cache=cache, workers=config.workers, quiet=quiet)
    where = "in memory" if pairs.resident else "read from disk at every step"
    for line in listing.report.lines():
        print(f"[{stage.name}] {line}")
    print(
        f"[{stage.name}] training on {len(pairs):,} images "
        f"({pairs.bytes / 2**20:,.0f} MiB, {where})",
        flush=True,
    )

    # The launcher says CPU through the environment; the trainer will look there too.
    device = PartialState(cpu=parse_flag_from_env("ACCELERATE_USE_CPU")).device
    vae = vae_for(load_vae(config.vae, device), bands)
    condition = pairs.describe_condition(vae)
    if config.condition_dropout:
        condition["null"] = True
    model = extend(base, condition, config.seed)
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
    source = DownstreamSource(pairs, vae, config.condition_dropout)
    on_sample = _sample_hook(config, source) if config.sample_every else None
    return loop.train(config, model, source, config.out, stage, extra, on_sample)


def _sample_hook(config: DownstreamConfig, source: DownstreamSource) -> loop.SampleHook:
    """Condition | generated | target of the same training images at every call."""
    pairs, vae = source.pairs, source.vae
    crops = fixed_crops(pairs.sizes, pairs.image_size, grid=False)[:_SHOWN]
    images, companions = pairs.crops(crops)
    given = {"condition": pairs.condition(companions, vae)}

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
        if not process_group().main:
            return path  # of sharded weights all processes draw the same, and the first writes
        drawn = vae.decode(latents)[..., :3]
        rows = rows_of(list(pairs.picture(companions)), list(drawn), list(images[..., :3]))
        return save_png(path, rows)

    return draw
