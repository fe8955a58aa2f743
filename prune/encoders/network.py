"""The networks of encoders under PyTorch: strict loading, device, precision, features."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from core.engines import own_gpu
from core.errors import UserError
from core.weights import plain_names
from prune.encoders.base import Precision

SHOWN = 600  # characters of a list of tensors that do not fit


class Network:
    """A network on its device, which normalises pixels there, in float32.

    Args:
        build: gives the network with its weights, float32, in eval mode, on the CPU.
        pixels: normalisation: "scale" of uint8 values, "mean" and "std" of the channels.
        device: auto, cpu, cuda, or one of several GPUs: cuda:1.

    Raises UserError for a device that is not there, and what `build` raises.
    """

    def __init__(
        self,
        build: Callable[[], Any],
        pixels: Mapping[str, Any],
        device: str,
        precision: Precision,
    ) -> None:
        if device == "cuda" and not torch.cuda.is_available():
            raise UserError("--device cuda: torch finds no such device; use --device cpu")
        on_gpu = device != "cpu" and torch.cuda.is_available()
        if precision == "auto":
            precision = "fp32"
            if on_gpu:
                precision = "bf16" if torch.cuda.is_bf16_supported() else "fp16"
        gpu = own_gpu() if device in ("auto", "cuda") else device
        self._device = torch.device(gpu if on_gpu else "cpu")
        self._autocast: Any = contextlib.nullcontext()
        if precision != "fp32":
            dtype = torch.bfloat16 if precision == "bf16" else torch.float16
            self._autocast = torch.autocast(self._device.type, dtype)
        self._scale = pixels["scale"]
        self._mean, self._std = (
            torch.tensor(pixels[name], device=self._device).view(1, 3, 1, 1)
            for name in ("mean", "std")
        )
        self._model = build().to(self._device)

    def __call__(
        self, prepared: Sequence[NDArray[Any]], forward: Callable[[Any, Any], Any]
    ) -> NDArray[np.float32]:
        """forward(model, pixels [n, 3, S, S]) of n prepared images, uint8 S x S x 3."""
        batch = torch.from_numpy(np.stack(prepared)).to(self._device).permute(0, 3, 1, 2)
        pixels = (batch.float() * self._scale - self._mean) / self._std
        with torch.inference_mode(), self._autocast:
            return forward(self._model, pixels).float().cpu().numpy()


def load_strictly(model: torch.nn.Module, state: Any, where: Path) -> torch.nn.Module:
    """The model with every tensor of `state`, and no other, float32 and in eval mode.

    Raises UserError for missing, unexpected and misshapen tensors: what stays at its random
    initialisation would look right and mean nothing.
    """
    try:
        model.load_state_dict(state, strict=True)
    except (RuntimeError, TypeError, AttributeError) as error:
        what = str(error)
        what = what if len(what) <= SHOWN else f"{what[:SHOWN]} ..."
        raise UserError(f"{where}: not the weights of this network: {what}") from None
    return model.float().eval().requires_grad_(False)


def read_tensors(file: Path) -> dict[str, Any]:
    """A state dict from .safetensors, .pt, .pth or .bin (weights only: no code is run).

    One that training code has wrapped ('state_dict', 'model', see core.weights) is unwrapped.
    """
    from timm.models import load_state_dict  # takes seconds, and not every encoder needs it

    try:
        state = load_state_dict(str(file), use_ema=False, weights_only=True)
    except Exception as error:  # a damaged file is met with errors of every type
        why = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise UserError(f"{file}: unreadable, or not a file of weights alone ({why})") from None
    return plain_names(state, str(file))
