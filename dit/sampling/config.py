"""Settings of dit.sample and dit.export. Light to import: no torch."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

from core.errors import UserError
from core.settings import AtLeast0, AtLeast1, Seed, machine, science, settings
from core.stage import Stage, require_folder
from dit.training.checkpoint import Weights, class_names, trained_on
from dit.training.checkpoint import fingerprint as checkpoint_fingerprint
from dit.vae.autoencoder import describe_vae

SHOWN = 50  # names of classes in a message


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
    class_label: str | None = None
    """Class-conditional models: class of every image, by its name in --labels (a file in the
    published format has no names but its numbers). Default: all classes in turn."""
    class_index: Annotated[int, Field(ge=-1)] = -1
    """The same by index, from 0 in the order of the names; -1 gives image i index i mod classes."""
    guidance: float = 1.0
    """Class-conditional models: classifier-free guidance scale, null + g (class - null): 1 is
    without, 0 draws the null class (where others write 1 + w or let 0 be without, add 1)."""
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
    """Output folder: 000000.png, 000001.png, ..., grid.png; of four bands also infrared/,
    infrared-grid.png and bands/ (GeoTIFF and NumPy)."""
    compile: bool = machine(False)
    """Compile the DiT (torch.compile); pays on a GPU."""

    def stage(self) -> Stage:
        """What the command makes of what."""
        chosen_class(self)  # a name that there is not is refused before anything is loaded
        return _stage(self, "dit.sample")


def _stage(config: SampleConfig | ExportConfig, name: str) -> Stage:
    require_folder(config.out)
    inputs = {
        "checkpoint": checkpoint_fingerprint(config.checkpoint),
        "vae": describe_vae(config.vae).fingerprint,
    }
    hints = {"checkpoint": trained_on(config.checkpoint)}
    return Stage(config.out, name, identifying(config), inputs, hints=hints)


def identifying(config: CheckpointConfig) -> dict[str, Any]:
    """The settings that make up the output's fingerprint."""
    params = science(config)
    if not config.num_heads:
        del params["num_heads"]
    return with_class(params)


def with_class(params: dict[str, Any]) -> dict[str, Any]:
    """Settings with the class as it is recorded: its name or its index, -1 (as ever) for none."""
    if params.get("class_index") == -1:
        del params["class_index"]
    if "class_label" in params and params["class_label"] is None:
        params["class_label"] = -1
    return params


def chosen_class(config: SampleConfig) -> int:
    """Index of the class to draw; -1: all in turn. Raises UserError naming the classes there are.

    That the model has so many classes is for whoever loads it to see.
    """
    label = config.class_label
    if label is None:
        return config.class_index
    if config.class_index != -1:
        raise UserError("--class-label and --class-index: give one of them")
    names = class_names(config.checkpoint)
    if label in names:
        return names.index(label)
    if label == "-1" or (not names and label.isdecimal()):
        return int(label)
    there = "it has no names of classes"
    if names:
        more = f", ... ({len(names):,} in all)" if len(names) > SHOWN else ""
        there = f"its classes are {', '.join(names[:SHOWN])}{more}"
        if label.isdecimal() and int(label) < len(names):
            there += f"; --class-index {int(label)} is {names[int(label)]}"
    raise UserError(f"--class-label {label}: no class of {config.checkpoint}; {there}")
