"""Order and noise: functions of (seed, step, slot), and nothing else."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dit.training.order import BatchPlan, Stream, batch_indices, permutation, plan_batch

PINNED = {
    "indices": [6, 4, 3, 2, 1, 0, 2, 0],
    "flips": [0, 1, 1, 1, 0, 1, 1, 0],
    "timesteps": [594, 741, 720, 425, 612, 44, 891, 815],
    "uniforms": [0.3657015413183715, 0.8595936619641846, 0.5533659365029246, 0.7559386617825153],
    "noise": "8f43cc514947f14b0014c8b4d112f35a6a655c56ef1f37ca190fac8e34096596",
}


@settings(max_examples=40, deadline=None)
@given(n=st.integers(1, 40), batch=st.integers(1, 100), seed=st.integers(0, 2**64 - 1))
def test_every_epoch_is_a_permutation(n: int, batch: int, seed: int) -> None:
    steps = 3 * n // batch + 2
    order = np.concatenate([batch_indices(seed, step, batch, n) for step in range(steps)])
    assert len(order) == steps * batch
    for epoch in range(len(order) // n):
        assert sorted(order[epoch * n : (epoch + 1) * n]) == list(range(n))


def test_epochs_and_seeds_differ() -> None:
    orders = [permutation(seed, epoch, 100).tolist() for seed in (0, 1) for epoch in (0, 1)]
    assert len({tuple(order) for order in orders}) == 4


def test_the_numbers_are_pinned() -> None:
    """A checkpoint continued with another version must see the same samples and noise."""
    assert batch_indices(7, 3, 8, 10).tolist() == PINNED["indices"]
    some = plan_batch(7, 3, 8, 10)
    assert some.flips.astype(int).tolist() == PINNED["flips"]
    assert some.timesteps().tolist() == PINNED["timesteps"]
    assert some.uniforms[0].tolist() == pytest.approx(PINNED["uniforms"], abs=0)
    noise = some.noise((2, 2)).numpy()
    assert hashlib.sha256(noise.tobytes()).hexdigest() == PINNED["noise"]


def _same(one: BatchPlan, other: BatchPlan, rows: slice) -> None:
    for name in ("slots", "indices", "flips", "uniforms"):
        assert np.array_equal(getattr(one, name), getattr(other, name)[rows]), name
    assert np.array_equal(one.timesteps(), other.timesteps()[rows])
    for stream in (Stream.POSTERIOR, Stream.DIFFUSION, 16):
        assert np.array_equal(one.noise((3, 4), stream), other.noise((3, 4), stream)[rows])


def test_a_share_sees_what_the_whole_batch_sees() -> None:
    whole = plan_batch(1, 5, 12, 50)
    for rank in range(4):
        rows = slice(3 * rank, 3 * rank + 3)
        _same(plan_batch(1, 5, 12, 50, rows), whole, rows)
    for start, part in zip(range(0, 12, 5), whole.split(5), strict=True):
        _same(part, whole, slice(start, start + 5))
        assert len(part) == min(5, 12 - start)


def test_slots_steps_and_streams_are_independent() -> None:
    draws = [
        plan_batch(seed, step, 4, 50).noise((8,), stream)[slot].numpy().tobytes()
        for seed in (0, 1)
        for step in (0, 1)
        for slot in range(4)
        for stream in (Stream.POSTERIOR, Stream.DIFFUSION)
    ]
    assert len(set(draws)) == len(draws)


def test_noise_of_a_slot_does_not_overlap_the_next_slots() -> None:
    """Long blocks: the counter of one slot never runs into another's."""
    noise = plan_batch(0, 0, 2, 10).noise((100_000,)).numpy()
    first = {tuple(row) for row in noise[0].reshape(-1, 4)}
    assert not any(tuple(row) in first for row in noise[1].reshape(-1, 4))


def test_distributions() -> None:
    count, steps = 256, 40
    many = [plan_batch(3, step, count, 1000) for step in range(steps)]
    t = np.concatenate([one.timesteps() for one in many])
    assert t.min() >= 0 and t.max() <= 999 and len(np.unique(t)) == 1000
    assert abs(t.mean() - 499.5) < 4 * 288.7 / np.sqrt(len(t))
    flips = np.concatenate([one.flips for one in many])
    assert abs(flips.mean() - 0.5) < 4 * 0.5 / np.sqrt(len(flips))
    uniforms = np.concatenate([one.uniforms for one in many])
    assert uniforms.min() >= 0 and uniforms.max() < 1
    assert np.abs(uniforms.mean(0) - 0.5).max() < 4 * 0.289 / np.sqrt(len(uniforms))
    everything = np.column_stack([t, flips, uniforms])
    assert np.abs(np.corrcoef(everything.T) - np.eye(6)).max() < 4 / np.sqrt(len(t))
    noise = many[0].noise((64, 64)).numpy()
    assert abs(noise.mean()) < 4 / np.sqrt(noise.size)
    assert abs(noise.var() - 1) < 4 * np.sqrt(2 / noise.size)
    assert not plan_batch(3, 0, 64, 100, flip=False).flips.any()


def test_refuses_an_empty_dataset() -> None:
    with pytest.raises(ValueError, match="n=0"):
        batch_indices(0, 0, 4, 0)
