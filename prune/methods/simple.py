"""Methods that read the score table alone: random, entropy, full."""

from __future__ import annotations

from fractions import Fraction

from core.parallel import available_cpus
from data.formats.index import place_order
from prune.methods.base import Chosen, Request, method, subset
from prune.methods.ordering import by_value, random_order
from prune.stage1.threshold import stage1


@method("random", "uniform without replacement from the pool", params=("ratio", "seed"))
def random(request: Request) -> Chosen:
    """Baseline: the first B keys in an order drawn from the seed."""
    keys = request.pool.column("key")
    order = random_order(keys, request.seed, request.size, available_cpus())
    return subset(request.pool, order, chosen="random"), {}


@method("entropy", "Stage I alone: the highest entropies", params=("ratio",))
def entropy(request: Request) -> Chosen:
    """Ablation: the B images of highest entropy, ties by key."""
    kept = stage1(request.pool, Fraction(request.size, request.pool.num_rows))
    order = by_value(kept.column("entropy").to_numpy(), kept.column("key"))
    return subset(kept, order, chosen="entropy"), {}


@method("full", "the complete pool, nothing pruned")
def full(request: Request) -> Chosen:
    """Baseline: all N images, in the order of (shard, row)."""
    return subset(request.pool, place_order(request.pool), chosen="full"), {}
