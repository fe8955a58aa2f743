"""How well an encoder tells scenes apart: leave-one-out k-NN on a folder of classes.

A check of an encoder before anything is pruned with it: every image is given the majority label
of its k nearest neighbours among all the others, by cosine.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from core.errors import UserError
from core.parallel import available_cpus
from core.settings import machine, parse, settings
from prune.encoders.config import Device, Precision


@settings
class AccuracyConfig:
    """Settings. Give --images, or --embeddings that prune.embed --reference has made."""

    images: Path | None = None
    """Labelled images: ROOT/CLASS/IMAGE. They are embedded into a temporary folder."""
    embeddings: Path | None = None
    """Embeddings of a reference set, instead of --images."""
    k: int = 5
    """Neighbours that vote."""
    encoder: str = "descriptor"
    """Encoder for --images: descriptor or git-rsclip."""
    weights: str | None = None
    """Weights of the encoder: local folder, or Hugging Face repository."""
    workers: int = machine(available_cpus())
    """Processes that decode (machine setting)."""
    device: Device = machine("auto")
    """Where the encoder runs (machine setting)."""
    precision: Precision = machine("auto")
    """Arithmetic of the encoder (machine setting)."""


def knn_predict(
    features: NDArray[np.float32], labels: NDArray[np.int64], k: int = 5, block: int = 512
) -> NDArray[np.int64]:
    """Majority label among each row's k nearest other rows, by cosine.

    Args:
        features: n x d, unit rows.
        labels: n class numbers, >= 0.
        k: neighbours, 1 to n - 1.
        block: rows compared at a time; memory is block x n floats.

    Returns:
        n predicted class numbers. Equal votes go to the class with the larger summed cosine.
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


def main(argv: Sequence[str] | None = None) -> int | None:
    """The command. Raises UserError for what the user can mend."""
    config = parse(
        AccuracyConfig,
        argv,
        prog="python -m prune.descriptor_accuracy",
        description="Leave-one-out k-NN accuracy of an encoder on a folder of classes.",
    )
    if (config.images is None) == (config.embeddings is None):
        raise UserError("give either --images or --embeddings")
    if config.embeddings is not None:
        return _report(config.embeddings, config.k)
    from prune import embed

    with tempfile.TemporaryDirectory() as folder:
        flags = ["--reference", str(config.images), "--out", folder, "--encoder", config.encoder]
        flags += [] if config.weights is None else ["--weights", config.weights]
        flags += ["--workers", str(config.workers), "--device", config.device]
        embed.main([*flags, "--precision", config.precision])
        return _report(Path(folder), config.k)


def _report(folder: Path, k: int) -> int:
    from data.formats.embeddings import Embeddings

    embeddings = Embeddings(folder)
    names, labels = np.unique(
        np.asarray(embeddings.table(["label"])["label"].to_pylist()), return_inverse=True
    )
    if not 1 <= k < len(embeddings):
        raise UserError(
            f"--k {k}: there are {len(embeddings):,} images; choose 1 or more, but fewer"
        )
    right = knn_predict(embeddings.matrix(), labels, k) == labels
    each = sorted((float(right[labels == n].mean()), name) for n, name in enumerate(names))
    print(f"classes, worst to best: {', '.join(f'{name} {100 * a:.0f} %' for a, name in each)}")
    print(
        f"{embeddings.encoder['name']}, {embeddings.dim}-d: leave-one-out {k}-NN accuracy "
        f"{100 * right.mean():.2f} % ({len(embeddings):,} images, {len(names)} classes; "
        f"chance about {100 * float(np.square(np.bincount(labels) / len(labels)).sum()):.1f} %)"
    )
    return 0
