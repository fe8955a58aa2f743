"""Images from a trained DiT: a folder of PNG files, and a grid of the first ones.

Of images of four bands also colour infrared and the bands themselves: see dit/vae/pictures.py.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from core.engines import process_group
from core.errors import UserError
from core.parts import make_parts
from core.stage import Result, Stage, discard_damaged
from data.images.chips import BANDS
from dit.diffusion.samplers import sample_latents
from dit.model.device import pick_device
from dit.model.transformer import DiT
from dit.sampling.config import SampleConfig, chosen_class
from dit.training.checkpoint import class_names
from dit.training.pretrained import load_dit
from dit.vae.autoencoder import Vae, VaeInfo, load_vae
from dit.vae.pictures import GRID, INFRARED, INFRARED_GRID, image_files, write_grid, write_image

SHOWN = 64  # images in grid.png, eight to a row


def sample(config: SampleConfig, stage: Stage) -> Result:
    """Draw the images that are missing, batch by batch, and a grid of the first ones."""
    group = process_group()
    group.open(stage)
    if group.main:
        discard_damaged(stage)
    group.wait()
    model, vae = _load(config)
    predictor: Any = torch.compile(model) if config.compile else model
    batches = [
        range(start, min(start + config.batch, config.n))
        for start in range(0, config.n, config.batch)
    ]

    def files(slots: range) -> list[str]:
        return [file for slot in slots for file in image_files(_name(slot), vae.in_channels)]

    def finished(index: int) -> bool | None:
        # Complete batches only: a stopped one is drawn again with the same neighbours, so that
        # not even the rounding differs from an uninterrupted run.
        return all((config.out / file).exists() for file in files(batches[index])) or None

    def make(
        left: list[int], tick: Callable[[int], object]
    ) -> Iterator[tuple[int, np.ndarray]]:
        for index in left:
            slots, shown = batches[index], 0

            def on_step(step: int, count: int = len(slots)) -> None:  # its part of the images
                nonlocal shown
                tick(count * step // config.steps - shown)
                shown = count * step // config.steps

            latents = draw_latents(config, model, slots, vae.model.device, on_step, predictor)
            if not torch.isfinite(latents).all():
                raise UserError(
                    f"{config.checkpoint}: the {config.weights} weights give latents that are not "
                    "finite; a short run's moving average is still mostly the untrained net "
                    "(try --weights raw), or the training has diverged"
                )
            yield index, vae.decode(latents)

    def write(index: int, images: np.ndarray) -> bool:
        for slot, image in zip(batches[index], images, strict=True):
            write_image(config.out, _name(slot), image)
        return True

    sizes = [len(slots) for slots in batches]
    make_parts(sizes, finished, make, write, name="sample", group=group, stage=stage)
    shown = range(min(config.n, SHOWN))
    grids = {GRID: config.out}
    if vae.in_channels == BANDS:
        grids[INFRARED_GRID] = config.out / INFRARED
    for grid, folder in grids.items():
        write_grid(config.out / grid, [folder / f"{_name(slot)}.png" for slot in shown])
    side = model.input_size
    line = f"{config.n:,} images, {config.sampler} {config.steps}, {config.weights} weights"
    classes: dict[str, Any] = {}
    if model.num_classes > 1:
        called = class_names(config.checkpoint) or [str(i) for i in range(model.num_classes)]
        chosen = chosen_class(config)
        drawn = called if chosen < 0 else [called[chosen]]
        classes = {"classes": drawn}  # image i is of classes[i % len(classes)]
        some = ", ".join(drawn[:5]) + (", ..." if len(drawn) > 5 else "")
        line += f", of the class {drawn[0]}" if chosen >= 0 else f", classes in turn: {some}"
    return stage.finish(
        {
            "n": config.n,
            **classes,
            "latent_shape": [model.in_channels, side, side],
            "image_size": side * vae.factor,
        },
        [*files(range(config.n)), *grids],
        line,
    )


def check_vae(
    model: DiT, latent: Mapping[str, Any], info: VaeInfo, checkpoint: Path, vae: Path
) -> None:
    """Raise UserError unless the VAE is the one that made the model's training latents."""
    if latent and latent["vae_fingerprint"] != info.fingerprint:
        raise UserError(
            f"{vae}: not the VAE that {checkpoint} was trained with (fingerprint "
            f"{info.fingerprint[:12]}, expected {latent['vae_fingerprint'][:12]}); its latents "
            "mean something else. Give the folder that dit.encode was given"
        )
    if model.in_channels != info.latent_channels:
        raise UserError(
            f"{vae}: {info.latent_channels} latent channels, the DiT has {model.in_channels}"
        )


def load_checked(config: SampleConfig, info: VaeInfo) -> DiT:
    """The model on the CPU, checked against the VAE and against what the settings ask of it.

    Raises UserError as `load_dit` and `check_vae` do, and for a class or a guidance that the
    model does not have.
    """
    model, latent = load_dit(config.checkpoint, config.weights, config.num_heads)
    check_vae(model, latent, info, config.checkpoint, config.vae)
    if model.out_channels != 2 * model.in_channels:
        raise UserError(
            f"{config.checkpoint}: predicts {model.out_channels} channels for "
            f"{model.in_channels}; the samplers need noise and variance (learn_sigma)"
        )
    classes = model.num_classes
    if (chosen := chosen_class(config)) >= max(classes, 1):
        flag = "index" if config.class_label is None else "label"
        raise UserError(
            f"--class-{flag} {chosen}: the model has {classes} classes, with indices from 0"
        )
    if config.guidance < 1.0 and classes > 1:
        print(
            f"note: --guidance {config.guidance:g} leans to the null class (0: that class alone); "
            "1 is without guidance",
            file=sys.stderr,
        )
    if config.guidance != 1.0 and not (classes > 1 and model.class_dropout_prob):
        raise UserError(
            f"--guidance {config.guidance}: needs a class-conditional model trained with class "
            "dropout; leave it at 1"
        )
    if not 0 <= config.guided_channels <= model.in_channels:
        raise UserError(
            f"--guided-channels {config.guided_channels}: expected 0 to {model.in_channels}"
        )
    return model


def draw_latents(
    config: SampleConfig,
    model: DiT,
    slots: Sequence[int],
    device: torch.device | str,
    on_step: Callable[[int], None] | None = None,
    predictor: Any = None,
) -> torch.Tensor:
    """The latents of the images with the indices `slots`: float32 [len(slots), C, h, w], scaled.

    They depend on the weights, the sampler, the seed, the labels and the indices only.

    Args:
        model: on the device; says the latents' shape and the number of classes.
        on_step: called with the number of finished sampling steps.
        predictor: what is called in the model's place (the model compiled).
    """
    classes = model.num_classes
    options: dict[str, Any] = {}
    if classes > 0:
        chosen = chosen_class(config)
        labels = [chosen if chosen >= 0 else i for i in slots]
        options["model_kwargs"] = {"y": torch.tensor(labels) % classes}
    if config.guidance != 1.0:
        options["null_kwargs"] = {"y": torch.full((len(slots),), classes)}
    return sample_latents(
        model if predictor is None else predictor,
        (model.in_channels, model.input_size, model.input_size),
        slots,
        sampler=config.sampler,
        steps=config.steps,
        seed=config.seed,
        device=device,
        precision="bf16" if config.precision == "bf16" else "fp32",
        guidance=config.guidance,
        guided_channels=config.guided_channels or None,
        on_step=on_step,
        **options,
    )


def _load(config: SampleConfig) -> tuple[DiT, Vae]:
    """Model and VAE on the device, checked against each other and the settings."""
    device = pick_device(config.device, config.precision)
    try:
        vae = load_vae(config.vae, device)
        return load_checked(config, vae).to(device), vae
    except RuntimeError as error:  # no memory left on it
        raise UserError(f"--device {device}: {error}") from None


def _name(slot: int) -> str:
    return f"{slot:06d}"
