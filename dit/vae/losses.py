"""What an autoencoder is trained on: L1, a perceptual term, KL and, late, a patch discriminator.

The recipe of Rombach et al. (2022, appendix G), in its scale: sums over pixels and channels,
divided by the batch. For images x, reconstructions y and posterior q,

    L = sum(|x - y| + w_p * perceptual(x, y)) + w_kl * KL(q || N(0, 1)) + w_g * adaptive * L_G .
"""

from __future__ import annotations

import contextlib
import io
import warnings
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from core.errors import UserError

_BACKBONES = {"vgg": "vgg16-397923af.pth", "alex": "alexnet-owt-7be5be79.pth"}


def make_perceptual(name: str, device: str | torch.device) -> nn.Module:
    """The perceptual term by name: a module (x, y) -> distance for each image, float [N].

    'gradient' needs no weights. 'lpips-vgg' and 'lpips-alex' need the pretrained backbone, from
    torch's cache or by download; UserError says so when it cannot be had. Nothing is ever
    replaced by random weights.
    """
    if name == "none":
        return NoDistance()
    if name == "gradient":
        return GradientDistance()
    return LpipsDistance(name.removeprefix("lpips-")).to(device)


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


class LpipsDistance(nn.Module):
    """LPIPS (Zhang et al. 2018) on [-1, 1] images of three or four bands.

    LPIPS knows three bands. For R, G, B, NIR it is the mean of LPIPS(R, G, B) and of
    LPIPS(NIR, R, G), the colour-infrared composite: there is no canonical choice.

    Args:
        net: 'vgg' or 'alex'.
    """

    def __init__(self, net: str) -> None:
        super().__init__()
        import lpips

        try:
            # The package prints, and calls torchvision with arguments it has deprecated.
            with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
                warnings.simplefilter("ignore")
                self.metric: Any = lpips.LPIPS(net=net, verbose=False)
        except Exception as error:
            raise UserError(
                f"--perceptual lpips-{net}: the pretrained {net} weights cannot be had "
                f"({type(error).__name__}: {error}); on a machine with a network copy "
                f"{_BACKBONES[net]} from download.pytorch.org/models to "
                f"{torch.hub.get_dir()}/checkpoints, or choose --perceptual gradient"
            ) from None
        self.metric.eval().requires_grad_(False)

    def train(self, mode: bool = True) -> LpipsDistance:
        return super().train(False)  # dropout stays off: it is a metric

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        distance = self.metric(x[:, :3], y[:, :3]).flatten()
        if x.shape[1] == 4:
            bands = [3, 0, 1]  # NIR, R, G
            distance = (distance + self.metric(x[:, bands], y[:, bands]).flatten()) / 2
        return distance


class PatchDiscriminator(nn.Sequential):
    """PatchGAN (Isola et al. 2017): a real-or-fake score for overlapping 70-px patches.

    Args:
        channels: image bands.
        width: channels of the first layer; doubled twice by strided layers and once without.
    """

    def __init__(self, channels: int, width: int = 64) -> None:
        layers: list[nn.Module] = [nn.Conv2d(channels, width, 4, 2, 1), nn.LeakyReLU(0.2)]
        inner = width
        for stride in (2, 2, 1):
            outer = min(inner * 2, width * 8)
            layers += [
                nn.Conv2d(inner, outer, 4, stride, 1, bias=False),
                nn.BatchNorm2d(outer),
                nn.LeakyReLU(0.2),
            ]
            inner = outer
        layers.append(nn.Conv2d(inner, 1, 4, 1, 1))
        super().__init__(*layers)
        for module in self:
            if isinstance(module, nn.Conv2d):
                nn.init.normal_(module.weight, 0.0, 0.02)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
            elif isinstance(module, nn.BatchNorm2d):
                nn.init.normal_(module.weight, 1.0, 0.02)


def hinge_loss(real: Tensor, fake: Tensor) -> Tensor:
    """The discriminator's loss: mean of max(0, 1 - real) and max(0, 1 + fake), halved."""
    return 0.5 * (F.relu(1.0 - real).mean() + F.relu(1.0 + fake).mean())


def adaptive_weight(reconstruction: Tensor, adversarial: Tensor, last: Tensor) -> Tensor:
    """||grad reconstruction|| / ||grad adversarial|| at the decoder's last layer, in [0, 1e4].

    Makes the adversarial term as strong there as the reconstruction (Esser et al. 2021, Eq. 7).
    """
    of_rec = torch.autograd.grad(reconstruction, last, retain_graph=True)[0]
    of_adv = torch.autograd.grad(adversarial, last, retain_graph=True)[0]
    return (of_rec.norm() / (of_adv.norm() + 1e-4)).clamp(0.0, 1e4).detach()
