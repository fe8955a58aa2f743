"""Selection baselines; importing this package registers them in prune.methods."""

from prune.baselines import clustered, dinov2, hierarchical, moderate, semdedup

__all__ = ["clustered", "dinov2", "hierarchical", "moderate", "semdedup"]
