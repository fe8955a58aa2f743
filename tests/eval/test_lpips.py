"""LPIPS wrapper: uint8 in, the package's values out."""

from __future__ import annotations

import numpy as np
import pytest

from core.errors import UserError
from eval.distances.bootstrap import bootstrap_interval
from eval.distances.lpips import load_lpips, lpips_pairs, metric_name


@pytest.fixture(scope="module")
def network():
    return load_lpips("random")


@pytest.fixture(scope="module")
def images() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (20, 64, 64, 3), dtype=np.uint8)


def test_equal_images_are_at_zero_and_different_ones_are_not(network, images) -> None:
    assert lpips_pairs(network, images, images) == pytest.approx(np.zeros(20))
    assert (lpips_pairs(network, images, images[::-1].copy()) > 1e-4).all()


def test_agrees_with_the_package_on_minus_one_to_one(network, images) -> None:
    import torch

    def scaled(x: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(x).permute(0, 3, 1, 2).float() / 127.5 - 1

    other = np.roll(images, 1, axis=0)
    with torch.inference_mode():
        expected = network(scaled(images), scaled(other)).flatten().numpy()
    assert lpips_pairs(network, images, other) == pytest.approx(expected, abs=1e-5)


def test_random_backbone_is_the_same_each_time_and_is_labelled(network, images) -> None:
    again = lpips_pairs(load_lpips("random"), images[:2], images[2:4])
    assert (again == lpips_pairs(network, images[:2], images[2:4])).all()
    assert metric_name("random") == "LPIPS-random-backbone"
    assert metric_name("alex") == "LPIPS-alex"


def test_refuses_floats_and_unequal_sizes(network, images) -> None:
    with pytest.raises(UserError, match="uint8"):
        lpips_pairs(network, images / 255.0, images)
    with pytest.raises(UserError, match="one size"):
        lpips_pairs(network, images, images[:, :32])


def test_bootstrap_interval_holds_the_mean() -> None:
    values = np.random.default_rng(0).normal(0.4, 0.1, 200)
    low, high = bootstrap_interval(values)
    assert low < values.mean() < high
    assert high - low == pytest.approx(4 * 0.1 / np.sqrt(200), rel=0.25)
