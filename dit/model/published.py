"""Checkpoints in the published DiT format, loaded strictly."""

from __future__ import annotations

import argparse
import math
import pickle
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from core.errors import UserError
from core.weights import plain_names
from dit.model.transformer import MODELS, DiT, sincos_2d


def load_official(
    source: Path | str | Mapping[str, Any],
    *,
    weights: str = "ema",
    num_heads: int | None = None,
    num_classes: int | None = None,
    constructor: Callable[..., DiT] = DiT,
) -> DiT:
    """A DiT from a published-format checkpoint, loaded strictly, in eval mode on the CPU.

    The shape is read off the tensors. Two things cannot be: the number of heads (looked up in
    MODELS by depth and width, else `num_heads`), and whether a label table of r > 1 rows is r
    classes or r - 1 classes and the null row (assumed; `num_classes=r` says otherwise).

    Args:
        source: .pt file (a state dict, or the training script's {model, ema, opt, args}),
            .safetensors file, or the state dict itself.
        weights: 'ema' or 'raw', which of the two a training checkpoint gives.
    Raises UserError for a file that cannot be read or holds something else.
    """
    state = _read_state(source, weights)
    for name, value in state.items():
        if not value.is_floating_point() or not value.isfinite().all():
            kind = value.dtype if not value.is_floating_point() else "values that are not finite"
            raise UserError(f"{_name(source)}: {name} holds {kind}; it cannot be used")
    try:
        hidden, channels, patch, _ = state["x_embedder.proj.weight"].shape
        tokens = state["pos_embed"].shape[1]
        depth = 1 + max(int(key.split(".")[1]) for key in state if key.startswith("blocks."))
        out = state["final_layer.linear.weight"].shape[0] // patch**2
        width = state["blocks.0.mlp.fc1.weight"].shape[0]
    except (KeyError, ValueError, IndexError) as error:
        raise UserError(f"{_name(source)}: not a DiT state dict ({error})") from None
    if num_heads is None:
        shapes = {(m["depth"], m["hidden_size"]): m["num_heads"] for m in MODELS.values()}
        if (depth, hidden) not in shapes:
            raise UserError(
                f"{_name(source)}: depth {depth}, width {hidden} is no published DiT, and the file "
                "does not hold its number of attention heads; say num_heads= (--num-heads)"
            )
        num_heads = shapes[depth, hidden]
    table = state.get("y_embedder.embedding_table.weight")
    rows = 0 if table is None else table.shape[0]
    if num_classes is None:
        num_classes = rows - 1 if rows > 1 else rows
    # Rounded in a half-precision file; they are fixed, so they can be had exactly.
    if state["pos_embed"].dtype != torch.float32 and hidden % 4 == 0:
        fixed = sincos_2d(hidden, math.isqrt(tokens))[None]
        rounded = state["pos_embed"].float()
        if rounded.shape == fixed.shape and torch.allclose(rounded, fixed, atol=4e-3):
            state["pos_embed"] = fixed
    try:
        model = constructor(
            input_size=math.isqrt(tokens) * patch,
            patch_size=patch,
            in_channels=channels,
            hidden_size=hidden,
            depth=depth,
            num_heads=num_heads,
            mlp_ratio=width / hidden,
            class_dropout_prob=0.1 if rows == num_classes + 1 and rows > 1 else 0.0,
            num_classes=num_classes,
            learn_sigma=out == 2 * channels,
        )
        model.load_state_dict(state, strict=True)
    except (RuntimeError, ValueError) as error:
        raise UserError(f"{_name(source)}: {error}") from None
    return model.eval()


def _name(source: Path | str | Mapping[str, Any]) -> str:
    return "state dict" if isinstance(source, Mapping) else str(source)


def _read_state(source: Path | str | Mapping[str, Any], weights: str) -> dict[str, Tensor]:
    if weights not in ("ema", "raw"):
        raise UserError(f"weights '{weights}': expected 'ema' or 'raw'")
    if isinstance(source, Mapping):
        loaded: Any = source
    elif not Path(source).is_file():
        raise UserError(f"{source}: no such file")
    elif Path(source).suffix == ".safetensors":
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        try:
            loaded = load_file(source)
        except (OSError, SafetensorError) as error:
            raise UserError(f"{source}: not a readable checkpoint ({error})") from None
    else:
        try:
            # Training checkpoints carry their argparse.Namespace; nothing else is let in.
            with torch.serialization.safe_globals([argparse.Namespace]):
                loaded = torch.load(source, map_location="cpu", weights_only=True)
        except pickle.UnpicklingError:
            raise UserError(
                f"{source}: not a readable checkpoint (no PyTorch file, or one that holds more "
                "than tensors and would run code of its own when loaded, which is not done)"
            ) from None
        except Exception as error:
            first = str(error).strip().splitlines()[0] if str(error).strip() else repr(error)
            raise UserError(f"{source}: not a readable checkpoint ({first})") from None
    if isinstance(loaded, Mapping):
        part, other = ("ema", "model") if weights == "ema" else ("model", "ema")
        if isinstance(loaded.get(part), Mapping):
            loaded = loaded[part]
        elif isinstance(loaded.get(other), Mapping):
            raise UserError(
                f"{_name(source)}: holds no '{part}', only '{other}'; ask for its "
                f"{'raw' if weights == 'ema' else 'ema'} weights (--weights, --init-weights)"
            )
        if loaded and all(isinstance(value, Tensor) for value in loaded.values()):
            return plain_names(loaded, _name(source))
    raise UserError(f"{_name(source)}: holds no state dict")
