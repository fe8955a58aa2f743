"""An autoencoder trained on a corpus: its images, its loop, its folders in diffusers' layout."""

from __future__ import annotations

import dataclasses
import datetime
import hashlib
import json
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from accelerate import PartialState
from accelerate.utils import parse_flag_from_env
from PIL import Image
from pyarrow import parquet
from torch import nn

from core.atomic import atomic_path, write_json
from core.engines import ALONE, process_group
from core.errors import UserError
from core.progress import progress
from core.stage import Result, Stage
from data.corpus.base import Corpus, keep_apart
from data.corpus.specs import open_corpus
from data.corpus.verified import check_corpus
from data.curation.holdout import pool, read_holdout
from data.formats.places import COLUMNS, overlapping
from data.formats.tables import part_paths, read_parts
from data.images.chips import BANDS as INFRARED
from data.images.composites import COMPOSITES, composite
from dit.model.device import pick_device
from dit.training.checkpoint import clear
from dit.training.order import plan_batch
from dit.training.processes import RUN_AGAIN
from dit.training.runlog import RunLog
from dit.training.tracking import wandb_mode
from dit.vae.autoencoder import WEIGHTS as WEIGHTS_FILES
from dit.vae.autoencoder import load_vae
from dit.vae.config import TrainVaeConfig
from dit.vae.images import bands_of, batched, in_background, read_images
from dit.vae.infrared import FILE as INFRARED_FILE
from dit.vae.infrared import fit_infrared, write_infrared
from dit.vae.listing import Listing, listing_of, read_subset
from dit.vae.losses import GROUPS, make_perceptual
from dit.vae.machine import Machine
from dit.vae.network import latent_statistics, reconstruct
from dit.vae.quality import compare
from dit.vae.recipes import Recipe
from dit.vae.trainer import Batches, VaeTrainer

WEIGHTS = WEIGHTS_FILES[0]
SHEET = "reconstructions.png"
RECORD = "training"
"""Folder below --out with config.json, env.json, stats.jsonl and the checkpoints: the VAE's own
config.json has the name that diffusers wants."""
_PERCEPTUAL = "perceptual.json"
_RESIDENT_BYTES = 2 << 30  # images up to this much in all are decoded once and kept


def train_vae(config: TrainVaeConfig, stage: Stage) -> Result:
    """Train an autoencoder, measure its latent scale, and write it as diffusers would.

    All processes of a launch train; the main one writes, and the others end with it
    (DoneElsewhere).
    """
    record = config.out / RECORD
    images, places = _images(config)
    corpus = open_corpus(config.corpus)
    keep_apart(config.out, corpus, config.corpus)
    if (config.out / "checkpoint.pt").exists():
        raise UserError(
            f"{config.out}: a training that version 0.1 began, which this one cannot continue; "
            "finish it with 0.1, or choose another --out"
        )
    check_corpus(corpus, len(images), images.images)
    wanted = min(config.validation_images, len(images) // 10)
    training, held = split(images, wanted, config.seed, places)
    if not len(training):
        raise UserError(
            f"{config.corpus}: all of its {len(images):,} images show the ground of those that are "
            "set aside for validation, and none is left to train on; take tiles of more ground"
        )
    bands = bands_of(corpus, training)
    wandb_mode()  # a mode that there is not is refused before anything is written
    machine = _machine(config)
    machine.group.open(stage)
    if machine.group.main:
        record.mkdir(exist_ok=True)
        clear(record)
        _settle_perceptual(config, record, bands)
    machine.group.wait()
    recipe = dataclasses.replace(config.recipe(), perceptual=_perceptual(record))
    torch.backends.cudnn.deterministic = True
    validation = _load_all(corpus, held, config, bands, "validation images")
    source = Images(corpus, training, config, bands)
    trainer = VaeTrainer(recipe, bands, config.seed, machine)
    if config.init is not None:
        trainer.start_from(load_vae(config.init))
    if trainer.resume(record) and machine.group.main:
        print(f"[{stage.name}] continuing at step {trainer.step:,} of {recipe.steps:,}")
    log = None
    if machine.group.main:
        settings = {**dataclasses.asdict(config), **dataclasses.asdict(recipe), "bands": bands}
        session = {
            "processes": machine.group.size,
            "device": machine.device,
            "precision": "bf16" if machine.half else "fp32",
            "micro_batch": trainer.micro,
        }
        log = RunLog(record, settings, trainer.step, session, stage)
    slots = machine.group.share(recipe.batch, recipe.batch // machine.group.size)
    finished = trainer.train(
        source.batches(trainer.step, recipe, slice(slots.start, slots.stop)),
        validation,
        log,
        record,
        config.checkpoint_every,
        len(training),
        stage.count,
    )
    if log is not None:
        log.close(0 if finished else RUN_AGAIN)
    if not finished:
        if machine.group.main:
            where = f"[{stage.name}] stopped at step {trainer.step:,} of {recipe.steps:,}"
            print(f"{where} as asked; run the same command again to continue", flush=True)
        stage.close()
        machine.group.wait()  # a launcher ends the others as soon as one has left
        return Result(config.out, exit_code=RUN_AGAIN)
    machine.group.gather(stage)  # the others are done
    trainer.group = ALONE
    counts = {"training": len(training), "validation": len(held)}
    if dropped := len(images) - len(training) - len(held):
        counts["same_ground"] = dropped
    summary, files, line = _export(config, trainer, recipe, source, validation)
    result = stage.finish({**summary, "images": counts}, files, line)
    shutil.rmtree(record / "checkpoints", ignore_errors=True)
    return result


def _machine(config: TrainVaeConfig) -> Machine:
    """Where this process computes. In a launch, the processes are connected from here on."""
    group = process_group()
    device = config.device
    if group.size > 1:
        cpu = device == "cpu" or parse_flag_from_env("ACCELERATE_USE_CPU")
        state = PartialState(cpu=cpu, timeout=datetime.timedelta(hours=2))
        device = str(state.device)
    half = config.precision == "bf16"
    if config.precision == "auto":
        half = device != "cpu" and torch.cuda.is_available() and torch.cuda.is_bf16_supported()
    device = pick_device(device, "bf16" if half else "fp32")
    return Machine(
        device, half, config.gradient_checkpointing, config.compile, config.per_device, group,
        config.perceptual_weights,
    )  # fmt: skip


def _settle_perceptual(config: TrainVaeConfig, record: Path, bands: int) -> None:
    """Decide the perceptual term, once for all sessions of the training, and write it down."""
    path, asked = record / _PERCEPTUAL, config.recipe().perceptual
    if path.exists():
        return
    used = asked
    try:
        make_perceptual(asked, "cpu", bands, config.perceptual_weights)
    except UserError as error:
        if config.substitute == "refuse" or bands not in GROUPS:
            raise UserError(f"--perceptual {asked}: {error}") from None
        used = config.substitute
        print(
            f"[dit.train_vae] --perceptual {asked} cannot be had ({error}). In its place, in this "
            f"training to its end: {used} (--substitute)",
            flush=True,
        )
        make_perceptual(used, "cpu", bands, None)
    write_json(path, {"asked": asked, "used": used})


def _perceptual(record: Path) -> Any:
    try:
        return json.loads((record / _PERCEPTUAL).read_text(encoding="utf-8"))["used"]
    except (OSError, ValueError, KeyError) as error:
        raise UserError(
            f"{record / _PERCEPTUAL}: unreadable ({error}), so nobody knows which perceptual term "
            "this training has; choose another --out"
        ) from None


def _export(
    config: TrainVaeConfig,
    trainer: VaeTrainer,
    recipe: Recipe,
    source: Images,
    validation: np.ndarray,
) -> tuple[dict[str, Any], list[str], str]:
    """Write the weights of each kind, with their own scale: (summary, files, line)."""
    out, model, bands = config.out, trainer.model, source.bands
    chosen = min(len(source.images), config.scale_images)  # in order of the hash: a random sample
    exports: dict[str, dict[str, Any]] = {}
    files: list[str] = []
    loaded = {which: trainer.weights(which) for which in ("best", "last", "ema")}
    for which, weights in loaded.items():
        folders = [out] if which == config.export else []
        folders += [out / which] if which != "best" else []
        if not folders:
            continue
        model.load_state_dict(weights)
        if recipe.half:
            nn.Module.float(nn.Module.half(model))  # what is measured below is what is written
        rebuilt = reconstruct(model, validation)
        if which == "last" and exports.get("best", {}).get("step") == trainer.step:
            exports[which] = exports["best"]  # the same weights
        else:
            scale, latent = latent_statistics(model, source.first(chosen))
            exports[which] = {
                "step": trainer.best["step"] if which == "best" else trainer.step,
                "scaling_factor": scale, "latent": latent, **trainer.evaluate(validation),
                "reconstruction": compare(validation, rebuilt),
            }  # fmt: skip
        scale = exports[which]["scaling_factor"]
        for folder in folders:
            _write_model(model, scale, recipe.half, folder)
            files += [str((folder / name).relative_to(out)) for name in ("config.json", WEIGHTS)]
        if which == config.export:
            _write_sheet(out / SHEET, validation, rebuilt)
    files.append(SHEET)
    if bands == INFRARED:
        write_infrared(out, fit_infrared(source.first(chosen)))
        files.append(INFRARED_FILE)
    own = exports[config.export]
    spread = ", ".join(f"{value:.3g}" for value in own["latent"]["channel_std"])
    print(
        f"[dit.train_vae] latents over {chosen:,} images: scale {own['scaling_factor']:.4f} = 1 / "
        f"standard deviation {own['latent']['std']:.4g}; by channel {spread}"
    )
    loss = f"L1 + {recipe.perceptual_weight:g} x {recipe.perceptual}"
    gan = f", GAN from step {recipe.adversarial_start}" if recipe.adversarial_start else ""
    quality = own["reconstruction"]
    asked = config.recipe().perceptual
    summary = {
        "preset": config.preset,
        "channels": bands,
        "factor": 2 ** (len(recipe.block_out_channels) - 1),
        "parameters": sum(p.numel() for p in model.parameters()),
        "loss": f"{loss}, {recipe.kl_weight:g} x KL{gan}",
        "perceptual": recipe.perceptual,
        **({"perceptual_asked": asked} if asked != recipe.perceptual else {}),
        "validation_loss": "of what is trained on at that step, on [-1, 1], from the posterior "
        "mean; after the GAN's start with its term, and best among these alone; of exports without",
        "best": trainer.best,
        "exported": config.export,
        "exports": exports,
        "scaling_factor": own["scaling_factor"],
        "latent": own["latent"],
        "scale_images": chosen,
        "reconstruction": quality,
    }
    line = f"{recipe.steps:,} steps, validation PSNR {quality['psnr']:.2f} dB"
    if bands == INFRARED:
        line += f" (near infrared {quality['psnr_band'][-1]:.2f})"
    return summary, files, f"{line}, scale {own['scaling_factor']:.4f}"


def _images(config: TrainVaeConfig) -> tuple[Listing, pa.Table | None]:
    """The images to learn from, and where their ground lies, if the table says so."""
    if config.subset is not None:
        images, source, places = read_subset(config.subset), config.subset, None
    else:
        assert config.scores is not None
        names = parquet.read_schema(part_paths(config.scores)[0]).names
        known = [name for name in COLUMNS if name in names]
        scores = read_parts(config.scores, ["key", "shard", "row", "digest", "status", *known])
        held = None if config.holdout is None else read_holdout(config.holdout)
        places = pool(scores, held)
        images, source = listing_of(places), config.scores
    if len(images) < 10:
        raise UserError(f"{source}: {len(images)} usable images; at least 10 are needed")
    return images, places


def split(
    images: Listing, n: int, seed: int, places: pa.Table | None = None
) -> tuple[Listing, Listing]:
    """(training, validation): validation has the n smallest SHA-256 of "vae|seed|key".

    Both in the order of that hash; adding images never moves one from one side to the other,
    except across the n-th. Images of the same ground as one of the validation, on another date,
    are in neither (data.formats.places), where `places` says where they lie.
    """
    hashes = [hashlib.sha256(f"vae|{seed}|{key}".encode()).digest() for key in images.keys]
    order = np.array(sorted(range(len(images)), key=hashes.__getitem__))
    chosen = np.zeros(len(images), bool)
    chosen[order[:n]] = True
    same = np.zeros(len(images), bool) if places is None else overlapping(places, chosen)
    return images.take(order[n:][~same[order[n:]]]), images.take(order[:n])


def _load_all(
    corpus: Corpus, images: Listing, config: TrainVaeConfig, bands: int, name: str
) -> np.ndarray:
    """uint8 N x S x S x bands, decoded in threads."""
    taker = "the VAE in training, by the first image,"
    found = read_images(corpus, images, config.image_size, config.workers, bands, taker)
    return np.stack(list(progress(found, total=len(images), name=name)))


class Images:
    """The training images: decoded once and kept when they fit, else read as they are needed."""

    def __init__(
        self, corpus: Corpus, images: Listing, config: TrainVaeConfig, bands: int
    ) -> None:
        self.corpus, self.images, self.config, self.bands = corpus, images, config, bands
        self.kept: np.ndarray | None = None
        if len(images) * config.image_size**2 * bands <= _RESIDENT_BYTES:
            self.kept = _load_all(corpus, images, config, bands, "training images")

    def batches(self, start: int, recipe: Recipe, slots: slice = slice(None)) -> Batches:
        """(plan, images) of these slots of every step from `start` on."""
        for step in range(start, recipe.steps):
            plan = plan_batch(self.config.seed, step, recipe.batch, len(self.images), slots)
            yield plan, self._take(plan.indices)

    def first(self, count: int) -> Iterator[np.ndarray]:
        """The first images, in batches of about 32."""
        if self.kept is not None:
            yield from np.array_split(self.kept[:count], max(1, count // 32))
        else:
            yield from in_background(batched(self._read(range(count)), 32))

    def _take(self, indices: np.ndarray) -> np.ndarray:
        return self.kept[indices] if self.kept is not None else np.stack([*self._read(indices)])

    def _read(self, indices: Any) -> Iterator[np.ndarray]:
        chosen, config = self.images.take(indices), self.config
        taker = "the VAE in training, by the first image,"
        return read_images(
            self.corpus, chosen, config.image_size, config.workers, self.bands, taker
        )


def _write_model(model: Any, scale: float, half: bool, out: Path) -> None:
    """A diffusers folder: weights, then config.json with the scale."""
    out.mkdir(exist_ok=True)
    model.register_to_config(scaling_factor=scale)
    with tempfile.TemporaryDirectory() as folder:
        (nn.Module.half(model) if half else model).save_pretrained(folder)
        for name in (WEIGHTS, "config.json"):
            with atomic_path(out / name) as temporary:
                temporary.write_bytes((Path(folder) / name).read_bytes())
    nn.Module.float(model)


def _write_sheet(path: Path, images: np.ndarray, rebuilt: np.ndarray, columns: int = 8) -> None:
    """Rows of validation images, each above the row of its reconstructions; of four bands in true
    colour, then in colour infrared."""
    count = min(len(images), 2 * columns) // columns * columns or len(images)
    columns = min(columns, count)
    shown = COMPOSITES if images.shape[3] == INFRARED else ("rgb",)
    rows = [
        np.concatenate(list(composite(source[start : start + columns], name)), axis=1)
        for name in shown
        for start in range(0, count, columns)
        for source in (images, rebuilt)
    ]
    with atomic_path(path) as temporary:
        Image.fromarray(np.concatenate(rows)).save(temporary, format="PNG")
