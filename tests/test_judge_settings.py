"""The mini experiment and the judge use the same number of centroids and the same whitening."""

from __future__ import annotations

import pytest

from experiments.profiles import load_profile
from prune.studies.config import MINI_CLUSTERS, MINI_WHITEN


def test_profile_and_judge_agree(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("CLUSTERS", "WHITEN"):
        monkeypatch.delenv(name, raising=False)
    settings = load_profile("mini").settings
    assert (settings["clusters"], settings["whiten"]) == (MINI_CLUSTERS, MINI_WHITEN)
