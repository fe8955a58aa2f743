"""The device that a --device flag means."""

from __future__ import annotations

import os

import torch

from core.engines import own_gpu
from core.errors import UserError


def pick_device(name: str, precision: str = "") -> str:
    """'auto' is this process's GPU where there is one, else the CPU; anything else is itself.

    Args:
        name: value of --device; '' is 'auto', as it was called in version 0.1.
        precision: for a GPU, 'fp32' forbids the shorter TF32 and others allow it; '' leaves both.

    Raises UserError for a device that is not there.
    """
    if name in ("auto", ""):
        name = own_gpu() if torch.cuda.is_available() else "cpu"
    try:
        torch.empty(1, device=name)
    except (RuntimeError, AssertionError) as error:  # no such device, or no memory left on it
        visible = os.environ.get("CUDA_VISIBLE_DEVICES")
        limit = "" if visible is None else f" (CUDA_VISIBLE_DEVICES={visible})"
        raise UserError(
            f"--device {name}: {str(error).splitlines()[0]}; torch sees "
            f"{torch.cuda.device_count()} GPUs, numbered from 0{limit}. --device auto takes what "
            "there is"
        ) from None
    if precision and torch.device(name).type == "cuda":
        torch.set_float32_matmul_precision("highest" if precision == "fp32" else "high")
        torch.backends.cudnn.allow_tf32 = precision != "fp32"
    return name
