"""Which samples, flips, timesteps and noise a step sees: functions of (seed, step, slot) alone.

A slot is a place in the global batch, 0..batch-1. Nothing here knows of ranks, workers, micro
batches or the clock, so one process, four processes and a killed-and-resumed run see the same
numbers.
"""

from __future__ import annotations

import dataclasses
import enum
import functools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from dit.diffusion.noise import philox, slot_noise

_DRAWS = 8  # 64-bit integers for each slot and step: flip, timestep, four uniforms, two spare


class Stream(enum.IntEnum):
    """Independent streams of one seed. Other modules may use numbers from 16 on."""

    ORDER = 0
    SCALARS = 1
    POSTERIOR = 2
    """Noise of the VAE's posterior sample, z = mean + std * noise."""
    DIFFUSION = 3
    """The diffusion's noise, epsilon."""


@functools.lru_cache(maxsize=2)  # a batch spans the end of one epoch and the start of the next
def permutation(seed: int, epoch: int, n: int) -> NDArray[np.int64]:
    """The order of epoch `epoch`: a read-only permutation of 0..n-1, int64."""
    # Sorting raw integers, not Generator.permutation: NumPy promises those, not the shuffle.
    order = np.argsort(philox(seed, Stream.ORDER, epoch).random_raw(n), kind="stable")
    order.flags.writeable = False
    return order


def batch_indices(seed: int, step: int, batch: int, n: int) -> NDArray[np.int64]:
    """Dataset indices of global step `step` (0-based), int64 [batch].

    They are places step*batch .. (step+1)*batch - 1 of the endless sequence of per-epoch
    permutations, so an epoch's end falls inside a batch and no sample is ever dropped. `batch`
    may exceed `n`.
    """
    if n < 1 or batch < 1:
        raise ValueError(f"need at least one sample and one slot, got n={n}, batch={batch}")
    parts = []
    place, end = step * batch, (step + 1) * batch
    while place < end:
        epoch, offset = divmod(place, n)
        part = permutation(seed, epoch, n)[offset : offset + end - place]
        parts.append(part)
        place += len(part)
    return np.concatenate(parts)


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class BatchPlan:
    """What some slots of one step see. Every array has one row for each slot, b in all."""

    seed: int
    step: int
    """0-based global step."""
    slots: NDArray[np.int64]
    """Global slot numbers, int64 [b], 0..batch-1."""
    indices: NDArray[np.int64]
    """Dataset indices, int64 [b]."""
    flips: NDArray[np.bool_]
    """Mirror left-right? bool [b], probability 1/2 (all False when flipping is off)."""
    uniforms: NDArray[np.float64]
    """Uniform numbers in [0, 1) for the source's own use (random crops), float64 [b, 4]."""
    draws: NDArray[np.uint64]
    """The random integer behind each slot's timestep, uint64 [b]; see `timesteps`."""

    def __len__(self) -> int:
        return len(self.slots)

    def timesteps(self, count: int = 1000) -> NDArray[np.int64]:
        """Diffusion timesteps, int64 [b], uniform on 0..count-1."""
        high = self.draws >> np.uint64(32)
        return ((high * np.uint64(count)) >> np.uint64(32)).astype(np.int64)

    def noise(self, shape: Sequence[int], stream: int = Stream.DIFFUSION) -> torch.Tensor:
        """Standard normal noise, float32 CPU tensor [b, *shape], its own for each slot."""
        return slot_noise(self.seed, stream, self.step, self.slots, shape)

    def split(self, size: int) -> Iterator[BatchPlan]:
        """Micro batches of at most `size` slots, in slot order."""
        for start in range(0, len(self.slots), size):
            part = slice(start, start + size)
            rows = ("slots", "indices", "flips", "uniforms", "draws")
            yield dataclasses.replace(self, **{name: getattr(self, name)[part] for name in rows})


def plan_batch(
    seed: int, step: int, batch: int, n: int, slots: slice = slice(None), flip: bool = True
) -> BatchPlan:
    """What `slots` of global step `step` see.

    Args:
        seed: 0 .. 2**64-1.
        step: 0-based global step.
        batch: global batch, over all processes.
        n: samples in the dataset.
        slots: the slots wanted (those of one process); all of them by default.
        flip: mirror each sample with probability 1/2.
    """
    draws = philox(seed, Stream.SCALARS, step).random_raw(batch * _DRAWS)
    draws = draws.reshape(batch, _DRAWS)[slots]
    flips = (draws[:, 0] >> np.uint64(63)).astype(bool)
    return BatchPlan(
        seed=seed,
        step=step,
        slots=np.arange(batch, dtype=np.int64)[slots],
        indices=batch_indices(seed, step, batch, n)[slots],
        flips=flips if flip else np.zeros_like(flips),
        uniforms=(draws[:, 2:6] >> np.uint64(11)).astype(np.float64) * 2.0**-53,
        draws=draws[:, 1],
    )


class Source(Protocol):
    """A dataset of latents as the trainer sees it. `load` is called from a thread, ahead of use."""

    @property
    def keys(self) -> Sequence[str]:
        """The samples' keys; their number is the dataset's size."""
        ...

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        """(channels, height, width) of one x0."""
        ...

    def describe(self) -> Mapping[str, Any]:
        """JSON-able fingerprint of the latents, kept in every checkpoint as state["latent"]:
        "shape" [C, h, w], "scale", "vae_fingerprint", "image_size" (pixels)."""
        ...

    def load(self, plan: BatchPlan) -> dict[str, torch.Tensor]:
        """The plan's samples: "x0", float32 [b, C, h, w] scaled latents (noise for the posterior
        sample: plan.noise(shape, Stream.POSTERIOR)); every other entry goes to the model by
        name (condition=..., y=...). Must be a function of the plan alone."""
        ...
