"""The rows that a table measures, their seeds, and the words under them."""

from __future__ import annotations

from typing import Any

import pytest

from eval.report.conclusion import better_by_interval, conclusion
from eval.report.measured import measured_rows
from eval.report.seeds import merge_seeds
from tests.eval.formats import (
    distance,
    generation_metrics,
    loss_metrics,
    pair_metrics,
    share,
)

Results = dict[tuple[str, int, str], dict[str, Any]]


def rows_of(results: Results) -> dict[tuple[str, str], dict[str, Any]]:
    """(what, metric) -> the merged row."""
    return {(row["what"], row["metric"]): row for row in merge_seeds(measured_rows(results))}


def words(results: Results, small: bool = True) -> str:
    return conclusion(merge_seeds(measured_rows(results)), small)


def test_rows_have_floors_and_intervals() -> None:
    results: Results = {}
    for label, value in (("Ours", 4.0), ("Random", 5.0)):
        results[label, 0, "generation"] = generation_metrics(value, after=value / 5)
        results[label, 0, "loss"] = loss_metrics(value)
        results[label, 0, "sr"] = pair_metrics("sr", value)
        results[label, 0, "sis"] = pair_metrics("sis", value)
    rows = rows_of(results)
    for holdout in ("pool", "balanced", "informative"):
        row = rows[f"Generation, {holdout} hold-out", "KD-EfficientNetLite0"]
        assert row["scale"] == 1000 and row["cells"]["Ours"]["n"] == 200
        assert row["cells"]["Ours"]["value"] == pytest.approx(0.004)
        assert row["cells"]["Random"]["interval_95"] == pytest.approx([0.0049, 0.0051])
        floors = {"real Ours subset": 0.002, "real Random subset": 0.0025, "VAE": 0.001}
        assert row["beside"] == pytest.approx(floors)
        assert better_by_interval(row) == "Ours"
        after = rows[f"Both after the VAE, {holdout} hold-out", "KD-EfficientNetLite0"]
        assert after["cells"]["Ours"]["value"] == pytest.approx(0.0008) and not after["beside"]
    classes = rows["Scene classes generated, of 2 (balanced hold-out)", "mean recall of classes"]
    assert classes["cells"]["Ours"]["value"] == pytest.approx(0.5)
    assert classes["beside"]["Ours's lowest, port"] == 0.1
    copies = rows["Copies, in pixels", "nearer to training than to unseen"]
    assert copies["beside"]["real images for Random"] == 0.48 and better_by_interval(copies) is None
    losses = rows["Held-out loss, pool hold-out", "mse of the noise"]
    assert losses["beside"]["Ours's training images"] == 4.0
    resolved = rows["Super-resolution", "PSNR (dB)"]
    assert resolved["beside"] == {"bicubic input": 20.0}
    assert better_by_interval(resolved) == "Random"  # higher is better there
    mask = rows["Semantic image synthesis", "mIoU with the mask"]
    assert mask["beside"] == {"real images": 0.7, "masks of other images": 0.1}
    assert ("Semantic image synthesis", "SSIM") not in rows


def test_the_words_follow_the_numbers() -> None:
    both: Results = {("Ours", 0, "generation"): generation_metrics(4.0),
                     ("Random", 0, "generation"): generation_metrics(5.0)}  # fmt: skip
    text = words(both)
    assert text.startswith("Ours is nearest to the pool, balanced and informative hold-outs.")
    assert "decides" not in text and "over images, not over other trainings" in text
    assert "models this small" in text and "models this small" not in words(both, small=False)
    other = both | {("Ours", 0, "generation"): generation_metrics(6.0)}
    assert words(other).startswith("Random is nearest to the pool, balanced and informative")
    near = both | {("Ours", 0, "generation"): generation_metrics(5.1)}
    assert words(near).startswith("The pool, balanced and informative hold-outs do not tell")

    after: Results = {("Ours", 0, "generation"): generation_metrics(5.0, after=1.0),
                      ("Random", 0, "generation"): generation_metrics(4.0, after=2.0)}  # fmt: skip
    assert words(after).startswith(
        "Random is nearest to the pool, balanced and informative hold-outs. With both sides after "
        "the VAE: Ours is nearest to the pool, balanced and informative hold-outs."
    )
    after["Ours", 0, "generation"]["holdouts"]["pool"]["vae_floor"] = distance(4.5)
    assert "after the VAE, whose blur alone is up to 112 % as far: " in words(after)

    split = generation_metrics(4.0)
    for name, value in (("pool", 9.0), ("balanced", 5.05)):
        split["holdouts"][name] = {**split["holdouts"][name], "distance": distance(value)}
    results = both | {("Ours", 0, "generation"): split}
    results["Ours", 0, "sr"], results["Random", 0, "sr"] = (
        pair_metrics("sr", value) for value in (21.0, 22.0)
    )
    results["Ours", 0, "sis"] = pair_metrics("sis", 1.0)
    text = words(results)
    assert text.startswith("Random is nearest to the pool hold-out; Ours is nearest to the "
                           "informative hold-out; the balanced hold-out does not tell")  # fmt: skip
    assert "the choice of hold-out decides which method looks better" in text
    assert "nearer to the truth than its bicubic input (Ours 21.0 and Random 22.0" in text
    assert "Synthesis follows its mask (mIoU Ours 0.40; with other images' masks 0.10" in text
    results["Ours", 0, "sr"], results["Random", 0, "sr"] = (
        pair_metrics("sr", value) for value in (18.0, 19.0)
    )
    assert "loses to its own bicubic input in PSNR (Ours 18.0 and Random 19.0" in words(results)
    results["Ours", 0, "sr"] = pair_metrics("sr", 21.0)
    assert "with some methods only" in words(results)
    results["Ours", 0, "sis"]["adherence"]["miou"] = share(0.11)
    assert "Synthesis does not follow its mask (mIoU Ours 0.11" in words(results)


def test_several_trainings_are_compared_seed_by_seed() -> None:
    values = {"Ours": (4.0, 6.0, 8.0), "Random": (4.9, 7.0, 9.1)}
    results: Results = {
        (label, seed, "generation"): generation_metrics(value)
        for label, trained in values.items()
        for seed, value in enumerate(trained)
    }
    row = merge_seeds(measured_rows(results))[0]
    cell = row["cells"]["Ours"]
    assert cell["value"] == pytest.approx(6.0 / 1000)
    assert cell["interval_95"] == pytest.approx([5.9 / 1000, 6.1 / 1000])  # over images
    # t_{0.975, 2} = 4.302653 times 2 / sqrt(3), over trainings
    bounds = [(6 - 4.96827) / 1000, (6 + 4.96827) / 1000]
    assert cell["over_seeds"]["interval_95"] == pytest.approx(bounds, rel=1e-4)
    (paired,) = row["paired"]
    half = 4.302653 * 0.1 / 3**0.5
    assert (paired["a"], paired["b"]) == ("Ours", "Random")
    assert paired["interval_95"] == pytest.approx([(-1 - half) / 1e3, (-1 + half) / 1e3], rel=1e-5)
    # The trainings differ more than the methods do, and still each pair says the same.
    assert words(results).startswith("Ours is nearest to the pool, balanced and")
    assert "3 trainings each, compared seed by seed" in words(results)
    results["Random", 2, "generation"] = generation_metrics(7.0)
    assert "do not tell the methods apart" in words(results)


def test_one_training_does_not_beat_the_spread_of_several() -> None:
    """Their images' intervals are apart, but another training of the one may lie anywhere."""
    results: Results = {("Ours", seed, "generation"): generation_metrics(4.0 + seed)
                        for seed in (0, 1)}  # fmt: skip
    results["Random", 0, "generation"] = generation_metrics(5.0)
    assert "do not tell the methods apart" in words(results)
    assert "1 to 2 trainings each" in words(results)
