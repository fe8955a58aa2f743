"""All methods by name. Light to import: a method's module is loaded when it is asked for."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

from core.errors import UserError

if TYPE_CHECKING:
    from prune.methods.base import Method

METHODS = {
    "rsprune": "prune.methods.rsprune:rsprune",
    "random": "prune.methods.simple:random",
    "random-survivors": "prune.methods.rsprune:random_survivors",
    "entropy": "prune.methods.simple:entropy",
    "full": "prune.methods.simple:full",
    "full-set": "prune.methods.clustered:full_set",
    "entropy-set": "prune.methods.clustered:entropy_set",
    "moderate": "prune.methods.moderate:moderate",
    "cluster-nearest": "prune.methods.clustered:cluster_nearest",
    "dinov2": "prune.methods.dinov2:dinov2",
    "a2mae": "prune.methods.clustered:a2mae",
    "semdedup": "prune.methods.semdedup:semdedup",
    "hierarchical": "prune.methods.hierarchical:hierarchical",
}
"""name -> 'module:attribute' of its Method, in the order of messages and tables."""


def find(name: str) -> Method:
    """The method of this name. Raises UserError naming those there are."""
    if name not in METHODS:
        known = "\n".join(f"  {n:16} {_load(place).summary}" for n, place in METHODS.items())
        raise UserError(f"--method {name}: no such method; there are\n{known}")
    return _load(METHODS[name])


def _load(place: str) -> Method:
    module, _, attribute = place.partition(":")
    found: Method = getattr(importlib.import_module(module), attribute)
    return found
