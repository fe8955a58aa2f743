"""All methods by name: importing this module registers them."""

from __future__ import annotations

from core.errors import UserError
from prune.methods import (  # noqa: F401 (each registers its methods)
    clustered,
    dinov2,
    hierarchical,
    moderate,
    rsprune,
    semdedup,
)
from prune.methods.registry import METHODS, Method


def find(name: str) -> Method:
    """The method of this name. Raises UserError naming those there are."""
    if name not in METHODS:
        known = "\n".join(f"  {m.name:16} {m.summary}" for m in METHODS.values())
        raise UserError(f"--method {name}: no such method; there are\n{known}")
    return METHODS[name]
