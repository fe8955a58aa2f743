"""A trained DiT, by whatever names it: a run, a checkpoint, or a file in the published format."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from core.errors import UserError
from dit.model.published import load_official
from dit.model.transformer import DiT
from dit.training.checkpoint import Weights, class_names, load_model

_TABLE = "y_embedder.embedding_table.weight"
_TIME_BIAS = "t_embedder.mlp.2.bias"


def load_dit(path: Path, weights: Weights, num_heads: int = 0) -> tuple[DiT, dict[str, Any]]:
    """A DiT on the CPU and what its checkpoint says of its latents ({} for a published one).

    `num_heads` is for a file in the published format, which does not hold it; 0 looks it up.
    Raises UserError for a checkpoint that is missing, damaged, or of a conditioned model.
    """
    if path.is_file():
        return load_official(path, weights=weights, num_heads=num_heads or None), {}
    if num_heads:
        raise UserError(f"--num-heads {num_heads}: {path} is a run, which knows its own")
    model, state = load_model(path, weights)
    if not isinstance(model, DiT):
        raise UserError(f"{path}: holds a {type(model).__name__}, expected a plain DiT")
    return model, state["latent"]


def start_from(
    model: DiT, path: Path, weights: Weights, names: Sequence[str] = ()
) -> list[str]:
    """Give `model` the weights of a checkpoint: one of ours, or a file in the published format.

    The label table is the one thing that may differ. A class-conditional checkpoint becomes
    unconditional as its null class: that row is added to the bias that follows the timestep,
    which gives the same outputs. For other classes than the checkpoint's the table is new,
    but for the rows of classes that both name, and the null row.

    `names` are the model's classes, by index. Without names on both sides as many classes are
    taken for the same ones.

    Returns notes on what was changed. Raises UserError for another shape of network.
    """
    other, _ = load_dit(path, weights, model.config["num_heads"] if path.is_file() else 0)
    free = {"num_classes", "class_dropout_prob", "input_size"}
    differing = [
        f"{name} {other.config[name]} there, {value} here"
        for name, value in model.config.items()
        if name not in free and other.config[name] != value
    ]
    if differing:
        raise UserError(f"--init {path}: another network: {', '.join(differing)}; see --model")
    state, own, notes = dict(other.state_dict()), model.state_dict(), []
    state["pos_embed"] = own["pos_embed"]  # fixed, and a matter of the latents' size
    table = state.pop(_TABLE, None)
    null = None
    if table is not None and (other.class_dropout_prob or other.num_classes == 1):
        null = table[-1]
    if not model.num_classes and table is not None:
        if null is None:
            raise UserError(
                f"--init {path}: its {other.num_classes} classes have no null class, so it cannot "
                "become unconditional; give --labels"
            )
        state[_TIME_BIAS] = state[_TIME_BIAS] + null
        notes.append("its label table was folded into the timestep: it starts as its null class")
    elif model.num_classes:
        before = class_names(path) if table is not None else []
        same = list(names) == before if names and before else True
        if table is not None and same and table.shape == own[_TABLE].shape:
            state[_TABLE] = table
            if names and not before:
                notes.append(f"its {other.num_classes} classes have no names: taken in their order")
        else:
            state[_TABLE] = own[_TABLE].clone()
            if null is not None and model.class_dropout_prob:
                state[_TABLE][-1] = null
            shared = [name for name in names if name in before]
            for name in shared:
                state[_TABLE][names.index(name)] = table[before.index(name)]
            there = other.num_classes if table is not None else "no"
            kept = f", the rows of {len(shared)} by name" if shared else ""
            notes.append(
                f"{there} classes there, {model.num_classes} here: a new label table{kept}"
            )
    with torch.no_grad():
        model.load_state_dict(state, strict=True)
    return notes
