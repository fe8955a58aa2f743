"""Downstream pairs as the trainer takes them: a random crop, its latent, its condition."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from dit.training.order import BatchPlan, Stream
from downstream.tasks.dataset import random_crops
from downstream.tasks.sis import SisTask
from downstream.tasks.sr import SrTask

if TYPE_CHECKING:
    import torch

    from dit.vae.autoencoder import Vae

Task = SrTask | SisTask


class DownstreamSource:
    """A dit.training.order.Source: pixels are cropped and encoded when a step asks for them.

    The crop's place comes from the plan's uniforms and the mirroring from their flips, for image
    and condition alike, so a step sees the same on any number of processes.
    """

    def __init__(self, task: Task, vae: Vae) -> None:
        self.task, self.vae = task, vae
        self.latent_shape: tuple[int, int, int] = vae.latent_shape(task.image_size)

    @property
    def keys(self) -> Sequence[str]:
        return self.task.bank.keys

    def describe(self) -> dict[str, Any]:
        return {
            "shape": list(self.latent_shape),
            "scale": self.vae.scale,
            "vae_fingerprint": self.vae.fingerprint,
            "image_size": self.task.image_size,
        }

    def pixels(self, plan: BatchPlan) -> tuple[np.ndarray, np.ndarray]:
        """The plan's crops, mirrored: images [b, S, S, 3], conditions [b, S, S, ...], uint8."""
        crops = random_crops(
            self.task.bank.sizes, plan.indices, plan.uniforms, self.task.image_size
        )
        images, conditions = self.task.crops(crops)
        images[plan.flips] = images[plan.flips, :, ::-1]
        conditions[plan.flips] = conditions[plan.flips, :, ::-1]
        return images, conditions

    def load(self, plan: BatchPlan) -> dict[str, torch.Tensor]:
        """x0, a scaled sample of the posterior, and the condition; both on the VAE's device."""
        from dit.vae.autoencoder import to_unit

        images, conditions = self.pixels(plan)
        mean, std = self.vae.encode(to_unit(images))
        noise = plan.noise(self.latent_shape, Stream.POSTERIOR).to(mean.device)
        return {
            "x0": (mean + std * noise) * self.vae.scale,
            "condition": self.task.condition(conditions, self.vae),
        }
