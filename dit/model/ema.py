"""The weights' exponential moving average, in float32."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping

import torch
from torch import Tensor, nn


class Ema:
    """average <- decay * average + (1 - decay) * weights, after every step; starts as a copy.

    With warm-up the decay at step s (1-based) is min(decay, (1 + s) / (10 + s)). Without it the
    average still holds decay**s of the initial weights: 0.90 at 1K steps, 0.02 at 40K (decay
    0.9999).
    """

    def __init__(self, parameters: Mapping[str, nn.Parameter], decay: float, warmup: bool) -> None:
        self.decay, self.warmup = decay, warmup
        self.average = {name: p.detach().clone() for name, p in parameters.items()}
        self._parameters = dict(parameters)

    def decay_at(self, step: int) -> float:
        """The decay of step `step` (1-based)."""
        return min(self.decay, (1 + step) / (10 + step)) if self.warmup else self.decay

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Take in the weights as they are after step `step` (1-based)."""
        torch._foreach_lerp_(
            list(self.average.values()),
            list(self._parameters.values()),
            1.0 - self.decay_at(step),
        )

    @torch.no_grad()
    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Continue from saved averages; other names in `tensors` are passed over."""
        for name, average in self.average.items():
            average.copy_(tensors[name])

    @contextlib.contextmanager
    def applied(self) -> Iterator[None]:
        """Within the block the model's parameters are the averages."""
        self._swap()
        try:
            yield
        finally:
            self._swap()

    @torch.no_grad()
    def _swap(self) -> None:
        # In place, for other tensors may look at the same memory (sharded and compiled models).
        for name, parameter in self._parameters.items():
            weights = parameter.detach().clone()
            parameter.copy_(self.average[name])
            self.average[name].copy_(weights)
