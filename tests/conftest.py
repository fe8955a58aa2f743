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

# What `scripts/test.sh --fast` leaves out, beside the tests that are marked slow one by one: whole
# files of trainings, networks, launches, rivers and exhaustive comparisons, and by name what starts
# processes (to kill, to compare, to time their imports), trains until something is learnt, or
# reads real images.
SLOW_FILES = (
    "core/test_engines.py",
    "core/test_parallel.py",
    "data/test_download_hub.py",
    "data/test_leakage.py",
    "data/test_pretrained.py",
    "dit/test_checkpoint.py",
    "dit/test_export.py",
    "dit/test_labels.py",
    "dit/test_latents.py",
    "dit/test_resume.py",
    "dit/test_sample.py",
    "dit/test_sampling.py",
    "dit/test_store.py",
    "dit/test_train.py",
    "dit/test_train_vae.py",
    "dit/test_trainer.py",
    "downstream/test_commands.py",
    "downstream/test_launch.py",
    "downstream/test_options.py",
    "downstream/test_segmenter.py",
    "downstream/test_windows.py",
    "eval/test_evaluate.py",
    "eval/test_launch.py",
    "eval/test_perceptual.py",
    "eval/test_registry.py",
    "eval/test_track.py",
    "prune/test_assign.py",
    "prune/test_baselines.py",
    "prune/test_columns.py",
    "prune/test_curation.py",
    "prune/test_damage.py",
    "prune/test_embed.py",
    "prune/test_encoders.py",
    "prune/test_extend.py",
    "prune/test_judge.py",
    "prune/test_networks.py",
    "prune/test_odd_input.py",
    "prune/test_score_shards.py",
    "prune/test_stability.py",
    "prune/test_variants.py",
    "prune/test_whitening.py",
    "test_corpus_forms.py",
    "world/test_world_sets.py",
)
SLOW_NAMES = re.compile(
    r"killed|processes|workers|end_to_end|teaches|learns|real_|uniform|offline|papers_rule"
    r"|damaged_bytes|plus_plus|torch_fidelity|light|import|heavy|array_libraries|two_commands"
    r"|second_writer|four_pictures|open_clip|warning_reaches|subset_rows|near_images"
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
