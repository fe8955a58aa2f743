"""Precision, recall, density, coverage: what share of one set lies in the manifold of the other.

A set's manifold is the union of balls around its samples, each as wide as the distance to the
sample's k-th nearest neighbour in the set, NND_k. Of generated Y (m) and real X (n):

    precision   1/m  sum_j  [some i: |y_j - x_i| <= NND_k(x_i)]      Kynkaanniemi et al. 2019, k = 3
    recall      1/n  sum_i  [some j: |x_i - y_j| <= NND_k(y_j)]
    density     1/km sum_j  #{i: |y_j - x_i| <= NND_k(x_i)}          Naeem et al. 2020, k = 5
    coverage    1/n  sum_i  [some j: |x_i - y_j| <= NND_k(x_i)]

All depend on the counts: compare values of equal n only. Two sets of one distribution and of equal
counts have a coverage of about 1 - 2^-k (0.97 at k = 5) and a density of 1; their precision
and recall have no such fixed value, and fall with the dimension of the data.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from core.errors import UserError
from eval.distances.arrays import blocks, nearest, neighbour_radii, pair, squared_distances

K_RECALL, K_COVERAGE = 3, 5


@dataclasses.dataclass(frozen=True)
class Manifolds:
    """One value for each image; the metric is the mean. Generated: m images; real: n.

    Attributes:
        precision: bool [m].
        recall: bool [n].
        density: float64 [m], at least 0 (its mean can exceed 1).
        coverage: bool [n].
    """

    precision: np.ndarray
    recall: np.ndarray
    density: np.ndarray
    coverage: np.ndarray


def manifolds(
    generated: np.ndarray,
    real: np.ndarray,
    *,
    k_recall: int = K_RECALL,
    k_coverage: int = K_COVERAGE,
) -> Manifolds:
    """Which images of one set lie in the other's manifold (see the module's top).

    Args:
        generated, real: features [m, d] and [n, d]; each needs more rows than its k.
        k_recall: of precision and recall.
        k_coverage: of density and coverage.
    """
    generated, real = pair(generated, real)
    around_generated = neighbour_radii(generated, k_recall)
    around_real = neighbour_radii(real, k_recall)
    wider = neighbour_radii(real, k_coverage)
    m, n = len(generated), len(real)
    precision, recall = np.zeros(m, bool), np.zeros(n, bool)
    density, coverage = np.zeros(m), np.zeros(n, bool)
    for rows in blocks(n, m):
        distance = np.sqrt(squared_distances(real[rows], generated))
        precision |= (distance <= around_real[rows, None]).any(axis=0)
        recall[rows] = (distance <= around_generated).any(axis=1)
        inside = distance <= wider[rows, None]
        density += inside.sum(axis=0) / k_coverage
        coverage[rows] = inside.any(axis=1)
    return Manifolds(precision, recall, density, coverage)


def class_recall(
    generated: np.ndarray, real: np.ndarray, labels: Sequence[str], *, k: int = K_RECALL
) -> dict[str, dict[str, Any]]:
    """Of each class of the real images: is it generated, and how often? A dropped mode shows.

    Args:
        generated, real: features [m, d] and [n, d].
        labels: class of each real image [n].
        k: of the generated images' manifold.

    Returns:
        class -> n_real; recall: share of its real images that lie in the generated manifold;
        real_share: of the real images; generated_share: of the generated images, those whose
        nearest real image is of the class.
    """
    generated, real = pair(generated, real)
    if len(labels) != len(real):
        raise UserError(f"{len(labels)} labels for {len(real)} real images")
    radii = neighbour_radii(generated, k)
    recalled = np.zeros(len(real), bool)
    for rows in blocks(len(real), len(generated)):
        squares = squared_distances(real[rows], generated)
        recalled[rows] = (np.sqrt(squares) <= radii).any(axis=1)
    classes = np.asarray(labels)
    taken = classes[nearest(generated, real)[0]]
    return {
        str(name): {
            "n_real": int((classes == name).sum()),
            "recall": float(recalled[classes == name].mean()),
            "real_share": float((classes == name).mean()),
            "generated_share": float((taken == name).mean()),
        }
        for name in np.unique(classes)
    }
