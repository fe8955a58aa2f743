"""Settings of downstream.train and downstream.evaluate. Light to import: no torch, no images."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

from core.errors import UserError
from core.settings import AtLeast0, AtLeast1, NonNegative, Seed, machine, science, settings
from core.stage import Stage, digest_of, require_folder
from data.pairs.listing import Listing, open_sis, open_sr
from dit.training.checkpoint import (
    Weights,
    fingerprint,
    read_state,
    resolve,
    trained_on,
)
from dit.training.config import TrainConfig
from dit.training.stage import TrainingStage
from dit.vae.autoencoder import SD_VAE, VaeInfo, describe_vae

TaskName = Literal["sr", "sis"]
Dates = Literal["both", "first"]

_DATES = {"both": ("im1", "im2"), "first": ("im1",)}


def open_listing(task: TaskName, root: Path, dates: Dates) -> Listing:
    """The data set of a task, listed; nothing is decoded."""
    return open_sr(root, _DATES[dates]) if task == "sr" else open_sis(root)


@settings
class DownstreamConfig(TrainConfig):
    """Settings of downstream.train.

    The paper (Sec. 4.2) initialises from the pretrained DiT and trains 5,000 steps; how the
    condition enters, the degradation and the crops it leaves open.
    """

    task: TaskName
    """sr: super-resolution (SECOND-SR). sis: semantic image synthesis (OpenEarthMap)."""
    init: Path
    """Pretrained DiT: a run folder of dit.train (its newest checkpoint) or a checkpoint."""
    data: Path
    """sr: SECOND, or any folder of images. sis: OpenEarthMap, or <group>/{images,masks}."""
    vae: str = machine(SD_VAE)
    """The VAE that the pretrained DiT was trained with: a diffusers folder or a hub id."""
    out: Path
    """Run folder."""
    init_weights: Weights = "ema"
    """Which weights of the pretrained DiT to start from, its average or the raw ones."""
    image_size: AtLeast1 = 256
    """Side of a training crop (pixels); must give the latents that the DiT takes."""
    hr_size: AtLeast1 = 512
    """sr: shorter side that images are brought to before cropping (pixels)."""
    factor: Annotated[int, Field(ge=2)] = 8
    """sr: down-sampling factor, antialiased bicubic down and bicubic up. The paper gives none."""
    dates: Dates = "both"
    """sr: of a SECOND pair use both dates, or the first only."""
    tile_size: AtLeast1 = 1024
    """sis: shorter side that image and mask are brought to before cropping (pixels)."""
    palette: str = "auto"
    """sis: colours of the masks: auto, openearthmap, dubai, second, or a YAML file."""

    steps: AtLeast1 = 5_000
    """Optimizer steps. The paper fine-tunes for 5K."""
    ema_warmup: bool = True
    """Decay min(ema_decay, (1 + s) / (10 + s)) at step s. Without it the average after 5K steps
    is still 0.61 the initial network, whose condition weights are zero."""
    checkpoint_every: AtLeast1 = machine(1_000)
    """Steps between checkpoints; one is always written at the end."""

    workers: AtLeast1 = machine(4)
    """Threads that decode images."""
    cache_gib: NonNegative = machine(8.0)
    """Decoded images are kept in memory up to this (GiB, each process); else read every time."""
    is_done: bool = machine(False)
    """Train nothing; exit with 0 when the run is finished, 3 when work is left, 2 when these
    settings are refused."""

    def stage(self) -> TrainingStage:
        """What the command makes of what. Raises UserError where VAE and --init do not fit."""
        require_folder(self.out)
        if self.init.is_file():
            raise UserError(
                f"--init {self.init}: a file; give a run of dit.train (dit.train --init FILE makes "
                "one of a file in the published format)"
            )
        listing, info = open_listing(self.task, self.data, self.dates), describe_vae(self.vae)
        checkpoint = resolve(self.init)
        inputs = {
            "init": fingerprint(checkpoint),
            "data": listing.fingerprint("train"),
            "vae": info.fingerprint,
        }
        state = read_state(checkpoint)
        if "latent" not in state:
            raise UserError(
                f"--init {self.init}: holds a {state['model']['class']}, expected a DiT"
            )
        latent = state["latent"]
        _check_vae(info, latent, self.vae, self.init)
        shape = list(info.latent_shape(self.image_size))
        if shape != list(latent["shape"]):
            raise UserError(
                f"--image-size {self.image_size} gives latents of {shape}, but {self.init} takes "
                f"{list(latent['shape'])}, that is --image-size {latent['image_size']}"
            )
        if self.task == "sis" and self.palette != "auto":
            from data.pairs.palettes import load_palette  # loads Pillow

            inputs["palette"] = digest_of(load_palette(self.palette).describe())
        hints = {"init": trained_on(checkpoint)}
        return TrainingStage(self.out, "downstream.train", science(self), inputs, hints=hints)


@settings
class EvaluateConfig:
    """Settings of downstream.evaluate."""

    run: Path
    """Run folder of downstream.train (its newest checkpoint), or a checkpoint."""
    data: Path
    """The data set, as in training."""
    out: Path
    """Output folder."""
    vae: str = machine(SD_VAE)
    """The VAE of the run: a diffusers folder or a hub id."""
    task: Literal["auto", "sr", "sis"] = "auto"
    """auto: the run's own; another is refused."""
    split: str = "auto"
    """Which split: auto is test for sr and val for sis (OpenEarthMap withholds test labels)."""
    weights: Weights = "ema"
    """The averaged weights or the raw ones."""
    sampler: Literal["ddpm", "ddim", "dpmpp"] = "ddim"
    """ddpm with learned variance, ddim (eta 0) or DPM-Solver++."""
    steps: AtLeast1 = 25
    """Network evaluations for an image; DiT's own figures use ddpm with 250."""
    crops: Literal["center", "grid"] = "center"
    """Of each image the centre, or every complete tile of a centred grid."""
    limit: AtLeast0 = 0
    """Only the first so many images; 0: all."""
    seed: Seed = 0
    """Seed of the noise."""
    batch: AtLeast1 = machine(32)
    """Images at a time."""
    precision: Literal["fp32", "bf16"] = machine("fp32")
    """Arithmetic of the network."""
    device: str = machine("auto")
    """Torch device: auto, cpu, cuda, cuda:1, ..."""
    workers: AtLeast1 = machine(4)
    """Threads that decode images."""
    cache_gib: NonNegative = machine(8.0)
    """Decoded images are kept in memory up to this (GiB)."""

    def stage(self) -> Stage:
        """What the command makes of what; "task" and "split" of its params are never 'auto'."""
        require_folder(self.out)
        checkpoint = resolve(self.run)
        trained = fingerprint(checkpoint)
        state = read_state(checkpoint)
        if "downstream" not in state:
            raise UserError(f"--run {self.run}: not a run of downstream.train")
        task, dates = state["downstream"]["task"], state["downstream"].get("dates", "both")
        if self.task not in ("auto", task):
            raise UserError(f"--task {self.task}: {self.run} was trained for {task}")
        split = {"sr": "test", "sis": "val"}[task] if self.split == "auto" else self.split
        info = describe_vae(self.vae)
        _check_vae(info, state["latent"], self.vae, self.run)
        data = open_listing(task, self.data, dates).fingerprint(split)
        return Stage(
            self.out,
            "downstream.evaluate",
            {**science(self), "task": task, "split": split},
            {"run": trained, "data": data, "vae": info.fingerprint},
            hints={"run": trained_on(checkpoint)},
        )


def _check_vae(vae: VaeInfo, latent: dict[str, Any], given: str, model: Path) -> None:
    """Refuse a VAE other than the one whose latents (state["latent"]) `model` was trained on."""
    if vae.in_channels != 3:
        raise UserError(f"--vae {given}: takes {vae.in_channels} bands; SR and SIS images are RGB")
    if vae.fingerprint != latent["vae_fingerprint"]:
        raise UserError(
            f"--vae {given} is not the VAE that {model} was trained with "
            f"(fingerprint {vae.fingerprint[:12]}, scale {vae.scale:g}; the model's: "
            f"{latent['vae_fingerprint'][:12]}, scale {latent['scale']:g}); give that one"
        )
