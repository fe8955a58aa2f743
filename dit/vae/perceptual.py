"""Perceptual distances of images: LPIPS, and one that needs no model hub. They judge and teach.

LPIPS (Zhang et al. 2018, arXiv 1801.03924) is the lpips package's network on torchvision's AlexNet
or VGG-16. Where those weights cannot be had, the distance in EfficientNet-lite0's feature maps

    d(a, b) = 1/L sum_l 1/(H_l W_l) sum_hw | f_l(a)_hw / |f_l(a)_hw| - f_l(b)_hw / |f_l(b)_hw| |^2

over its L = 5 resolutions has the same form without LPIPS's weights for channels, which were
fitted to people's judgements: it is in [0, 4] (0 for equal images), uncalibrated, and compares
with nothing but itself.
"""

from __future__ import annotations

import dataclasses
import re
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from core.errors import UserError
from core.stage import sha256_file
from data.images import pretrained

EPSILON = 1e-10  # of a norm, as in lpips


@dataclasses.dataclass(frozen=True)
class Perceptual:
    """A distance between images.

    Attributes:
        name: label of its values.
        fingerprint: JSON-able: name, source and digest of the weights.
        function: of two tensors [n, 3, h, w] in [-1, 1]: distances [n], differentiable.
        network: its weights, frozen and in eval mode.
    """

    name: str
    fingerprint: dict[str, Any]
    function: Callable[[Tensor, Tensor], Tensor]
    network: Any


def load_perceptual(name: str, device: Any = "cpu", *, weights: Path | None = None) -> Perceptual:
    """Make a perceptual distance ready.

    Args:
        name: 'alex' or 'vgg' (LPIPS on that backbone), or 'efficientnet-lite0'.
        weights: the file, or the folder in which it is looked for first, under the name it was
            published by (alexnet-owt-7be5be79.pth, vgg16-397923af.pth,
            efficientnet-lite0-57934424.pth); then in the package, and for LPIPS in torch's hub
            cache, which it is downloaded into.

    Raises UserError for another name, and for weights that cannot be had or are damaged.
    """
    if name in _BACKBONES:
        return _lpips(name, device, weights)
    if name == "efficientnet-lite0":
        return _lite0(device, weights)
    known = ", ".join((*_BACKBONES, "efficientnet-lite0"))
    raise UserError(f"unknown perceptual distance '{name}'; known: {known}")


def _lite0(device: Any, weights: Path | None) -> Perceptual:
    path, digest = pretrained.find_lite0(weights)
    network = pretrained.folded(pretrained.load_lite0(path)).to(device)

    def maps(x: Tensor) -> list[Tensor]:
        return network.forward_intermediates(x, intermediates_only=True)

    name = "PD-EfficientNetLite0 (uncalibrated)"
    fingerprint = {"name": name, "source": pretrained.SOURCE, "digest": digest}
    return Perceptual(name, fingerprint, lambda a, b: distance(maps(a), maps(b)), network)


def distance(a: list[Tensor], b: list[Tensor]) -> Tensor:
    """d [n] of two sets of feature maps [n, c_l, h_l, w_l]; see above."""
    stages = [
        (_unit(f) - _unit(g)).square().sum(1).mean((1, 2)) for f, g in zip(a, b, strict=True)
    ]
    return torch.stack(stages).mean(0)


def _unit(maps: Tensor) -> Tensor:
    # Under the root, unlike lpips: the gradient at a place without any feature is then 0, not NaN.
    return maps / (maps.square().sum(1, keepdim=True) + EPSILON**2).sqrt()


_BACKBONES = {"alex": "AlexNet_Weights", "vgg": "VGG16_Weights"}  # torchvision's


def _lpips(name: str, device: Any, weights: Path | None) -> Perceptual:
    path, digest = _backbone(name, weights)
    from lpips import LPIPS

    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torchvision's notes on the old 'pretrained' argument
        network = LPIPS(net=name, pnet_rand=True, verbose=False)  # the heads are the package's
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
        # lpips keeps the layers of torchvision's `features` by their numbers, in slices.
        wanted = network.net.state_dict()
        found = {n: state["features." + n.partition(".")[2]] for n in wanted}
        network.net.load_state_dict(found)
    except Exception as error:  # a damaged file is met with errors of every type
        why = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise UserError(f"{path}: not the weights of torchvision's backbone ({why})") from None
    network = network.to(device).eval().requires_grad_(False)
    label = f"LPIPS-{name}"
    fingerprint = {"name": label, "source": f"torchvision, {path.name}", "digest": digest}

    def compared(a: Tensor, b: Tensor) -> Tensor:
        both = [network.net(network.scaling_layer(x)) for x in (a, b)]
        stages = [
            head((_unit(f.float()) - _unit(g.float())).square()).mean((2, 3))
            for head, f, g in zip(network.lins, *both, strict=True)
        ]
        return torch.cat(stages, 1).sum(1)

    return Perceptual(label, fingerprint, compared, network)


def _backbone(name: str, weights: Path | None) -> tuple[Path, str]:
    """The file of a backbone, in `weights` or torch's hub cache, and its SHA-256, checked."""
    import torchvision

    url = getattr(torchvision.models, _BACKBONES[name]).IMAGENET1K_V1.url
    file = url.rpartition("/")[2]
    stem = file.rpartition("-")[0]
    cache = Path(torch.hub.get_dir()) / "checkpoints"
    folders = [cache] if weights is None else [weights, cache]
    found = [path for folder in folders for path in sorted(folder.glob(f"{stem}-*.pth"))]
    if weights is not None and weights.is_file():
        found = [weights]
    if not found:
        try:
            torch.hub.load_state_dict_from_url(url, map_location="cpu", weights_only=True)
        except (OSError, RuntimeError) as error:
            raise UserError(
                f"LPIPS backbone '{name}': {url} cannot be downloaded ({error}); put {file} into "
                f"{cache} or into --weights FOLDER, or use efficientnet-lite0, which needs none "
                "of these"
            ) from None
        found = [cache / file]
    digest = sha256_file(found[0])
    promised = re.fullmatch(r".*-([0-9a-f]{8,})\.pth", found[0].name)
    if promised and not digest.startswith(promised[1]):
        raise UserError(
            f"{found[0]}: its SHA-256 begins with {digest[:8]}, not as its name says; it is "
            "damaged: delete it, and it is downloaded again"
        )
    return found[0], digest
