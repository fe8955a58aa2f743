"""Random numbers that are functions of (seed, stream, step, slot), reached without those before.

They come from Philox, a counter-based generator whose streams NumPy keeps stable: its key holds
(seed, stream), its counter (step, slot), so streams never overlap.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch


def philox(seed: int, stream: int, step: int, slot: int = 0) -> np.random.Philox:
    """The generator of one slot. `seed` is in 0 .. 2**64-1; so are the other three."""
    # The counter's two low integers count the numbers drawn.
    return np.random.Philox(
        key=np.array([seed, stream], dtype=np.uint64),
        counter=np.array([0, 0, slot, step], dtype=np.uint64),
    )


def slot_noise(
    seed: int, stream: int, step: int, slots: Sequence[int] | np.ndarray, shape: Sequence[int]
) -> torch.Tensor:
    """Standard normal noise, float32 CPU tensor [len(slots), *shape], each slot its own."""
    out = np.empty((len(slots), *shape), dtype=np.float32)
    bits = philox(seed, stream, step)
    generator, state = np.random.Generator(bits), bits.state
    for row, slot in zip(out, slots, strict=True):
        state["state"]["counter"][2] = slot  # fifteen times cheaper than a new generator
        bits.state = state
        generator.standard_normal(dtype=np.float32, out=row)
    return torch.from_numpy(out)
