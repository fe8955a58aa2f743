"""What an autoencoder is trained on: L1, a perceptual term, KL and, late, a patch discriminator.

The recipe of Rombach et al. (2022, appendix G), in its scale: sums over pixels and channels,
divided by the batch. For images x, reconstructions y and posterior q,

    L = sum(|x - y| + w_p * perceptual(x, y)) + w_kl * KL(q || N(0, 1)) + w_g * adaptive * L_G .
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from core.errors import UserError
from data.images.composites import COMPOSITES
from dit.vae.perceptual import Perceptual, load_perceptual

GROUPS: dict[int, tuple[tuple[int, int, int], ...]] = {
    3: (COMPOSITES["rgb"],),
    4: (COMPOSITES["rgb"], COMPOSITES["infrared"]),
}
"""Bands of an image -> the groups of three that a network of photographs is shown."""


def make_perceptual(
    name: str, device: str | torch.device, channels: int = 3, weights: Path | None = None
) -> nn.Module:
    """The perceptual term by name: a module (x, y) -> distance for each image, float [N].

    'gradient' needs no weights. 'lpips-vgg', 'lpips-alex' and 'efficientnet-lite0' need pretrained
    ones: of the file or folder `weights`, from torch's cache or the package, or by download.
    UserError says so when they cannot be had; nothing is ever replaced by random weights.
    """
    if name == "none":
        return NoDistance()
    if name == "gradient":
        return GradientDistance()
    if channels not in GROUPS:
        raise UserError(
            f"--perceptual {name}: a network of photographs takes three bands, and how "
            f"{channels} bands are shown to it is known for {', '.join(map(str, GROUPS))} alone; "
            "take --perceptual gradient, or add the groups of three to dit/vae/losses.py"
        )
    found = load_perceptual(name.removeprefix("lpips-"), device, weights=weights)
    return NetworkDistance(found, GROUPS[channels])


class NoDistance(nn.Module):
    """Zero for every image."""

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return x.new_zeros(len(x))


class GradientDistance(nn.Module):
    """Mean absolute error of the horizontal and vertical differences, at three scales.

    A training-free stand-in for a perceptual loss: it asks for edges and texture where plain L1
    is content with blur. Scales are the image and its 2x and 4x box reductions, equally
    weighted. It says nothing of what a pretrained network would see.
    """

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        error = y - x  # differences and reductions are linear: take them of the error
        total = x.new_zeros(len(x))
        for scale in range(3):
            if scale:
                error = F.avg_pool2d(error, 2)
            across = (error[..., 1:] - error[..., :-1]).abs().mean(dim=(1, 2, 3))
            down = (error[..., 1:, :] - error[..., :-1, :]).abs().mean(dim=(1, 2, 3))
            total = total + (across + down) / 3
        return total


class NetworkDistance(nn.Module):
    """A pretrained network's distance of [-1, 1] images: the mean over groups of three bands.

    Of R, G, B, NIR these are R, G, B and NIR, R, G, the colour-infrared composite: there is no
    canonical choice.
    """

    def __init__(self, metric: Perceptual, groups: tuple[tuple[int, int, int], ...]) -> None:
        super().__init__()
        self.name, self._function, self._groups = metric.name, metric.function, groups

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        parts = [self._function(x[:, list(g)], y[:, list(g)]) for g in self._groups]
        return torch.stack(parts).mean(0)


class PatchDiscriminator(nn.Sequential):
    """PatchGAN (Isola et al. 2017): a real-or-fake score for overlapping 70-px patches.

    Its batch normalisation takes the statistics of `group` successive images (in latent diffusion
    those of a GPU's 12), so that they do not depend on how a batch is divided.

    Args:
        channels: image bands.
        width: channels of the first layer; doubled twice by strided layers and once without.
        group: images that are normalised together; 0: all that are given.
    """

    def __init__(self, channels: int, width: int = 64, group: int = 0) -> None:
        layers: list[nn.Module] = [nn.Conv2d(channels, width, 4, 2, 1), nn.LeakyReLU(0.2)]
        inner = width
        for stride in (2, 2, 1):
            outer = min(inner * 2, width * 8)
            layers += [
                nn.Conv2d(inner, outer, 4, stride, 1, bias=False),
                nn.BatchNorm2d(outer, track_running_stats=False),  # it is never in eval mode
                nn.LeakyReLU(0.2),
            ]
            inner = outer
        layers.append(nn.Conv2d(inner, 1, 4, 1, 1))
        super().__init__(*layers)
        self.group = group
        for module in self:
            if isinstance(module, nn.Conv2d):
                nn.init.normal_(module.weight, 0.0, 0.02)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
            elif isinstance(module, nn.BatchNorm2d):
                nn.init.normal_(module.weight, 1.0, 0.02)

    def forward(self, images: Tensor) -> Tensor:
        """Scores [N, 1, h, w] of images [N, channels, H, W]."""
        parts = images.split(self.group or len(images))
        return torch.cat([super(PatchDiscriminator, self).forward(part) for part in parts])


def hinge_loss(real: Tensor, fake: Tensor) -> Tensor:
    """The discriminator's loss: mean of max(0, 1 - real) and max(0, 1 + fake), halved."""
    return 0.5 * (F.relu(1.0 - real).mean() + F.relu(1.0 + fake).mean())


def adaptive_weight(of_reconstruction: Tensor, of_adversarial: Tensor) -> Tensor:
    """||grad reconstruction|| / ||grad adversarial|| at the decoder's last layer, in [0, 1e4].

    Makes the adversarial term as strong there as the reconstruction (Esser et al. 2021, Eq. 7).
    The gradients are those of the whole batch.
    """
    ratio = of_reconstruction.norm() / (of_adversarial.norm() + 1e-4)
    return ratio.clamp(0.0, 1e4).detach()
