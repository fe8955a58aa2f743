"""The settings that every training shares, and its learning rate. Light to import: no torch."""

from __future__ import annotations

import math
from typing import Annotated, Literal

from pydantic import Field

from core.settings import (
    AtLeast0,
    AtLeast1,
    NonNegative,
    Positive,
    Seed,
    machine,
    settings,
)

Schedule = Literal["constant", "cosine"]
BelowOne = Annotated[float, Field(ge=0, lt=1)]


@settings
class TrainConfig:
    """The paper's recipe (DiT's): AdamW at a constant rate, no weight decay, no clipping, EMA."""

    steps: AtLeast1 = 40_000
    """Optimizer steps. The paper trains 40K to 100K (Sec. 4). At a constant rate a run, finished
    or not, goes on to a larger number, as if it had been asked for from the beginning."""
    batch: AtLeast1 = 256
    """Samples in a step, over all processes and accumulated micro batches."""
    learning_rate: Positive = 1e-4
    """AdamW's rate, at its height; scaled neither by --batch nor by the number of processes."""
    schedule: Schedule = "constant"
    """constant: the recipe. cosine: falls to 0 at the last step, for runs of a few thousand steps,
    whose weights would otherwise wander to the end."""
    warmup: AtLeast0 = 0
    """Steps over which the rate climbs linearly from 0; 0: none (the recipe)."""
    weight_decay: NonNegative = 0.0
    """AdamW's decoupled weight decay."""
    clip: NonNegative = 0.0
    """Clip the gradient to this L2 norm; 0: never (the recipe)."""
    ema_decay: BelowOne = 0.9999
    """Decay of the weights' moving average in a step; it starts as a copy of the weights."""
    ema_warmup: bool = False
    """Decay min(ema_decay, (1 + s) / (10 + s)) at step s: for runs far below 20K steps, whose
    plain average would still hold the untrained weights."""
    flip: bool = True
    """Mirror each image left-right with probability 1/2."""
    seed: Seed = 0
    """Seed of the initial weights, the order, the flips, the timesteps and all noise."""

    precision: Literal["auto", "fp32", "bf16"] = machine("auto")
    """Arithmetic of the network; weights stay float32. auto: bf16 on a GPU, fp32 on a CPU."""
    per_device: AtLeast0 = machine(0)
    """Micro batch: samples that a process takes through the network at once; 0: all of its
    part of the batch. Smaller ones are accumulated, with the same result to rounding."""
    compile: bool = machine(False)
    """Compile the network's blocks (torch.compile); pays on a GPU."""
    shard: bool = machine(False)
    """Divide weights, gradients, average and optimizer among the processes (FSDP2), for models
    that do not fit one GPU; `accelerate launch --use_fsdp` asks for it too."""
    recompute: bool = machine(False)
    """Recompute each block's activations in the backward pass: less memory, a third more time."""
    log_every: AtLeast1 = machine(100)
    """Steps between lines of stats.jsonl."""
    checkpoint_every: AtLeast1 = machine(5_000)
    """Steps between checkpoints; one is always written at the end."""
    keep: AtLeast1 = machine(2)
    """Newest checkpoints kept; older ones are deleted."""
    keep_every: AtLeast0 = machine(0)
    """Keep for good the checkpoints at multiples of this step; 0: none but the newest."""
    sample_every: AtLeast0 = machine(0)
    """Steps between grids of samples from fixed noise; 0: none."""

    def rate(self, step: int) -> float:
        """Learning rate of step `step` (1-based)."""
        factor = schedule_factor(self.schedule, step - 1, self.steps)
        return self.learning_rate * min(1.0, step / max(1, self.warmup)) * factor


def schedule_factor(schedule: Schedule, done: int, steps: int, floor: float = 0.0) -> float:
    """What a schedule multiplies the rate by after `done` of `steps` steps.

    constant: 1. cosine: half a cosine from 1 down to `floor`.
    """
    if schedule == "constant":
        return 1.0
    return floor + (1.0 - floor) * 0.5 * (1.0 + math.cos(math.pi * done / steps))
