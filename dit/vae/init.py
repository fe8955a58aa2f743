"""A good place to start a small autoencoder from: the image pyramid.

With random weights most of a short training goes into learning that a picture's colours should
pass through. This sets an AutoencoderKL so that, untrained, its first latent channels are the
image reduced by box means and its decoder enlarges them again, about bilinearly; training then
adds what such a pyramid loses. It also leaves latents that look like small images, which suits
a small diffusion model.

How colours pass the two GroupNorm + SiLU layers unharmed: each band v travels as the pair
(v, -v), since silu(v) - silu(-v) = v, beside a pair of constants (c, -c) that is large enough to
fix the group's variance. All residual branches start at zero (their last convolution does).
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

_CONSTANT = 4.0  # c; bands are in [-1, 1]
_GAIN = 2.0  # latent = gain * reduced image: about unit variance
_BANDS = 3  # bands that share a pair of constants
_BLUR = torch.tensor([0.25, 0.5, 0.25])  # after nearest-neighbour doubling: about bilinear


def start_as_pyramid(model: Any, logvar: float) -> None:
    """Set the weights of a fresh AutoencoderKL as described above.

    Args:
        model: AutoencoderKL with at least as many latent channels as image bands, and widths
            that hold `8 * ceil(bands / 3)` channels.
        logvar: log-variance that every posterior starts with.

    Raises ValueError when the model is too narrow for it.
    """
    config = model.config
    bands, latents, groups = config.in_channels, config.latent_channels, config.norm_num_groups
    widths = config.block_out_channels
    pairs = math.ceil(bands / _BANDS)
    path = 2 * (_BANDS + 1) * pairs
    if latents < bands or path > min(widths):
        raise ValueError(f"{bands} bands need {path} channels and {bands} latent channels")
    plus = [2 * band + 2 * (band // _BANDS) for band in range(bands)]  # v there, -v after it
    constants = [(2 * _BANDS + 2) * pair + 2 * _BANDS for pair in range(pairs)]  # c, then -c

    def norm_scale(width: int) -> float:
        """What GroupNorm multiplies a band by when the constants fix the variance."""
        size = width // groups
        inside = sum(channel < size for channel in constants)  # pairs in the first group
        if size % 8:
            raise ValueError(f"groups of {size} channels cannot hold bands and constants")
        return math.sqrt(size / (2 * inside)) / _CONSTANT

    def enter(conv: nn.Conv2d, factor: float) -> None:
        """Image (or latent) bands to pairs, and the constants from the bias."""
        _clear(conv, path)
        for band, channel in enumerate(plus):
            conv.weight[channel, band, 1, 1] = factor
            conv.weight[channel + 1, band, 1, 1] = -factor
        assert conv.bias is not None
        for channel in constants:
            conv.bias[channel], conv.bias[channel + 1] = _CONSTANT, -_CONSTANT

    def keep(conv: nn.Conv2d, kernel: Tensor) -> None:
        """Every channel of the path to itself, filtered."""
        _clear(conv, path)
        for channel in range(path):
            conv.weight[channel, channel] = kernel

    def leave(conv: nn.Conv2d, factor: float) -> None:
        """Pairs back to bands, after SiLU."""
        _clear(conv, bands)
        for band, channel in enumerate(plus):
            conv.weight[band, channel, 1, 1] = factor
            conv.weight[band, channel + 1, 1, 1] = -factor

    box = torch.zeros(3, 3)
    box[:2, :2] = 0.25  # the strided convolution pads right and below
    blur = torch.outer(_BLUR, _BLUR)
    with torch.no_grad():
        for module in model.modules():
            if type(module).__name__ == "ResnetBlock2D":
                nn.init.zeros_(module.conv2.weight)
                nn.init.zeros_(module.conv2.bias)
                if module.conv_shortcut is not None:
                    keep(module.conv_shortcut, torch.ones(1, 1))
            elif type(module).__name__ == "Downsample2D":
                keep(module.conv, box)
            elif type(module).__name__ == "Upsample2D":
                keep(module.conv, blur)
        enter(model.encoder.conv_in, 1.0)
        leave(model.encoder.conv_out, _GAIN / norm_scale(widths[-1]))
        enter(model.decoder.conv_in, 1.0 / _GAIN)
        leave(model.decoder.conv_out, 1.0 / norm_scale(widths[0]))
        model.quant_conv.weight.copy_(torch.eye(2 * latents)[..., None, None])
        model.quant_conv.weight[latents:] = 0.0
        model.quant_conv.bias[:latents] = 0.0
        model.quant_conv.bias[latents:] = logvar
        model.post_quant_conv.weight.copy_(torch.eye(latents)[..., None, None])
        nn.init.zeros_(model.post_quant_conv.bias)


def _clear(conv: nn.Conv2d, rows: int) -> None:
    """Zero the first output channels."""
    conv.weight[:rows] = 0.0
    assert conv.bias is not None
    conv.bias[:rows] = 0.0
