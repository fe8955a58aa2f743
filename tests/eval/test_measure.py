"""What a metrics file holds of two sets; intervals over images and over seeds."""

from __future__ import annotations

import importlib
import json

import numpy as np
import pytest
from scipy.stats import ttest_rel

from core.errors import UserError
from eval.distances.bootstrap import bootstrap_interval, over_seeds
from eval.distances.frechet import fit, frechet_distance
from eval.distances.kernel import mmd, rbf
from eval.distances.manifold import manifolds
from eval.distances.measure import LEAD_FROM, measure


@pytest.fixture(scope="module")
def features() -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(0)
    return generator.normal(0.2, 1.0, size=(60, 12)), generator.normal(size=(60, 12))


def test_all_metrics_of_two_sets(features: tuple[np.ndarray, np.ndarray]) -> None:
    generated, real = features
    found = measure("DINOv2", generated, real)
    assert json.loads(json.dumps(found)) == found == measure("DINOv2", generated, real)
    assert (found["name"], found["kernel_name"]) == ("FD-DINOv2", "KD-DINOv2")
    assert found["value"] == pytest.approx(frechet_distance(fit(generated), fit(real)))
    assert found["kernel_value"] == pytest.approx(mmd(generated, real)[0])
    assert found["interval_over"] == "images" and found["lead"] == "kernel"
    assert (found["n_generated"], found["n_real"], found["dimension"]) == (60, 60, 12)
    assert "notes" not in found
    metrics = found["metrics"]
    assert {key: entry["name"] for key, entry in metrics.items()} == {
        "fd_extrapolated": "FD-DINOv2-infinity", "cmmd": "RBF-MMD-DINOv2", "mind": "SW-DINOv2",
        "precision": "precision-DINOv2", "recall": "recall-DINOv2",
        "density": "density-DINOv2", "coverage": "coverage-DINOv2",
    }  # fmt: skip
    assert metrics["cmmd"]["value"] == pytest.approx(mmd(generated, real, rbf)[0])
    assert metrics["recall"]["value"] == manifolds(generated, real).recall.mean()
    for key, entry in {"frechet": found, **metrics}.items():
        if key != "fd_extrapolated":
            low, high = entry["interval_95"]
            assert low <= entry["value"] <= high and high > low, key
    low, high = found["kernel_interval_95"]
    assert low < found["kernel_value"] < high


def test_names_that_are_earned(features: tuple[np.ndarray, np.ndarray]) -> None:
    inception, clip = (measure(space, *features, resamples=10) for space in ("Inception", "CLIP"))
    assert (inception["name"], inception["kernel_name"]) == ("FID", "KID")
    assert inception["metrics"]["mind"]["name"] == "MIND"
    assert inception["metrics"]["cmmd"]["name"] == "RBF-MMD-Inception"
    assert (clip["name"], clip["metrics"]["cmmd"]["name"]) == ("FD-CLIP", "CMMD")
    assert clip["metrics"]["mind"]["name"] == "SW-CLIP"


def test_what_counts_do_not_allow_is_said(
    features: tuple[np.ndarray, np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    found = measure("descriptor", features[0][:4], features[1][:5])
    assert set(found["metrics"]) == {"cmmd", "mind"}
    notes = " / ".join(found["notes"])
    assert "unequal counts" in notes and "4 samples in 12 dimensions" in notes
    assert "too few for precision" in notes
    assert LEAD_FROM == 5000
    monkeypatch.setattr(importlib.import_module("eval.distances.measure"), "LEAD_FROM", 60)
    assert measure("descriptor", *features)["lead"] == "frechet"
    with pytest.raises(UserError, match="real features of sample 3 are not finite"):
        bad = features[1].copy()
        bad[3, 0] = np.nan
        measure("descriptor", features[0], bad)


@pytest.mark.parametrize("d", [3, 60])
def test_a_model_that_makes_one_image_only_is_measured(d: int) -> None:
    real = np.random.default_rng(1).normal(size=(40, d))
    for generated in (np.zeros((40, d)), np.repeat(real[:1], 40, axis=0)):
        text = json.dumps(measure("descriptor", generated, real), allow_nan=False)
        found = json.loads(text)
        assert found["kernel_interval_95"][0] > 0.0 and found["value"] > d / 2
        measure("descriptor", generated, generated)  # nothing to divide by on either side


def test_an_interval_over_seeds_is_paired_and_says_so() -> None:
    ours, theirs = [3.0, 4.1, 5.2], [3.5, 4.5, 5.8]
    paired, alone = over_seeds(ours, theirs), over_seeds(ours)
    interval = ttest_rel(ours, theirs).confidence_interval(0.95)
    assert paired["interval_95"] == pytest.approx([interval.low, interval.high])
    assert paired["mean"] == pytest.approx(-0.5)
    assert paired["interval_95"][1] < 0  # seed by seed it is clear
    assert alone["interval_95"][1] - alone["interval_95"][0] > 5  # which the seeds apart hide
    assert (paired["over"], paired["paired"], alone["paired"]) == ("seeds", True, False)
    assert over_seeds([1.0])["interval_95"] is None
    for bad in ([], [1.0, float("nan")]):
        with pytest.raises(UserError, match="finite values"):
            over_seeds(bad)
    with pytest.raises(UserError, match="3 and 2 seeds"):
        over_seeds(ours, theirs[:2])


def test_a_bootstrap_over_images_covers_the_mean() -> None:
    held = []
    for seed in range(100):
        values = np.random.default_rng(seed).exponential(size=60)
        low, high = bootstrap_interval(values, resamples=300)
        held.append(low <= 1.0 <= high)
    assert np.mean(held) >= 0.87
