"""Fixtures that every room's tests share."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest
from hypothesis import settings

# No example may fail for the time that it takes: machines are shared.
settings.register_profile("unhurried", deadline=None)
settings.load_profile("unhurried")

# What `scripts/test.sh --fast` leaves out, beside the tests that are marked slow one by one:
# whole files of trainings, launches, rivers and exhaustive comparisons, and by name what starts
# processes to kill or to compare them, trains until something is learnt, or reads real images.
SLOW_FILES = (
    "core/test_engines.py",
    "data/test_download_hub.py",
    "dit/test_train.py",
    "dit/test_train_vae.py",
    "downstream/test_commands.py",
    "eval/test_track.py",
    "prune/test_columns.py",
    "prune/test_damage.py",
    "prune/test_embed.py",
    "prune/test_judge.py",
    "prune/test_odd_input.py",
    "prune/test_score_shards.py",
    "prune/test_stability.py",
    "prune/test_variants.py",
    "test_corpus_forms.py",
)
SLOW_NAMES = re.compile(
    r"killed|processes|workers|end_to_end|teaches|learns|real_|uniform|offline|papers_rule"
    r"|damaged_bytes|plus_plus|torch_fidelity"
)
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


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """In the fast lane, do not even import the slow files."""
    here = Path(__file__).parent
    slow = collection_path.is_relative_to(here) and (
        str(collection_path.relative_to(here)) in SLOW_FILES
    )
    return True if slow and config.option.markexpr == "not slow" else None


@pytest.hookimpl(tryfirst=True)  # before pytest takes its choice by mark
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what is slow by the rule above."""
    here = Path(__file__).parent
    for item in items:
        name = getattr(item, "originalname", item.name)
        if str(item.path.relative_to(here)) in SLOW_FILES or SLOW_NAMES.search(name):
            item.add_marker("slow")
