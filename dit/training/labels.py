"""Class labels in training, and starting from a checkpoint that may or may not have them.

Whether a label is dropped (classifier-free guidance, arXiv 2207.12598) is a function of
(seed, step, slot) like everything else that a step sees, never of a random state.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from core.errors import UserError
from dit.latents.store import LatentSource, LatentStore
from dit.training.order import Picks

if TYPE_CHECKING:
    import torch

    from dit.model.transformer import DiT

_TABLE = "y_embedder.embedding_table.weight"
_TIME_BIAS = "t_embedder.mlp.2.bias"


@dataclasses.dataclass(frozen=True)
class Labels:
    """Attributes: names: the classes, sorted. ids: class of each key, int64."""

    names: list[str]
    ids: NDArray[np.int64]


def read_labels(path: Path, keys: Sequence[str]) -> Labels:
    """Labels of `keys` from a Parquet file with columns key and label (text or integers).

    Classes are numbered in sorted order (integers by value); every label in the file counts,
    so that a subset keeps the numbers of the whole. Raises UserError for a file that cannot be
    read or has other columns, for a key without a label, and for one with two.
    """
    try:
        table = pq.read_table(path, columns=["key", "label"])
    except FileNotFoundError:
        raise UserError(f"--labels {path}: no such file") from None
    except (OSError, pa.ArrowException) as error:
        why = str(error).splitlines()[0]
        raise UserError(f"--labels {path}: no Parquet with columns key, label ({why})") from None
    kind = table["label"].type
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    of = pa.types
    text = of.is_string(kind) or of.is_large_string(kind) or of.is_string_view(kind)
    if not (text or of.is_integer(kind) or of.is_null(kind)):
        raise UserError(f"--labels {path}: labels of type {kind}; expected text or integers")
    labels = table["label"].to_pylist()
    found: dict[str, Any] = {}
    for key, label in zip(table["key"].to_pylist(), labels, strict=True):
        if label is None:
            continue
        if found.setdefault(key, label) != label:
            raise UserError(f"--labels {path}: {key} is both {found[key]} and {label}")
    missing = [key for key in keys if key not in found]
    if missing:
        raise UserError(
            f"--labels {path}: no label for {len(missing):,} of {len(keys):,} images, the first "
            f"{missing[0]}; label them, or select without them"
        )
    classes = sorted(set(found.values()))
    number = {label: place for place, label in enumerate(classes)}
    ids = np.array([number[found[key]] for key in keys], dtype=np.int64)
    return Labels([str(name) for name in classes], ids)


class LabelledSource(LatentSource):
    """Latents with their classes: adds y, int64 [b], and drop, bool [b], to a step's batch.

    Args:
        dropout: chance that a slot's label is replaced by the null class, in [0, 1).
    """

    def __init__(self, store: LatentStore, labels: Labels, dropout: float) -> None:
        super().__init__(store)
        self.labels, self.dropout = labels, dropout

    def load(self, picks: Picks) -> dict[str, torch.Tensor]:
        import torch

        batch = super().load(picks)
        batch["y"] = torch.from_numpy(self.labels.ids[picks.indices])
        if self.dropout:
            batch["drop"] = torch.from_numpy(picks.uniforms[:, 0] < self.dropout)
        return batch


def start_from(
    model: DiT, path: Path, weights: Literal["ema", "raw"], num_heads: int | None = None
) -> list[str]:
    """Give `model` the weights of a checkpoint: one of ours, or a file in the published format.

    The label table is the one thing that may differ. A class-conditional checkpoint becomes
    unconditional as its null class: that row is added to the bias that follows the timestep,
    which gives the same outputs. For other classes than the checkpoint's the table is new,
    but for the null row.

    Returns notes on what was changed. Raises UserError for another shape of network.
    """
    import torch

    from dit.model.published import load_official
    from dit.model.transformer import DiT
    from dit.training.checkpoint import load_model

    if path.is_file():
        other: Any = load_official(path, weights=weights, num_heads=num_heads)
    else:
        other, _ = load_model(path, weights)
    if not isinstance(other, DiT):
        raise UserError(f"--init {path}: holds a {type(other).__name__}, expected a DiT")
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
        if table is not None and table.shape == own[_TABLE].shape:
            state[_TABLE] = table
        else:
            state[_TABLE] = own[_TABLE].clone()
            if null is not None and model.class_dropout_prob:
                state[_TABLE][-1] = null
            there = other.num_classes if table is not None else "no"
            notes.append(f"{there} classes there, {model.num_classes} here: a new label table")
    with torch.no_grad():
        model.load_state_dict(state, strict=True)
    return notes
