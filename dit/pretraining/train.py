"""A DiT trained on a latent store (Sec. 4 of the paper)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import nn

from core.atomic import atomic_path
from core.engines import process_group
from core.errors import UserError
from core.stage import Result, Stage
from dit.diffusion.samplers import sample_latents
from dit.latents.store import LatentSource, LatentStore
from dit.model.transformer import DiT, build
from dit.pretraining.config import DitConfig
from dit.pretraining.labels import LabelledSource, read_labels
from dit.training.loop import SampleHook, train
from dit.training.pretrained import start_from
from dit.vae.autoencoder import load_vae
from dit.vae.pictures import beside

_GRID = 4  # the sample grid is _GRID x _GRID
SHOWN = 20  # names of classes that are printed
_GRID_STEPS = 50  # DDIM steps of its samples


def train_dit(config: DitConfig, stage: Stage) -> Result:
    """Train a DiT on the latents of a store, or of a subset of its images; see `train`."""
    store = LatentStore(config.latents, config.subset, resident="auto")
    spread = store.statistics()
    print(
        f"[{stage.name}] latents of {store.rows:,} images "
        f"({store.nbytes / 2**20:,.0f} MiB, {'in memory' if store.resident else 'on disk'}), "
        f"std {spread['std']:.3f}, mean {spread['mean']:.3f}",
        flush=True,
    )
    source = LatentSource(store)
    options: dict[str, Any] = {"freq_shift": config.freq_shift}
    described: dict[str, Any] = {}
    if config.labels is not None:
        labels = read_labels(config.labels, store.keys)
        source = LabelledSource(store, labels, config.class_dropout)
        options |= {"num_classes": len(labels.names), "class_dropout_prob": config.class_dropout}
        described = {"classes": labels.names}
        shown = [f"{i} = {name}" for i, name in enumerate(labels.names[:SHOWN])]
        more = ", ..." if len(labels.names) > SHOWN else ""
        print(
            f"[{stage.name}] {len(labels.names):,} classes, index = name: {', '.join(shown)}{more}"
        )
    on_sample = _sample_hook(config, store) if config.sample_every else None
    model = _build(config, store, options)
    if config.init is not None:
        for note in start_from(
            model, config.init, config.init_weights, described.get("classes", ())
        ):
            print(f"[{stage.name}] {config.init}: {note}")
    extra = {"model": {"class": "DiT", **model.config}, **described}
    return train(config, model, source, config.out, stage, extra, on_sample)


def _build(config: DitConfig, store: LatentStore, options: dict[str, Any]) -> DiT:
    channels, height, width = store.shape
    if height != width:
        raise UserError(f"{config.latents}: latents of {height} x {width}, a DiT needs squares")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        try:
            return build(config.model, height, channels, **options)
        except ValueError as error:
            raise UserError(
                f"--model {config.model} does not fit the latents of {config.latents} ({error})"
            ) from None


def _sample_hook(config: DitConfig, store: LatentStore) -> SampleHook:
    """Draws the same _GRID**2 starting noises at every call, so that grids can be compared; of four
    bands a grid in true colour and, to its right, one in colour infrared."""
    main = process_group().main
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
        grid = beside(tiles.reshape(1, _GRID * size, _GRID * size, -1))[0]
        with atomic_path(path) as temporary:
            Image.fromarray(grid).save(temporary, format="PNG")
        return path

    return draw
