"""Fixtures that every room's tests share."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

GOLDEN = Path(__file__).parent / "golden"


@pytest.fixture(scope="session")
def golden() -> Path:
    """Folder with outputs of the official DiT code on fixed inputs."""
    return GOLDEN


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Real images beside the checkout (or at RSPRUNE_SHARED); skips where they are absent."""
    root = Path(os.environ.get("RSPRUNE_SHARED", Path(__file__).parents[2] / "shared"))
    if not (root / "data").is_dir():
        pytest.skip(f"real imagery not found at {root / 'data'} (set RSPRUNE_SHARED)")
    return root / "data"
