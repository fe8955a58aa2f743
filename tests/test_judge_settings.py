"""The mini experiment and the judge use the same number of centroids and the same whitening."""

from __future__ import annotations

from pathlib import Path

from prune.studies.config import MINI_CLUSTERS, MINI_WHITEN


def test_profile_and_judge_agree() -> None:
    profile = (Path(__file__).parents[1] / "experiments" / "profile.sh").read_text()
    assert f'CLUSTERS="${{CLUSTERS:-{MINI_CLUSTERS}}}"' in profile
    assert f'WHITEN="${{WHITEN:-{MINI_WHITEN}}}"' in profile
