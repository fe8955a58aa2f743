"""Where and how a VAE's training step is computed."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from core.engines import ALONE, ProcessGroup
from core.errors import UserError
from dit.vae.recipes import Recipe


@dataclasses.dataclass(frozen=True)
class Machine:
    """Where and how a step is computed; its result does not depend on it, but for rounding."""

    device: str = "cpu"
    half: bool = False
    """Networks under bf16 autocast; weights, L1 and KL are float32."""
    recompute: bool = False
    compiled: bool = False
    per_device: int = 0
    """Micro batch; 0: all slots of a process."""
    group: ProcessGroup = ALONE
    perceptual_weights: Path | None = None


def micro_batch(recipe: Recipe, machine: Machine) -> int:
    """The micro batch. Raises UserError where batch, processes and micro batch do not divide."""
    slots, rest = divmod(recipe.batch, machine.group.size)
    if rest:
        raise UserError(
            f"--batch {recipe.batch} does not divide among {machine.group.size} processes"
        )
    micro = machine.per_device or slots
    if slots % micro:
        raise UserError(f"--per-device {micro} does not divide a process's {slots} crops of a step")
    if recipe.adversarial_start and micro % recipe.normalised_together:
        raise UserError(
            f"{micro} crops at a time (--batch {recipe.batch}, {machine.group.size} processes, "
            f"--per-device {machine.per_device}): the discriminator normalises "
            f"{recipe.normalised_together} together, so a micro batch must be a multiple of that"
        )
    return micro
