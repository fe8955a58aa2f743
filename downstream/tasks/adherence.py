"""Does a generated image show its mask? What a frozen segmenter finds, against what was asked.

Of class c, over all pixels of all images whose mask is of a known class,

    IoU_c = TP_c / (TP_c + FP_c + FN_c),   mIoU = mean over the classes that the masks hold,
    accuracy = sum_c TP_c / pixels

The same for the real images is the ceiling, since the segmenter errs; the generated images against
the masks of other images are the floor, of a model that ignores its mask.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

RESAMPLES = 1000


def confusions(predicted: np.ndarray, masks: np.ndarray, classes: int) -> np.ndarray:
    """int64 [n, classes, classes] of class ids uint8 [n, h, w] twice: pixels of each image by
    class of the mask (row) and class that was found (column)."""
    image = np.arange(len(masks))[:, None, None]
    place = (image * classes + masks) * classes + predicted
    counts = np.bincount(place.ravel(), minlength=len(masks) * classes**2)
    return counts.reshape(len(masks), classes, classes)


@dataclasses.dataclass(frozen=True)
class Confusion:
    """Counts of `confusions` over all images, and what follows from them.

    Attributes: counts; names, of the classes; ignored, ids of the unknown ones.
    """

    counts: np.ndarray
    names: Sequence[str]
    ignored: Sequence[int]

    def summary(self, seed: int = 0) -> dict[str, Any]:
        """{"miou", "accuracy": {"name", "value", "interval_95", "images"}, "per_class": {name:
        IoU, or None where no mask holds the class}}; intervals by bootstrap over images.

        Values are None where every pixel is of an unknown class.
        """
        known = np.ones(len(self.names), bool)
        known[list(self.ignored)] = False
        kept = self.counts[:, known]  # rows: a mask's unknown pixels count nowhere
        hit = np.stack([kept[:, row, c] for row, c in enumerate(np.flatnonzero(known))], axis=1)
        asked, found = kept.sum(axis=2), kept.sum(axis=1)[:, known]
        n = len(self.counts)
        drawn = np.random.default_rng(seed).integers(0, max(1, n), (RESAMPLES, n))
        times = np.stack([np.bincount(row, minlength=n) for row in drawn])
        weights = np.concatenate([np.ones((1, n), int), times])  # all, then the resamples
        tp, rows, columns = (weights @ part for part in (hit, asked, found))
        with np.errstate(invalid="ignore", divide="ignore"):
            iou = np.where(rows > 0, tp / (rows + columns - tp), np.nan)
            accuracy = tp.sum(axis=1) / rows.sum(axis=1)
        present = np.isfinite(iou)
        miou = np.where(present, iou, 0).sum(axis=1) / np.maximum(1, present.sum(axis=1))
        miou[~present.any(axis=1)] = np.nan
        own = dict(zip(np.array(self.names)[known].tolist(), iou[0].tolist(), strict=True))
        return {
            "miou": _value("mIoU", miou, n),
            "accuracy": _value("accuracy", accuracy, n),
            "per_class": {name: None if np.isnan(v) else v for name, v in own.items()},
        }


def _value(name: str, values: np.ndarray, images: int) -> dict[str, Any]:
    if np.isnan(values[0]):
        return {"name": name, "value": None, "interval_95": None, "images": images}
    low, high = np.nanquantile(values[1:], (0.025, 0.975))
    interval = [float(low), float(high)]
    return {"name": name, "value": float(values[0]), "interval_95": interval, "images": images}
