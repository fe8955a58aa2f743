"""Settings of dit.train_vae. Light to import: no torch."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Literal

from core.errors import UserError
from core.settings import (
    AtLeast0,
    AtLeast1,
    NonNegative,
    Positive,
    Seed,
    machine,
    place,
    science,
    settings,
)
from core.stage import Stage, fingerprint, require_folder
from dit.vae.autoencoder import describe_vae
from dit.vae.recipes import PRESETS, SMALLEST, Perceptual, Recipe


@settings
class TrainVaeConfig:
    """Settings of dit.train_vae."""

    corpus: str = place()
    """Corpus of images, as prune.score takes it."""
    out: Path
    """Folder for the VAE, in diffusers' layout; the record of the training is below it."""
    scores: Path | None = None
    """Score table of the corpus: trains on every usable image. Give this or --subset."""
    holdout: Path | None = None
    """Hold-out (Parquet): with --scores, these images and their copies are left out."""
    subset: Path | None = None
    """Subset index (Parquet): trains on these images alone."""
    preset: Literal["mini", "mini-f8", "kl-f8"] = "mini"
    """Recipe: mini (two CPU cores, f=4, minutes), mini-f8 (two CPU cores, f=8, a quarter of an
    hour: how the VAE `mini-f8` was made) or kl-f8 (latent diffusion's, f=8, for a large GPU)."""
    init: str | None = place(None)
    """VAE whose weights to start from, in place of the preset's start: a folder, a hub id or a
    name that --vae takes; of the preset's shape."""
    image_size: AtLeast1 = 64
    """Side to which images are resized and centre-cropped before random crops (pixels)."""
    steps: AtLeast1 | None = None
    """Optimizer steps; the preset's by default."""
    batch: AtLeast1 | None = None
    """Crops in a step; the preset's by default."""
    crop: AtLeast1 | None = None
    """Side of the random training crops (pixels); the preset's, or the image if smaller."""
    learning_rate: Positive | None = None
    """Adam's rate, at its height; the preset's by default."""
    perceptual: Perceptual | None = None
    """Perceptual term, of four bands on R, G, B and on NIR, R, G. lpips-* and efficientnet-lite0
    need pretrained weights (--perceptual-weights, a cache, a package, or downloaded); gradient,
    which compares differences of neighbouring pixels at three scales, needs none."""
    substitute: Literal["gradient", "efficientnet-lite0", "refuse"] = "gradient"
    """What takes the perceptual term's place, said and recorded, where its weights cannot be had
    when the training begins; refuse: nothing does, and it does not begin."""
    kl_weight: NonNegative | None = None
    """Weight of KL(posterior || N(0,1)), summed over the latent, against the reconstruction
    summed over pixels."""
    adversarial_start: AtLeast0 | None = None
    """Step from which the patch discriminator takes part; 0: never."""
    normalised_together: AtLeast1 | None = None
    """Images that share the discriminator's batch statistics; a micro batch is a multiple of it."""
    validate_every: AtLeast1 | None = None
    """Steps between validations; the weights with the lowest validation loss are kept."""
    validation_images: AtLeast1 = 256
    """Images set aside for validation by a hash of their key (at most a tenth)."""
    scale_images: AtLeast1 = 4096
    """Training images over which the latent scale is measured."""
    export: Literal["best", "last", "ema"] = "best"
    """Weights in OUT itself: those of the lowest validation loss, the last, or their moving
    average. The last and the average are in OUT/last and OUT/ema besides."""
    seed: Seed = 0
    """Seed of weights, order, crops, flips and posterior noise."""
    checkpoint_every: AtLeast0 = machine(0)
    """Steps between checkpoints, beside the one at each validation; 0: no others."""
    workers: AtLeast1 = machine(2)
    """Threads that decode images."""
    perceptual_weights: Path | None = machine(None)
    """File of the perceptual term's pretrained weights, or the folder that holds it."""
    device: str = machine("auto")
    """Torch device: auto, cpu, cuda, ... Of a launch of several processes, each takes its own."""
    precision: Literal["auto", "fp32", "bf16"] = machine("auto")
    """Arithmetic of the networks (bf16: autocast); weights, L1 and KL are float32. auto: bf16 on a
    GPU, fp32 on a CPU."""
    per_device: AtLeast0 = machine(0)
    """Micro batch: crops that a process takes at once; 0: all of its part of the batch. Smaller
    ones are accumulated, with the same result to rounding."""
    compile: bool = machine(False)
    """Compile encoder, decoder and discriminator (torch.compile); pays on a GPU."""
    gradient_checkpointing: bool = machine(False)
    """Recompute activations in the backward pass: less memory, slower."""

    def recipe(self) -> Recipe:
        """The preset with this command's changes. Raises UserError for sizes that do not fit."""
        recipe = PRESETS[self.preset]
        names = {field.name for field in dataclasses.fields(Recipe)}
        given = {
            name: value
            for name, value in dataclasses.asdict(self).items()
            if name in names and value is not None
        }
        crop = given.get("crop", min(recipe.crop, self.image_size))
        recipe = dataclasses.replace(recipe, **{**given, "crop": crop})
        factor = 2 ** (len(recipe.block_out_channels) - 1)
        for what, value in (("image-size", self.image_size), ("crop", crop)):
            if value % factor:
                raise UserError(f"--{what} {value}: must be a multiple of {factor} pixels")
        if crop > self.image_size:
            raise UserError(f"--crop {crop} is larger than --image-size {self.image_size}")
        if recipe.adversarial_start and crop < SMALLEST:
            raise UserError(
                f"--crop {crop}: the discriminator of --adversarial-start "
                f"{recipe.adversarial_start} takes {SMALLEST} pixels or more; 0 is without it"
            )
        return recipe

    def stage(self) -> Stage:
        """What the command makes of what."""
        require_folder(self.out)
        recipe = self.recipe()
        if (self.scores is None) == (self.subset is None):
            raise UserError("give either --scores (with or without --holdout) or --subset")
        if self.subset is not None and self.holdout is not None:
            raise UserError("--holdout goes with --scores; a subset index has left it out already")
        given = {"scores": self.scores, "holdout": self.holdout, "subset": self.subset}
        inputs: dict[str, str] = {
            name: fingerprint(path) for name, path in given.items() if path is not None
        }
        if self.init is not None:
            inputs["init"] = describe_vae(self.init).fingerprint
        # The form of the training: before 2, no bands but R, G, B were seen.
        params = {**science(self), **dataclasses.asdict(recipe), "form": 2}
        return Stage(self.out, "dit.train_vae", params, inputs)
