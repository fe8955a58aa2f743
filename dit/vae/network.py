"""The autoencoder as a training holds it: built from a recipe, one forward pass, its copies."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from torch import Tensor, nn

from dit.vae.autoencoder import to_uint8, to_unit
from dit.vae.init import start_as_pyramid
from dit.vae.recipes import Recipe

BLOCK = 32  # images without gradients at a time


def build(recipe: Recipe, channels: int, seed: int) -> Any:
    """The untrained AutoencoderKL of a recipe; equal seeds give equal weights."""
    levels = len(recipe.block_out_channels)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = AutoencoderKL(
            in_channels=channels,
            out_channels=channels,
            down_block_types=("DownEncoderBlock2D",) * levels,
            up_block_types=("UpDecoderBlock2D",) * levels,
            block_out_channels=tuple(recipe.block_out_channels),
            layers_per_block=recipe.layers_per_block,
            latent_channels=recipe.latent_channels,
            norm_num_groups=recipe.norm_groups,
            mid_block_add_attention=recipe.mid_attention,
            sample_size=recipe.crop,
        )
    if recipe.start == "pyramid":
        start_as_pyramid(model, logvar=-6.0)  # noise of 1/20: the image is not lost in it
    return model


class Pass(nn.Module):
    """Images [N, C, H, W] and noise to (reconstructions, mean, std, logvar), all float32."""

    def __init__(self, vae: Any) -> None:
        super().__init__()
        self.vae = vae

    def forward(self, x: Tensor, noise: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        posterior = self.vae.encode(x).latent_dist
        mean, std, logvar = (v.float() for v in (posterior.mean, posterior.std, posterior.logvar))
        return self.vae.decode(mean + std * noise).sample.float(), mean, std, logvar


def compile_regions(model: Any, discriminator: nn.Module | None) -> None:
    """Compile encoder, decoder and discriminator, in place.

    The adaptive weight takes gradients at the decoder's last layer and keeps the graph for the
    step's own. So compiled regions may not give their buffers away in their first backward pass,
    and the last layer stays outside: a compiled region's backward is computed as a whole, the
    decoder's twice more in every step.
    """
    if discriminator is not None:
        torch._functorch.config.donated_buffer = False
        last = model.decoder.conv_out
        last.forward = torch.compiler.disable(last.forward)
        discriminator.compile(dynamic=False)
    for region in (model.encoder, model.decoder):
        region.compile(dynamic=False)


def divergence(mean: Tensor, std: Tensor, logvar: Tensor) -> Tensor:
    """KL(posterior || N(0, 1)) of each image, nats, [N]."""
    return 0.5 * (mean.square() + std.square() - 1.0 - logvar).sum(dim=(1, 2, 3))


@torch.no_grad()
def reconstruct(model: Any, images: np.ndarray) -> np.ndarray:
    """uint8 reconstructions of uint8 images N x H x W x C, from the posterior mean."""
    parts = []
    for start in range(0, len(images), BLOCK):
        x = to_unit(images[start : start + BLOCK]).to(model.device)
        parts.append(to_uint8(model.decode(model.encode(x).latent_dist.mode()).sample))
    return np.concatenate(parts)


@torch.no_grad()
def latent_statistics(model: Any, batches: Iterator[np.ndarray]) -> tuple[float, dict[str, Any]]:
    """(1 / standard deviation of the posterior's samples over uint8 images, what it came from).

    Exact for the images given: Var[mean + std * noise] = E[mean^2 + std^2] - E[mean]^2. The second
    is {"mean", "std"}: of all channels, unscaled; {"channel_mean", "channel_std"}: of each.
    """
    total: Any = 0.0
    for images in batches:
        posterior = model.encode(to_unit(images).to(model.device)).latent_dist
        mean, std = posterior.mean.double(), posterior.std.double()
        values = (torch.ones_like(mean), mean, mean.square() + std.square())
        total = total + torch.stack([value.sum((0, 2, 3)) for value in values]).cpu()
    count, first, second = total
    each = (second / count - (first / count).square()).sqrt()
    centre = (first.sum() / count.sum()).item()
    spread = (second.sum() / count.sum() - centre**2).sqrt().item()
    rounded = {"channel_mean": (first / count).tolist(), "channel_std": each.tolist()}
    return 1.0 / spread, {
        "mean": round(centre, 6),
        "std": round(spread, 6),
        **{name: [round(value, 6) for value in values] for name, values in rounded.items()},
    }
