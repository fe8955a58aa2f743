"""Downstream pairs as the trainer takes them: a random crop, its latent, its condition."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from data.pairs.listing import Listing
from data.pairs.palettes import from_dict
from dit.training.order import BatchPlan, Stream
from dit.vae.autoencoder import Vae, to_unit
from downstream.tasks.bands import wanted
from downstream.tasks.dataset import PairDataset, random_crops
from downstream.tasks.sis import SisPairs
from downstream.tasks.sr import SrPairs


def open_pairs(
    listing: Listing, split: str, settings: Mapping[str, Any], **reading: Any
) -> PairDataset:
    """Read a split's images into memory and pair them.

    Args:
        settings: "bands" of a four-band VAE (downstream.tasks.bands.record_of); "task" and
            "image_size"; for sr "hr_size" and "factor"; for sis "tile_size" and
            "palette" (a palette's JSON form). A checkpoint has them as state["downstream"].
        reading: cache (bytes), workers (threads), quiet; see PairDataset.
    """
    items, size = listing.items(split), settings["image_size"]
    reading = {"bands": wanted(settings.get("bands")), **reading}
    if settings["task"] == "sr":
        return SrPairs(
            items,
            listing.report,
            hr_size=settings["hr_size"],
            factor=settings["factor"],
            image_size=size,
            **reading,
        )
    return SisPairs(
        items,
        listing.report,
        palette=from_dict(settings["palette"]),
        tile_size=settings["tile_size"],
        image_size=size,
        **reading,
    )


class DownstreamSource:
    """A dit.training.order.Source: pixels are cropped and encoded when a step asks for them.

    The crop's place comes from the batch plan's uniforms and the mirroring from its flips, for
    image and condition alike, so a step sees the same on any number of processes. So does whether
    it sees its condition at all, with a chance of `condition_dropout` that it does not.
    """

    def __init__(self, pairs: PairDataset, vae: Vae, condition_dropout: float = 0.0) -> None:
        self.pairs, self.vae, self.condition_dropout = pairs, vae, condition_dropout
        self.latent_shape: tuple[int, int, int] = vae.latent_shape(pairs.image_size)

    @property
    def keys(self) -> Sequence[str]:
        return self.pairs.keys

    def describe(self) -> dict[str, Any]:
        return {
            "shape": list(self.latent_shape),
            "scale": self.vae.scale,
            "vae_fingerprint": self.vae.fingerprint,
            "image_size": self.pairs.image_size,
        }

    def pixels(self, plan: BatchPlan) -> tuple[np.ndarray, np.ndarray]:
        """The plan's crops, mirrored: images [b, S, S, bands], companions [b, S, S, ...], uint8."""
        return planned_pixels(self.pairs, plan)

    def load(self, plan: BatchPlan) -> dict[str, torch.Tensor]:
        """x0, a scaled sample of the posterior, and the condition; both on the VAE's device.

        With condition dropout also "drop", bool [b], from the plan's third uniforms.
        """
        images, companions = self.pixels(plan)
        mean, std = self.vae.encode(to_unit(images))
        noise = plan.noise(self.latent_shape, Stream.POSTERIOR).to(mean.device)
        given = {
            "x0": (mean + std * noise) * self.vae.scale,
            "condition": self.pairs.condition(companions, self.vae),
        }
        if self.condition_dropout:
            given["drop"] = torch.from_numpy(plan.uniforms[:, 2] < self.condition_dropout)
        return given


def planned_pixels(pairs: PairDataset, plan: BatchPlan) -> tuple[np.ndarray, np.ndarray]:
    """The plan's crops, mirrored: images [b, S, S, bands], companions [b, S, S, ...], uint8."""
    crops = random_crops(pairs.sizes, plan.indices, plan.uniforms, pairs.image_size)
    images, companions = pairs.crops(crops)
    images[plan.flips] = images[plan.flips, :, ::-1]
    companions[plan.flips] = companions[plan.flips, :, ::-1]
    return images, companions
