"""An autoencoder trained on a corpus: its images, its loop, its folder in diffusers' layout."""

from __future__ import annotations

import dataclasses
import hashlib
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from core.atomic import atomic_path
from core.errors import UserError
from core.progress import progress
from core.stage import Result, Stage
from data.corpus.base import Corpus, keep_apart
from data.corpus.specs import open_corpus
from data.corpus.verified import check_corpus
from data.curation.holdout import pool, read_holdout
from data.formats.tables import read_parts
from dit.model.device import pick_device
from dit.training.order import plan_batch
from dit.training.processes import RUN_AGAIN
from dit.training.runlog import RunLog
from dit.training.tracking import wandb_mode
from dit.vae.autoencoder import WEIGHTS as WEIGHTS_FILES
from dit.vae.autoencoder import load_vae
from dit.vae.config import TrainVaeConfig
from dit.vae.images import batched, in_background, read_images
from dit.vae.listing import Listing, listing_of, read_subset
from dit.vae.quality import compare
from dit.vae.recipes import Recipe
from dit.vae.trainer import Batches, VaeTrainer

WEIGHTS = WEIGHTS_FILES[0]
SHEET = "reconstructions.png"
RECORD = "training"
"""Folder below --out with config.json, env.json, stats.jsonl and the checkpoints: the VAE's own
config.json has the name that diffusers wants."""
_RESIDENT_BYTES = 2 << 30  # images up to this much in all are decoded once and kept


def train_vae(config: TrainVaeConfig, stage: Stage) -> Result:
    """Train an autoencoder, measure its latent scale, and write it as diffusers would."""
    recipe, record = config.recipe(), config.out / RECORD
    images = _images(config)
    corpus = open_corpus(config.corpus)
    keep_apart(config.out, corpus, config.corpus)
    if (config.out / "checkpoint.pt").exists():
        raise UserError(
            f"{config.out}: a training that version 0.1 began, which this one cannot continue; "
            "finish it with 0.1, or choose another --out"
        )
    check_corpus(corpus, len(images), images.images)
    training, held = split(images, min(config.validation_images, len(images) // 10), config.seed)
    wandb_mode()  # a mode that there is not is refused before anything is written
    stage.open()
    torch.backends.cudnn.deterministic = True
    validation = _load_all(corpus, held, config, "validation images")
    source = Images(corpus, training, config)
    device = pick_device(config.device)
    trainer = VaeTrainer(
        recipe,
        validation.shape[3],
        config.seed,
        device,
        config.precision,
        config.gradient_checkpointing,
    )
    if config.init is not None:
        trainer.start_from(load_vae(config.init))
    record.mkdir(exist_ok=True)
    if trainer.resume(record):
        print(f"[{stage.name}] continuing at step {trainer.step:,} of {recipe.steps:,}")
    settings = {**dataclasses.asdict(config), **dataclasses.asdict(recipe)}
    session = {"device": device, "precision": config.precision}
    log = RunLog(record, settings, trainer.step, session, stage)
    batches = _counted(source.batches(trainer.step, recipe), stage)
    finished = trainer.train(batches, validation, log, config.checkpoint_every)
    log.close(0 if finished else RUN_AGAIN)
    if not finished:
        where = f"[{stage.name}] stopped at step {trainer.step:,} of {recipe.steps:,}"
        print(f"{where} as asked; run the same command again to continue", flush=True)
        stage.close()
        return Result(config.out, exit_code=RUN_AGAIN)
    trainer.load_best()
    if recipe.half:
        trainer.model.half().float()  # what is measured below is what is written
    chosen = min(len(training), config.scale_images)  # in key order of the hash: a random sample
    scale = trainer.latent_scale(source.first(chosen))
    rebuilt = trainer.reconstruct(validation)
    quality = compare(validation, rebuilt)
    _write_model(trainer, scale, config.out)  # the last use of the model: it may be half now
    _write_sheet(config.out / SHEET, validation, rebuilt)
    loss = f"L1 + {recipe.perceptual_weight:g} x {recipe.perceptual}"
    gan = f", GAN from step {recipe.adversarial_start}" if recipe.adversarial_start else ""
    result = stage.finish(
        {
            "preset": config.preset,
            "channels": validation.shape[3],
            "factor": 2 ** (len(recipe.block_out_channels) - 1),
            "parameters": sum(p.numel() for p in trainer.model.parameters()),
            "images": {"training": len(training), "validation": len(held)},
            "loss": f"{loss}, {recipe.kl_weight:g} x KL{gan}",
            "perceptual": recipe.perceptual,
            "validation_loss": f"{loss} on [-1, 1], from the posterior mean",
            "best": trainer.best,
            "scaling_factor": scale,
            "scale_images": chosen,
            "reconstruction": quality,
        },
        ["config.json", WEIGHTS, SHEET],
        line=f"{recipe.steps:,} steps, validation PSNR {quality['psnr']:.2f} dB, scale {scale:.4f}",
    )
    shutil.rmtree(record / "checkpoints", ignore_errors=True)
    return result


def _counted(batches: Batches, stage: Stage) -> Batches:
    """The same; the stage's ledger counts their images."""
    for plan, images in batches:
        yield plan, images
        stage.count(len(images))


def _images(config: TrainVaeConfig) -> Listing:
    """The images to learn from."""
    if config.subset is not None:
        images, source = read_subset(config.subset), config.subset
    else:
        assert config.scores is not None
        scores = read_parts(config.scores, ["key", "shard", "row", "digest", "status"])
        held = None if config.holdout is None else read_holdout(config.holdout)
        images, source = listing_of(pool(scores, held)), config.scores
    if len(images) < 10:
        raise UserError(f"{source}: {len(images)} usable images; at least 10 are needed")
    return images


def split(images: Listing, n: int, seed: int) -> tuple[Listing, Listing]:
    """(training, validation): validation has the n smallest SHA-256 of "vae|seed|key".

    Both in the order of that hash; adding images never moves one from one side to the other,
    except across the n-th.
    """
    hashes = [hashlib.sha256(f"vae|{seed}|{key}".encode()).digest() for key in images.keys]
    order = sorted(range(len(images)), key=hashes.__getitem__)
    return images.take(order[n:]), images.take(order[:n])


def _load_all(corpus: Corpus, images: Listing, config: TrainVaeConfig, name: str) -> np.ndarray:
    """uint8 N x S x S x C, decoded in threads."""
    found = read_images(corpus, images, config.image_size, config.workers)
    return np.stack(list(progress(found, total=len(images), name=name)))


class Images:
    """The training images: decoded once and kept when they fit, else read as they are needed."""

    def __init__(self, corpus: Corpus, images: Listing, config: TrainVaeConfig) -> None:
        self.corpus, self.images, self.config = corpus, images, config
        self.kept: np.ndarray | None = None
        if len(images) * config.image_size**2 * 3 <= _RESIDENT_BYTES:
            self.kept = _load_all(corpus, images, config, "training images")

    def batches(self, start: int, recipe: Recipe) -> Batches:
        """(plan, images) of every step from `start` on."""

        def steps() -> Batches:
            for step in range(start, recipe.steps):
                plan = plan_batch(self.config.seed, step, recipe.batch, len(self.images))
                yield plan, self._take(plan.indices)

        return steps() if self.kept is not None else in_background(steps())

    def first(self, count: int) -> Iterator[np.ndarray]:
        """The first images, in batches of about 32."""
        if self.kept is not None:
            yield from np.array_split(self.kept[:count], max(1, count // 32))
        else:
            yield from in_background(batched(self._read(range(count)), 32))

    def _take(self, indices: np.ndarray) -> np.ndarray:
        return self.kept[indices] if self.kept is not None else np.stack([*self._read(indices)])

    def _read(self, indices: Any) -> Iterator[np.ndarray]:
        chosen = self.images.take(indices)
        return read_images(self.corpus, chosen, self.config.image_size, self.config.workers)


def _write_model(trainer: VaeTrainer, scale: float, out: Path) -> None:
    """The diffusers folder: weights, then config.json with the scale."""
    trainer.model.register_to_config(scaling_factor=scale)
    model = trainer.model.half() if trainer.recipe.half else trainer.model
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        for name in (WEIGHTS, "config.json"):
            with atomic_path(out / name) as temporary:
                temporary.write_bytes((Path(folder) / name).read_bytes())


def _write_sheet(path: Path, images: np.ndarray, rebuilt: np.ndarray, columns: int = 8) -> None:
    """Rows of validation images, each above the row of its reconstructions (RGB bands)."""
    count = min(len(images), 2 * columns) // columns * columns or len(images)
    columns = min(columns, count)
    rows = [
        np.concatenate(list(source[start : start + columns, ..., :3]), axis=1)
        for start in range(0, count, columns)
        for source in (images, rebuilt)
    ]
    with atomic_path(path) as temporary:
        Image.fromarray(np.concatenate(rows)).save(temporary, format="PNG")
