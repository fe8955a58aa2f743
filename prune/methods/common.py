"""What the baselines' inputs must be, and the errors when they are not."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from core.errors import UserError
from prune.methods.registry import Request, assigned


def pool_clusters(
    request: Request, method: str, own: bool = True
) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
    """Cluster and similarity of each image of the whole pool.

    Args:
        request: its assignments must cover the pool.
        method: its name, for messages.
        own: whether the prototypes must be those of the pool's own embeddings.

    Raises UserError when either does not hold.
    """
    table, pool = request.assignments, request.pool
    if table is None or table.num_rows < pool.num_rows:
        rows = 0 if table is None else table.num_rows
        raise UserError(
            f"--assignments: {rows:,} images, but {method} has no Stage I and looks at all "
            f"{pool.num_rows:,} of the pool; embed it with python -m prune.embed --keep 1 and "
            "assign those embeddings"
        )
    if own:
        own_prototypes(request, method)
    return request.once("clusters of the pool", lambda: assigned(pool, request))


def own_prototypes(request: Request, method: str) -> None:
    """Raise UserError unless the prototypes were learnt from the embeddings assigned to them."""
    if not request.prototypes.get("own"):
        raise UserError(
            f"--assignments: to prototypes of other embeddings, but {method} clusters the images "
            "themselves, without a reference; make the centroids from the same embeddings: "
            "python -m prune.centroids --embeddings POOL --streaming, then prune.assign"
        )
