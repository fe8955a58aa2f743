"""A VAE of a few thousand random weights, for tests that need one but not a good one."""

from __future__ import annotations

import json
from pathlib import Path

import torch


def save_tiny_vae(
    folder: Path,
    *,
    scaling_factor: float | None = 0.18215,
    in_channels: int = 3,
    seed: int = 0,
    gain: float = 1.0,
) -> Path:
    """Save an AutoencoderKL (factor 4, 4 latent channels) in diffusers' layout.

    Args:
        scaling_factor: None leaves the key out of config.json, as sd-vae-ft-ema does.
        gain: multiplies the latents.
    """
    from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = AutoencoderKL(
            in_channels=in_channels,
            out_channels=in_channels,
            block_out_channels=(8, 8, 8),
            down_block_types=("DownEncoderBlock2D",) * 3,
            up_block_types=("UpDecoderBlock2D",) * 3,
            norm_num_groups=4,
            mid_block_add_attention=False,
        )
    with torch.no_grad():
        model.quant_conv.weight[:4] *= gain
        model.quant_conv.bias[:4] *= gain
    model.save_pretrained(folder)
    path = folder / "config.json"
    config = json.loads(path.read_text())
    config.pop("scaling_factor")
    if scaling_factor is not None:
        config["scaling_factor"] = scaling_factor
    path.write_text(json.dumps(config, indent=2))
    return folder
