"""`python -m dit.train_vae`: train an autoencoder (AutoencoderKL) on a corpus.

For imagery that Stable Diffusion's VAE does not fit, and for runs without a network. Writes a
folder in diffusers' layout; the latent scale, 1 / standard deviation of the posterior's samples
measured after training, is its config's scaling_factor.
"""

from __future__ import annotations

import dataclasses
import hashlib
import math
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from core.atomic import atomic_path
from core.errors import UserError
from core.progress import progress
from core.settings import machine, parse, place, science, settings
from core.stage import Stage, fingerprint
from dit.latents.images import Place, batched, in_background, read_images
from dit.training.order import picks
from dit.vae.recipes import PRESETS, Recipe

if TYPE_CHECKING:
    from data.corpus.base import Corpus
    from dit.vae.trainer import Batches, VaeTrainer

WEIGHTS = "diffusion_pytorch_model.safetensors"
SHEET = "reconstructions.png"
_RESIDENT_BYTES = 2 << 30  # images up to this much in all are decoded once and kept


@settings
class TrainVaeConfig:
    """Train an autoencoder on a corpus."""

    corpus: str = place()
    """Corpus of images, as prune.score takes it."""
    out: Path
    """Folder for the VAE, in diffusers' layout."""
    scores: Path | None = None
    """Score table of the corpus: trains on every usable image. Give this or --subset."""
    holdout: Path | None = None
    """Hold-out (Parquet): with --scores, these images and their copies are left out."""
    subset: Path | None = None
    """Subset index (Parquet): trains on these images alone."""
    preset: Literal["mini", "kl-f8"] = "mini"
    """Recipe: mini (two CPU cores, f=4) or kl-f8 (latent diffusion's, f=8, for a large GPU)."""
    image_size: int = 64
    """Side to which images are resized and centre-cropped before random crops (pixels)."""
    steps: int | None = None
    """Optimiser steps; the preset's by default."""
    batch: int | None = None
    """Crops in a step; the preset's by default."""
    crop: int | None = None
    """Side of the random training crops (pixels); the preset's, or the image if smaller."""
    learning_rate: float | None = None
    """Adam's rate, at its height; the preset's by default."""
    perceptual: Literal["gradient", "lpips-vgg", "lpips-alex", "none"] | None = None
    """Perceptual term. lpips-* needs pretrained weights (cached or downloaded); gradient, which
    compares differences of neighbouring pixels at three scales, needs none."""
    kl_weight: float | None = None
    """Weight of KL(posterior || N(0,1)), summed over the latent, against the reconstruction
    summed over pixels."""
    adversarial_start: int | None = None
    """Step from which the patch discriminator takes part; 0: never."""
    validate_every: int | None = None
    """Steps between validations; the weights with the lowest validation loss are kept."""
    validation_images: int = 256
    """Images set aside for validation by a hash of their key (at most a tenth)."""
    scale_images: int = 4096
    """Training images over which the latent scale is measured."""
    seed: int = 0
    """Seed of weights, order, crops, flips and posterior noise."""
    checkpoint_every: int = machine(0)
    """Steps between checkpoints, beside the one at each validation; 0: no others."""
    workers: int = machine(2)
    """Threads that decode images."""
    device: str = machine("auto")
    """Torch device: auto, cpu, cuda, ..."""
    precision: Literal["fp32", "bf16"] = machine("fp32")
    """Arithmetic of the network (bf16: autocast); losses are float32."""
    gradient_checkpointing: bool = machine(False)
    """Recompute activations in the backward pass: less memory, slower."""

    def recipe(self) -> Recipe:
        """The preset with this command's changes. Raises UserError for values that cannot be."""
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
            if value < factor or value % factor:
                raise UserError(f"--{what} {value}: must be a multiple of {factor} pixels")
        if crop > self.image_size:
            raise UserError(f"--crop {crop} is larger than --image-size {self.image_size}")
        for name in ("steps", "batch", "validate_every", "learning_rate"):
            if not getattr(recipe, name) > 0:
                raise UserError(f"--{name.replace('_', '-')} must be above 0")
        if recipe.kl_weight < 0 or recipe.adversarial_start < 0:
            raise UserError("--kl-weight and --adversarial-start must not be negative")
        if self.validation_images < 1 or self.scale_images < 1:
            raise UserError("--validation-images and --scale-images must be at least 1")
        return recipe


def main(argv: Sequence[str] | None = None) -> int | None:
    config = parse(TrainVaeConfig, argv, prog="python -m dit.train_vae", description=__doc__ or "")
    recipe = config.recipe()
    if (config.scores is None) == (config.subset is None):
        raise UserError("give either --scores (with or without --holdout) or --subset")
    if config.subset is not None and config.holdout is not None:
        raise UserError("--holdout goes with --scores; a subset index has left it out already")
    given = {"scores": config.scores, "holdout": config.holdout, "subset": config.subset}
    inputs = {name: fingerprint(path) for name, path in given.items() if path is not None}
    params = {**science(config), **dataclasses.asdict(recipe)}
    stage = Stage(config.out, "dit.train_vae", params, inputs)
    if stage.done():
        return 0
    from data.corpus.base import keep_apart
    from data.corpus.specs import open_corpus

    places = _places(config)
    corpus = open_corpus(config.corpus)
    keep_apart(config.out, corpus, config.corpus)
    training, held = split(places, min(config.validation_images, len(places) // 10), config.seed)
    stage.open()

    import torch

    from dit.latents.encode import pick_device
    from dit.vae.trainer import BEST, CHECKPOINT, STATS, VaeTrainer

    torch.backends.cudnn.deterministic = True
    validation = _load_all(corpus, held, config, "validation images")
    images = Images(corpus, training, config)
    trainer = VaeTrainer(
        recipe,
        validation.shape[3],
        config.seed,
        config.out,
        pick_device(config.device),
        config.precision,
        config.gradient_checkpointing,
    )
    if trainer.resume():
        print(f"[dit.train_vae] continuing at step {trainer.step:,} of {recipe.steps:,}")
    trainer.train(
        images.batches(trainer.step, recipe), validation, checkpoint_every=config.checkpoint_every
    )
    trainer.load_best()
    chosen = training[: config.scale_images]  # in key order of the hash: a random sample
    scale = trainer.latent_scale(images.of(chosen))
    rebuilt = trainer.reconstruct(validation)
    quality = compare(validation, rebuilt)
    _write_model(trainer, scale, config.out)
    _write_sheet(config.out / SHEET, validation, rebuilt)
    summary = {
        "preset": config.preset,
        "channels": validation.shape[3],
        "factor": 2 ** (len(recipe.block_out_channels) - 1),
        "parameters": sum(p.numel() for p in trainer.model.parameters()),
        "images": {"training": len(training), "validation": len(held)},
        "loss": f"L1 + {recipe.perceptual_weight:g} x {recipe.perceptual}, "
        f"{recipe.kl_weight:g} x KL"
        + (f", GAN from step {recipe.adversarial_start}" if recipe.adversarial_start else ""),
        "perceptual": recipe.perceptual,
        "validation_loss": f"L1 + {recipe.perceptual_weight:g} x {recipe.perceptual} on [-1, 1], "
        "from the posterior mean",
        "best": trainer.best,
        "scaling_factor": scale,
        "scale_images": len(chosen),
        "reconstruction": quality,
    }
    stage.finish(
        summary,
        ["config.json", WEIGHTS, STATS, SHEET],
        line=f"{recipe.steps:,} steps, validation PSNR {quality['psnr']:.2f} dB, scale {scale:.4f}",
    )
    for name in (CHECKPOINT, BEST):
        (config.out / name).unlink(missing_ok=True)
    return 0


def _places(config: TrainVaeConfig) -> list[Place]:
    """(key, shard, row) of the images to learn from."""
    if config.subset is not None:
        from data.formats.index import read_index

        table, _ = read_index(config.subset)
        source = config.subset
    else:
        from data.curation.holdout import pool, read_holdout
        from data.formats.tables import read_parts

        assert config.scores is not None
        scores = read_parts(config.scores, ["key", "shard", "row", "digest", "status"])
        held = None if config.holdout is None else read_holdout(config.holdout)
        table = pool(scores, held)
        source = config.scores
    if table.num_rows < 10:
        raise UserError(f"{source}: {table.num_rows} usable images; at least 10 are needed")
    return list(zip(*(table[name].to_pylist() for name in ("key", "shard", "row")), strict=True))


def split(places: Sequence[Place], n: int, seed: int) -> tuple[list[Place], list[Place]]:
    """(training, validation): validation has the n smallest SHA-256 of "vae|seed|key".

    Both in the order of that hash; adding images never moves one from one side to the other,
    except across the n-th.
    """

    def place_of(index: int) -> bytes:
        return hashlib.sha256(f"vae|{seed}|{places[index][0]}".encode()).digest()

    order = sorted(range(len(places)), key=place_of)
    return [places[i] for i in order[n:]], [places[i] for i in order[:n]]


def _load_all(
    corpus: Corpus, places: Sequence[Place], config: TrainVaeConfig, name: str
) -> np.ndarray:
    """uint8 N x S x S x C, decoded in threads."""
    images = read_images(corpus, places, config.image_size, config.workers)
    return np.stack(list(progress(images, total=len(places), name=name)))


class Images:
    """The training images: decoded once and kept when they fit, else read as they are needed."""

    def __init__(self, corpus: Corpus, places: Sequence[Place], config: TrainVaeConfig) -> None:
        self.corpus, self.places, self.config = corpus, places, config
        self.kept: np.ndarray | None = None
        if len(places) * config.image_size**2 * 3 <= _RESIDENT_BYTES:
            self.kept = _load_all(corpus, places, config, "training images")

    def batches(self, start: int, recipe: Recipe) -> Batches:
        """(picks, images) of every step from `start` on."""

        def steps() -> Batches:
            for step in range(start, recipe.steps):
                chosen = picks(self.config.seed, step, recipe.batch, len(self.places))
                yield chosen, self._take(chosen.indices)

        return steps() if self.kept is not None else in_background(steps())

    def of(self, places: Sequence[Place]) -> Iterator[np.ndarray]:
        """These images, the first of `self.places`, in batches of 32."""
        if self.kept is not None:
            yield from np.array_split(self.kept[: len(places)], max(1, len(places) // 32))
        else:
            size, workers = self.config.image_size, self.config.workers
            yield from in_background(batched(read_images(self.corpus, places, size, workers), 32))

    def _take(self, indices: np.ndarray) -> np.ndarray:
        if self.kept is not None:
            return self.kept[indices]
        places = [self.places[index] for index in indices]
        size, workers = self.config.image_size, self.config.workers
        return np.stack(list(read_images(self.corpus, places, size, workers)))


def compare(images: np.ndarray, rebuilt: np.ndarray) -> dict[str, Any]:
    """Reconstruction quality of uint8 N x H x W x C: L1 in grey levels (0 to 255) and PSNR in dB.

    PSNR = 10 log10(255^2 / MSE), with the MSE over all images; for each band and over all.
    psnr_mean averages the images' own PSNRs, as papers often do (capped at 60 dB).
    """
    error = images.astype(np.float32) - rebuilt.astype(np.float32)
    bands = np.square(error).mean(axis=(0, 1, 2), dtype=np.float64)
    each = np.square(error).mean(axis=(1, 2, 3), dtype=np.float64)

    def psnr(mse: float) -> float:
        return round(min(60.0, 10 * math.log10(255**2 / max(mse, 1e-9))), 4)

    return {
        "psnr": psnr(float(bands.mean())),
        "psnr_mean": round(float(np.mean([psnr(float(value)) for value in each])), 4),
        "psnr_band": [psnr(float(value)) for value in bands],
        "l1_band": [
            round(float(value), 4) for value in np.abs(error).mean(axis=(0, 1, 2), dtype=np.float64)
        ],
        "images": len(images),
    }


def _write_model(trainer: VaeTrainer, scale: float, out: Path) -> None:
    """The diffusers folder: weights, then config.json with the scale."""
    trainer.model.register_to_config(scaling_factor=scale)
    with tempfile.TemporaryDirectory() as folder:
        trainer.model.save_pretrained(folder)
        for name in (WEIGHTS, "config.json"):
            with atomic_path(out / name) as temporary:
                temporary.write_bytes((Path(folder) / name).read_bytes())


def _write_sheet(path: Path, images: np.ndarray, rebuilt: np.ndarray, columns: int = 8) -> None:
    """Rows of validation images, each above the row of its reconstructions (RGB bands)."""
    from PIL import Image

    count = min(len(images), 2 * columns) // columns * columns or len(images)
    columns = min(columns, count)
    rows = [
        np.concatenate(list(source[start : start + columns, ..., :3]), axis=1)
        for start in range(0, count, columns)
        for source in (images, rebuilt)
    ]
    with atomic_path(path) as temporary:
        Image.fromarray(np.concatenate(rows)).save(temporary, format="PNG")
