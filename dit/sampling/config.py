"""Settings of dit.sample and dit.export. Light to import: no torch."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

from core.settings import AtLeast0, AtLeast1, Seed, machine, science, settings
from core.stage import Stage, require_folder
from dit.training.checkpoint import Weights
from dit.training.checkpoint import fingerprint as checkpoint_fingerprint
from dit.vae.autoencoder import describe_vae


@settings
class CheckpointConfig:
    """What dit.sample and dit.export take."""

    checkpoint: Path
    """Run folder of dit.train (its newest checkpoint), one checkpoint folder of it, or a file in
    the published DiT format (.pt, .safetensors)."""
    vae: Path
    """The VAE that it was trained with: folder in diffusers' layout or hub id."""
    weights: Weights = "ema"
    """The weights' moving average, or the weights themselves."""
    num_heads: AtLeast0 = 0
    """Files in the published format: attention heads; 0 knows those of the published models."""


@settings
class ExportConfig(CheckpointConfig):
    """Settings of an export."""

    out: Path
    """Output folder, in diffusers' layout."""

    def stage(self) -> Stage:
        """What the command makes of what."""
        return _stage(self, "dit.export")


@settings
class DrawConfig:
    """How images are drawn from a model; eval.track shares it."""

    n: AtLeast1 = 256
    """Images to draw."""
    sampler: Literal["ddpm", "ddim", "dpmpp"] = "ddpm"
    """ddpm: DiT's own, learned variance. ddim: deterministic, steps must divide 1000 evenly.
    dpmpp: DPM-Solver++, deterministic, good from 20 steps on."""
    steps: AtLeast1 = 250
    """Model evaluations an image."""
    seed: Seed = 0
    """Seed of all noise; image i depends on the seed and i alone."""
    class_label: Annotated[int, Field(ge=-1)] = -1
    """Class-conditional models: class of every image; -1 gives image i class i mod classes."""
    guidance: float = 1.0
    """Class-conditional models: classifier-free guidance scale; 1 is without."""
    guided_channels: int = 0
    """Latent channels that guidance acts on; 0 is all (DiT's published figures: 3 of 4)."""

    batch: AtLeast1 = machine(32)
    """Images at a time through the model."""
    precision: Literal["tf32", "fp32", "bf16"] = machine("tf32")
    """Arithmetic of the DiT: bf16 is autocast; tf32 is fp32 where the hardware has no TF32."""
    device: str = machine("auto")
    """Torch device: auto, cpu, cuda, cuda:1, ..."""


@settings
class SampleConfig(DrawConfig, CheckpointConfig):
    """Settings of one folder of samples."""

    out: Path
    """Output folder: 000000.png, 000001.png, ..., grid.png."""
    compile: bool = machine(False)
    """Compile the DiT (torch.compile); pays on a GPU."""

    def stage(self) -> Stage:
        """What the command makes of what."""
        return _stage(self, "dit.sample")


def _stage(config: SampleConfig | ExportConfig, name: str) -> Stage:
    require_folder(config.out)
    inputs = {
        "checkpoint": checkpoint_fingerprint(config.checkpoint),
        "vae": describe_vae(config.vae).fingerprint,
    }
    return Stage(config.out, name, identifying(config), inputs)


def identifying(config: CheckpointConfig) -> dict[str, Any]:
    """The settings that make up the output's fingerprint."""
    params = science(config)
    if not config.num_heads:
        del params["num_heads"]
    return params
