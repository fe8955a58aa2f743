"""The settings that every training shares. Light to import: no torch."""

from __future__ import annotations

import math
from typing import Literal

from core.errors import UserError
from core.settings import machine, settings


@settings
class TrainConfig:
    """The paper's recipe (DiT's): AdamW at a constant rate, no weight decay, no clipping, EMA."""

    steps: int = 40_000
    """Optimiser steps. The paper trains 40K to 100K (Sec. 4)."""
    batch: int = 256
    """Samples in a step, over all processes and accumulated micro batches."""
    learning_rate: float = 1e-4
    """AdamW's rate, at its height."""
    schedule: Literal["constant", "cosine"] = "constant"
    """constant: the recipe. cosine: falls to 0 at the last step, for runs of a few thousand steps,
    whose weights would otherwise wander to the end."""
    warmup: int = 0
    """Steps over which the rate climbs linearly from 0; 0: none (the recipe)."""
    weight_decay: float = 0.0
    """AdamW's decoupled weight decay."""
    clip: float = 0.0
    """Clip the gradient to this L2 norm; 0: never (the recipe)."""
    ema_decay: float = 0.9999
    """Decay of the weights' moving average in a step; it starts as a copy of the weights."""
    ema_warmup: bool = False
    """Decay min(ema_decay, (1 + s) / (10 + s)) at step s: for runs far below 20K steps, whose
    plain average would still hold the untrained weights."""
    flip: bool = True
    """Mirror each image left-right with probability 1/2."""
    seed: int = 0
    """Seed of the initial weights, the order, the flips, the timesteps and all noise."""

    precision: Literal["auto", "fp32", "bf16"] = machine("auto")
    """Arithmetic of the network; weights stay float32. auto: bf16 on a GPU, fp32 on a CPU."""
    per_device: int = machine(0)
    """Micro batch: samples that a process takes through the network at once; 0: all of its
    share of the batch. Smaller ones are accumulated, with the same result to rounding."""
    compile: bool = machine(False)
    """Compile the network's blocks (torch.compile); pays on a GPU."""
    shard: bool = machine(False)
    """Share weights, gradients, average and optimiser out over the processes (FSDP2), for models
    that do not fit one GPU; `accelerate launch --use_fsdp` asks for it too."""
    recompute: bool = machine(False)
    """Recompute each block's activations in the backward pass: less memory, a third more time."""
    log_every: int = machine(100)
    """Steps between lines of stats.jsonl."""
    checkpoint_every: int = machine(5_000)
    """Steps between checkpoints; one is always written at the end."""
    keep: int = machine(2)
    """Newest checkpoints kept; older ones are deleted."""
    keep_every: int = machine(0)
    """Keep for good the checkpoints at multiples of this step; 0: none but the newest."""
    sample_every: int = machine(0)
    """Steps between grids of samples from fixed noise; 0: none."""

    def check(self) -> None:
        """Raise UserError for a value outside its range."""
        for name in ("steps", "batch", "log_every", "checkpoint_every", "keep"):
            if getattr(self, name) < 1:
                raise UserError(f"--{name.replace('_', '-')} {getattr(self, name)}: at least 1")
        zero_or_more = ("per_device", "keep_every", "sample_every", "clip", "weight_decay", "seed")
        for name in (*zero_or_more, "warmup"):
            if getattr(self, name) < 0:
                raise UserError(f"--{name.replace('_', '-')} {getattr(self, name)}: at least 0")
        for name in ("learning_rate", "weight_decay", "clip"):
            if not math.isfinite(getattr(self, name)):
                raise UserError(f"--{name.replace('_', '-')} {getattr(self, name)}: not finite")
        if self.seed >= 2**64:
            raise UserError(f"--seed {self.seed}: below 2**64")
        if not 0.0 <= self.ema_decay < 1.0:
            raise UserError(f"--ema-decay {self.ema_decay}: expected 0 <= decay < 1")
        if self.learning_rate <= 0.0:
            raise UserError(f"--learning-rate {self.learning_rate}: expected more than 0")

    def rate(self, step: int) -> float:
        """Learning rate of step `step` (1-based)."""
        rate = self.learning_rate * min(1.0, step / max(1, self.warmup))
        if self.schedule == "cosine":
            rate *= 0.5 * (1.0 + math.cos(math.pi * (step - 1) / self.steps))
        return rate
