"""How well an encoder tells scenes apart: leave-one-out k-NN on a folder of classes."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from core.errors import UserError
from core.stage import Result
from data.formats.embeddings import Embeddings
from prune.studies.config import AccuracyConfig
from prune.studies.pipeline import EmbedConfig, make


def accuracy(config: AccuracyConfig) -> Result:
    """Print the accuracy, in all and for each class; the result's summary has them too."""
    if (config.images is None) == (config.embeddings is None):
        raise UserError("give either --images or --embeddings")
    if config.embeddings is not None:
        return _measure(config.embeddings, config.k)
    with tempfile.TemporaryDirectory() as folder:
        embedded = EmbedConfig(
            reference=(str(config.images),),
            out=Path(folder),
            encoder=config.encoder,
            weights=config.weights,
            workers=config.workers,
            device=config.device,
            precision=config.precision,
        )
        return _measure(make(embedded), config.k)


def knn_predict(
    features: NDArray[np.float32], labels: NDArray[np.int64], k: int = 5, block: int = 512
) -> NDArray[np.int64]:
    """Majority label among each row's k nearest other rows, by cosine.

    Args:
        features: n x d, unit rows.
        labels: n class indices, >= 0.
        k: neighbours, 1 to n - 1.
        block: rows compared at a time; memory is block x n floats.

    Returns:
        n predicted class indices. Equal votes go to the class with the larger summed cosine.
    """
    count = len(features)
    if not 1 <= k < count:
        raise ValueError(f"k = {k} neighbours among {count} rows")
    predicted = np.empty(count, np.int64)
    for start in range(0, count, block):
        cosine = features[start : start + block] @ features.T
        rows = np.arange(len(cosine))
        cosine[rows, start + rows] = -np.inf  # leave one out
        nearest = np.argpartition(-cosine, k - 1, axis=1)[:, :k]
        votes = np.zeros((len(cosine), int(labels.max()) + 1))
        for place in nearest.T:
            # A vote is 1; cosines, at most 1/4 in sum, only decide between equal votes.
            votes[rows, labels[place]] += 1 + cosine[rows, place] / (4 * k)
        predicted[start : start + block] = votes.argmax(1)
    return predicted


def _measure(folder: Path, k: int) -> Result:
    embeddings = Embeddings(folder)
    names, labels = np.unique(
        np.asarray(embeddings.table(["label"])["label"].to_pylist()), return_inverse=True
    )
    if k >= len(embeddings):
        raise UserError(
            f"--k {k}: there are {len(embeddings):,} images; choose 1 or more, but fewer"
        )
    right = knn_predict(embeddings.matrix(), labels, k) == labels
    each = {str(name): float(right[labels == n].mean()) for n, name in enumerate(names)}
    worst_first = sorted((found, name) for name, found in each.items())
    print(f"classes, worst to best: {', '.join(f'{n} {100 * a:.0f} %' for a, n in worst_first)}")
    line = (
        f"{embeddings.encoder['name']}, {embeddings.dim}-d: leave-one-out {k}-NN accuracy "
        f"{100 * right.mean():.2f} % ({len(embeddings):,} images, {len(names)} classes; "
        f"chance about {100 * float(np.square(np.bincount(labels) / len(labels)).sum()):.1f} %)"
    )
    print(line)
    return Result(folder, {"accuracy": float(right.mean()), "classes": each}, line)
