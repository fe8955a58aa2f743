"""Class labels in training.

Whether a label is dropped (classifier-free guidance, arXiv 2207.12598) is a function of
(seed, step, slot) like everything else that a step sees, never of a random state.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray

from core.errors import UserError
from data.formats import names as formats
from dit.latents.store import LatentSource, LatentStore
from dit.training.order import BatchPlan


@dataclasses.dataclass(frozen=True)
class Labels:
    """Attributes: names: the classes, sorted. ids: class of each key, int64."""

    names: list[str]
    ids: NDArray[np.int64]


def read_labels(path: Path, keys: Sequence[str]) -> Labels:
    """Labels of `keys` from a Parquet or CSV file with columns key and label (text or integers).

    Classes are numbered in sorted order (integers by value); every label in the file counts,
    so that a subset keeps the numbers of the corpus. Raises UserError for a file that cannot be
    read or has other columns, for a key without a label, and for one with two.
    """
    table = formats.read_labels(path)
    kind = table["label"].type
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    of = pa.types
    text = of.is_string(kind) or of.is_large_string(kind) or of.is_string_view(kind)
    if not (text or of.is_integer(kind) or of.is_null(kind)):
        raise UserError(f"--labels {path}: labels of type {kind}; expected text or integers")
    names = table["key"].to_pylist()
    given = [None if label == "" else label for label in table["label"].to_pylist()]
    found: dict[str, Any] = formats.by_key(names, given, f"--labels {path}")
    formats.require(keys, found, names, f"--labels {path}")
    classes = sorted(set(found.values()))
    index = {label: place for place, label in enumerate(classes)}
    ids = np.array([index[found[key]] for key in keys], dtype=np.int64)
    return Labels([str(name) for name in classes], ids)


class LabelledSource(LatentSource):
    """Latents with their classes: adds y, int64 [b], and drop, bool [b], to a step's batch.

    Args:
        dropout: chance that a slot's label is replaced by the null class, in [0, 1).
    """

    def __init__(self, store: LatentStore, labels: Labels, dropout: float) -> None:
        super().__init__(store)
        self.labels, self.dropout = labels, dropout

    def load(self, plan: BatchPlan) -> dict[str, torch.Tensor]:
        batch = super().load(plan)
        batch["y"] = torch.from_numpy(self.labels.ids[plan.indices])
        if self.dropout:
            batch["drop"] = torch.from_numpy(plan.uniforms[:, 0] < self.dropout)
        return batch
