"""Authenticity: are generated images nearer to the training images than to unseen real ones?

With equally many training images T and unseen real images U of one distribution, a generator that
learnt the distribution and copied nothing is as often nearest to the one as to the other:

    nearer_to_training = 1/m sum_j [ min_T |y_j - t| < min_U |y_j - u| ]   (a tie counts 1/2)

is 0.5, and 1 for copies; real images that are in neither show what the two sets themselves give
(as the copying tests of Meehan et al. 2020 do, with held-out images for a baseline). And the
share of authentic images of Alaa et al. 2022, which looks at all training images: y_j is not
authentic when it is nearer to its nearest training image than that one is to any other,

    authentic = 1/m sum_j [ |y_j - t(j)| >= min over T without t(j) of |t(j) - t| ].

Copies are seen in the space that they are near in: take the judge's features and `pixels`.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from PIL import Image

from core.errors import UserError
from eval.distances.arrays import checked, nearest, neighbour_radii, pair
from eval.distances.bootstrap import bootstrap_interval

SIDE = 16


def pixels(images: np.ndarray, side: int = SIDE) -> np.ndarray:
    """Images as small pictures: area means of RGB in [0, 1].

    Args:
        images: uint8 [n, h, w, 3].

    Returns:
        float64 [n, side * side * 3]; a Euclidean distance of it is one of colours in their places.
    """
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[3] != 3:
        raise UserError(f"pixels wants uint8 [n, h, w, 3], got {images.dtype} {images.shape}")
    box = Image.Resampling.BOX
    small = [np.asarray(Image.fromarray(image).resize((side, side), box)) for image in images]
    return np.stack(small).reshape(len(images), -1) / 255.0


def authenticity(
    generated: np.ndarray, training: np.ndarray, unseen: np.ndarray, *, seed: int = 0
) -> dict[str, Any]:
    """How near generated images are to training images, with unseen real ones for comparison.

    The unseen images are halved by `seed`: one half is compared with, the other takes the place of
    the generated ones for the baseline; as many training images are drawn. `authentic` needs
    no counterpart and looks at all training images.

    Args:
        generated, training, unseen: features [m, d], [n >= 2, d], [u >= 4, d] in one space.
        seed: of the halves and of the draw.

    Returns:
        n: training and unseen images compared with; n_generated; nearer_to_training and authentic,
        each with value, interval_95 (bootstrap over generated images, the other sets being what
        they are) and `real`: the value of unseen images in their place. Read the value against
        `real` rather than against 0.5: two particular sets are never quite alike.
    """
    names = ("generated features", "training features", "unseen features")
    generated = checked(generated, names[0], least=1)
    training, unseen = pair(training, checked(unseen, names[2], least=4), names=names[1:])
    pair(generated, unseen, least=1)
    generator = np.random.default_rng(seed)
    order = generator.permutation(len(unseen))
    count = min(len(training), len(unseen) // 2)
    others, held = unseen[order[:count]], unseen[order[count:]]
    drawn = training[generator.permutation(len(training))[:count]]

    def nearer(queries: np.ndarray) -> np.ndarray:
        to_training, to_unseen = nearest(queries, drawn)[1], nearest(queries, others)[1]
        return (to_training < to_unseen) + 0.5 * (to_training == to_unseen)

    def authentic(queries: np.ndarray) -> np.ndarray:
        index, distance = nearest(queries, training)
        used, places = np.unique(index, return_inverse=True)
        return (distance >= neighbour_radii(training, 1, used)[places]).astype(float)

    result: dict[str, Any] = {"n": count, "n_generated": len(generated)}
    for name, share in (("nearer_to_training", nearer), ("authentic", authentic)):
        values = share(generated)
        result[name] = {
            "value": float(values.mean()),
            "interval_95": list(bootstrap_interval(values, seed=seed)),
            "real": float(share(held).mean()),
        }
    return result
