"""A pretrained DiT that sees a condition: an image's latent (SR) or a class mask (SIS).

The paper initialises both downstream models from the pretrained DiT and does not say how the
condition enters. Here it is concatenated to the noisy latent, [z_t, c], in front of a widened
patch embedding, the way latent diffusion does it (Rombach et al. 2022, sections 4.3.2 and 4.4):

    SR    c = scale * mean of VAE(LR image brought back to full size)
    SIS   c = E(mask), E a learned embedding of the classes in each latent cell

The weights of the added channels start at zero and everything else is copied, so at step 0 the
network is the pretrained one, whatever the condition says.

A model that is trained with condition dropout has a null condition besides, for classifier-free
guidance (Ho and Salimans, arXiv 2207.12598): a learned vector of the condition's channels, the same
in each latent cell, which starts at zero. Zeros for good would do for SIS, where E of a mask is
seldom zero, but are a flat grey image's latent for SR.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from core.errors import UserError
from dit.model.transformer import DiT
from dit.training.checkpoint import LOADERS

MASK_CHANNELS = 4  # channels of E(mask)


@torch.no_grad()
def widen_patch_embedding(dit: DiT, extra: int) -> None:
    """Give `dit.x_embedder.proj` `extra` (>= 1) more input channels, in place, after its own.

    Their weights are zero; those of its own channels and the bias are kept.
    """
    if extra < 1:
        raise ValueError(f"extra channels: {extra}, expected at least 1")
    proj = dit.x_embedder.proj
    proj.weight = nn.Parameter(pad(proj.weight, (0, 0, 0, 0, 0, extra)))  # [out, in, kh, kw]
    proj.in_channels += extra


class MaskEmbed(nn.Module):
    """E: class ids [n, H, W] to [n, channels, H/factor, W/factor].

    A convolution of the one-hot mask with kernel and stride `factor`: each latent cell is a
    learned sum over the classes of the pixels that it covers, and where in it they lie.
    """

    def __init__(self, classes: int, channels: int, factor: int) -> None:
        super().__init__()
        self.classes = classes
        self.conv = nn.Conv2d(classes, channels, factor, stride=factor)

    @torch.no_grad()
    def initialise(self, generator: torch.Generator) -> None:
        """Normal weights by which a cell has unit variance: a cell has factor**2 ones."""
        factor = self.conv.stride[0]
        weight = torch.randn(self.conv.weight.shape, generator=generator) / factor
        self.conv.weight.copy_(weight)
        assert self.conv.bias is not None
        self.conv.bias.zero_()

    def forward(self, ids: Tensor) -> Tensor:
        count, height, width = ids.shape
        one_hot = self.conv.weight.new_zeros(count, self.classes, height, width)
        return self.conv(one_hot.scatter_(1, ids[:, None].long(), 1.0))


class ConditionedDiT(nn.Module):
    """A DiT over [z_t, condition].

    Args:
        dit: the base DiT's config (its in_channels C without the condition).
        condition: {"kind": "latent", "channels": c}, a condition [n, c, h, w] of scaled latents;
            or {"kind": "mask", "classes": k, "factor": f, "channels": c}, a condition of class
            ids [n, f*h, f*w]. Either with "null": True for a null condition.

    `config` rebuilds it: ConditionedDiT(**model.config). Weights start as in DiT; see `extend`.
    """

    def __init__(self, dit: dict[str, Any], condition: dict[str, Any]) -> None:
        super().__init__()
        self.config: dict[str, Any] = {"dit": dict(dit), "condition": dict(condition)}
        self.dit = DiT(**dit)
        widen_patch_embedding(self.dit, condition["channels"])
        self.embed: MaskEmbed | None = None
        if condition["kind"] == "mask":
            self.embed = MaskEmbed(condition["classes"], condition["channels"], condition["factor"])
        elif condition["kind"] != "latent":
            raise ValueError(f"condition kind {condition['kind']!r}: expected latent or mask")
        self.null: nn.Parameter | None = None
        if condition.get("null"):
            self.null = nn.Parameter(torch.zeros(condition["channels"], 1, 1))

    @property
    def gradient_checkpointing(self) -> bool:
        """Recompute activations in the backward pass; see DiT."""
        return self.dit.gradient_checkpointing

    @gradient_checkpointing.setter
    def gradient_checkpointing(self, value: bool) -> None:
        self.dit.gradient_checkpointing = value

    def forward(
        self,
        x: Tensor,
        t: Tensor,
        condition: Tensor,
        y: Tensor | None = None,
        drop: Tensor | None = None,
    ) -> Tensor:
        """Predict noise (and variance) of x [n, C, h, w] at t [n]; returns [n, 2C, h, w].

        `drop`, bool [n], names the samples that see the null condition instead of their own.
        Raises ValueError for it in a model that has none.
        """
        seen = condition if self.embed is None else self.embed(condition)
        if drop is not None:
            if self.null is None:
                raise ValueError("this model was built without a null condition")
            seen = torch.where(drop[:, None, None, None], self.null.to(seen.dtype), seen)
        kept = None
        if self.dit.num_classes:  # no label is dropped: the null class has no use here
            kept = torch.zeros(x.shape[0], dtype=torch.bool, device=x.device)
        return self.dit(torch.cat([x, seen.to(x.dtype)], dim=1), t, y, kept)


def extend(base: DiT, condition: dict[str, Any], seed: int) -> ConditionedDiT:
    """The base DiT with a condition: equal to it at step 0, its weights copied.

    `seed` draws E's initial weights. Raises UserError for a base of several classes, which
    would need labels that SR and SIS data do not have.
    """
    if base.num_classes > 1:
        raise UserError(
            f"the initial model has {base.num_classes} classes; SR and SIS need an unconditional "
            "one (num_classes 0 or 1)"
        )
    model = ConditionedDiT(base.config, condition)
    widened = copy.deepcopy(base)
    widen_patch_embedding(widened, condition["channels"])
    model.dit.load_state_dict(widened.state_dict())
    if model.embed is not None:
        model.embed.initialise(torch.Generator().manual_seed(seed))
    return model


LOADERS["ConditionedDiT"] = lambda config: ConditionedDiT(**config)
