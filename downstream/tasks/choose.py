"""Which checkpoint of a run is evaluated: the last, or the one with the least held-out loss.

    loss = mean over pairs and timesteps of |eps - eps_theta(x_t, t, c)|^2

with the same few pairs, timesteps and noise for every checkpoint, so that differences are those of
the weights. It needs no sampling. Chosen on the validation split (`--validation` of
downstream.train) it is a fair choice; chosen on the very split that is reported, as "top results
recorded" may mean, it flatters, and is labelled best-test.
"""

from __future__ import annotations

import dataclasses
import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import torch

from core.engines import ALONE, ProcessGroup
from core.errors import UserError
from core.progress import progress
from data.pairs.listing import Listing
from dit.diffusion.gaussian import Diffusion
from dit.diffusion.noise import slot_noise
from dit.training.checkpoint import Weights, load_model, step_of
from dit.vae.autoencoder import Vae, to_unit
from downstream.tasks.dataset import Crop, fixed_crops
from downstream.tasks.source import open_pairs

PAIRS = 64  # of the split, spread evenly; the centre of each
TIMESTEPS = tuple(range(62, 1000, 125))  # the middles of eight equal parts of 0..999
STREAM = 17  # of the noise; sampling has 16


def slot_of(key: str, crop: Crop) -> int:
    """The number that fixes a crop's noise, beside the seed: of the image's key and the place."""
    digest = hashlib.sha256(f"{key}\n{crop.top}\n{crop.left}".encode()).digest()
    return int.from_bytes(digest[:8], "big")


def choose(
    candidates: list[Path],
    listing: Listing,
    split: str,
    vae: Vae,
    *,
    settings: dict[str, Any],
    weights: Weights,
    batch: int,
    reading: dict[str, Any],
    group: ProcessGroup = ALONE,
) -> tuple[Path, dict[str, Any]]:
    """The checkpoint of the least held-out loss on `split` (of equal ones the later), and a record:
    split, pairs, timesteps, and each candidate's step and loss. The processes of a group measure
    some of the candidates each, and come to the same.

    Raises UserError for a damaged checkpoint and where no loss is finite.
    """
    items = listing.items(split)
    spread = np.unique(np.linspace(0, len(items) - 1, min(PAIRS, len(items))).round().astype(int))
    few = dataclasses.replace(listing, splits={split: [items[i] for i in spread]})
    pairs = open_pairs(few, split, settings, **reading)
    crops = fixed_crops(pairs.sizes, pairs.image_size, grid=False)
    given = []
    for start in range(0, len(crops), batch):
        part = crops[start : start + batch]
        images, companions = pairs.crops(part)
        x0 = vae.encode(to_unit(images))[0] * vae.scale
        slots = [slot_of(pairs.keys[crop.index], crop) for crop in part]
        given.append((x0, pairs.condition(companions, vae), slots))

    own: dict[int, float] = {}
    for checkpoint in progress(group.mine(candidates), name=f"loss on {split}", unit="checkpoint"):
        model, _ = load_model(checkpoint, weights)
        model = model.to(vae.model.device)
        losses = []
        for x0, condition, slots in given:
            for t in TIMESTEPS:
                noise = slot_noise(0, STREAM, t, slots, x0.shape[1:]).to(x0.device)
                at = torch.full((len(x0),), t, device=x0.device)
                with torch.inference_mode():
                    terms = Diffusion().training_losses(model, x0, at, noise, condition=condition)
                losses.append(terms["mse"].double().cpu())
        own[step_of(checkpoint)] = float(torch.cat(losses).mean())
    found = {step: loss for each in group.exchange(own) for step, loss in each.items()}
    measured = [{"step": step_of(one), "loss": found[step_of(one)]} for one in candidates]
    finite = [n for n, one in enumerate(measured) if np.isfinite(one["loss"])]
    if not finite:
        raise UserError(f"{candidates[0].parent}: no checkpoint has a finite loss on '{split}'")
    best = min(reversed(finite), key=lambda n: measured[n]["loss"])
    record = {
        "split": split,
        "pairs": len(crops),
        "timesteps": list(TIMESTEPS),
        "candidates": measured,
        "step": measured[best]["step"],
    }
    return candidates[best], record
