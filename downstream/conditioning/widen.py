"""More input channels for a trained DiT, without changing what it computes.

The condition is concatenated to the noisy latent, so the patch embedding gets more input
channels. Their weights start at zero and everything else, the bias included, is copied: at
step 0 the widened network is the pretrained one, whatever the condition says.
"""

from __future__ import annotations

import torch
from torch import nn

from dit.model.transformer import DiT


@torch.no_grad()
def widen_patch_embedding(dit: DiT, extra: int) -> None:
    """Give `dit.x_embedder.proj` `extra` (>= 1) more input channels, in place, after its own."""
    if extra < 1:
        raise ValueError(f"extra channels: {extra}, expected at least 1")
    old = dit.x_embedder.proj
    assert isinstance(old.kernel_size, tuple) and isinstance(old.stride, tuple)
    new = nn.Conv2d(
        old.in_channels + extra,
        old.out_channels,
        old.kernel_size,  # type: ignore[arg-type]
        stride=old.stride,  # type: ignore[arg-type]
        device=old.weight.device,
        dtype=old.weight.dtype,
    )
    assert old.bias is not None and new.bias is not None
    new.weight.zero_()
    new.weight[:, : old.in_channels].copy_(old.weight)
    new.bias.copy_(old.bias)
    dit.x_embedder.proj = new
