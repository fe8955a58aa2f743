"""What the judge counts, on cases small enough to count by hand."""

from __future__ import annotations

import math

import pytest

from prune.studies.judgement import bits, failures, judge, pairs_kept, stage1_drops
from prune.studies.truth import Truth

TRUTH = {
    "sea1": Truth("sea", low_information=True),
    "sea2": Truth("sea", low_information=True),
    "sea3": Truth("sea", low_information=True, fault="nodata"),
    "blank": Truth("", fault="blank"),
    "noise": Truth("", fault="noise"),
    "city1": Truth("city"),
    "city2": Truth("city"),
    "city2b": Truth("city", duplicate_of="city2", duplicate_kind="exact"),
    "city2c": Truth("city", duplicate_of="city2", duplicate_kind="jpeg"),
    "port": Truth("harbour"),
}


def test_bits():
    assert bits([5, 5, 5, 5]) == 2.0
    assert bits([7, 0]) == 0.0 and bits([]) == 0.0
    assert bits([1, 2]) == pytest.approx(math.log2(3) - 2 / 3)


def test_stage1_drops_counts_low_information_scenes_and_blanks_alone():
    drops = stage1_drops(TRUTH, ["sea2", "sea3", "noise", "city1"], TRUTH)
    assert drops == {"sea": (1, 2), "blank": (1, 1)}


def test_pairs_need_both_members():
    assert pairs_kept(["city2", "city2b", "city2c"], TRUTH) == {"exact": 1, "near": 1}
    assert pairs_kept(["city2b", "city2c", "port"], TRUTH) == {"exact": 0, "near": 0}


def test_judge_and_what_fails():
    survivors = ["noise", "city1", "city2", "city2b", "port"]
    good = {"rsprune": ["city1", "port"], "random": ["sea1", "sea2"]}
    result = judge(TRUTH, survivors, good, TRUTH)
    assert result["dropped"] == 1.0 and result["lost"] == {
        "rsprune": {},
        "random": {"city": 3, "harbour": 1},
    }
    assert result["methods"]["rsprune"]["bits"] == 1.0
    assert result["stage1"]["classes"] == 2 and result["pool"]["images"] == len(TRUTH)
    assert failures(result) == []

    bad = {"rsprune": ["city1", "city2"], "random": ["sea1", "port", "city1"]}
    result = judge(TRUTH, [*survivors, "sea1", "blank"], bad, TRUTH)
    assert result["dropped"] == pytest.approx(1 / 3, abs=1e-4)
    text = "\n".join(failures(result))
    assert "33.3% of low-information" in text and "harbour (1 tiles), sea (1 tiles)" in text
    assert "2 images, Random 3" in text and "0.000 bits, not above Random's 1.585" in text
