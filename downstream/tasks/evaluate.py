"""The evaluation: the images of a split, drawn from their conditions by a fine-tuned model."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from core.atomic import write_json
from core.engines import process_group
from core.errors import UserError
from core.parts import Tick, make_parts
from core.stage import Result, Stage, digest_of, discard_damaged
from data.images.chips import BANDS
from data.pairs.listing import file_names
from dit.diffusion.gaussian import Model
from dit.diffusion.samplers import guided, sample_latents
from dit.model.device import pick_device
from dit.training.checkpoint import fingerprint, load_model, read_state, resolve
from dit.vae.autoencoder import Vae, load_vae
from dit.vae.pictures import image_files, write_image
from downstream.tasks.bands import line_of, told, vae_for
from downstream.tasks.choose import choose, slot_of
from downstream.tasks.config import EvaluateConfig, listing_of
from downstream.tasks.dataset import Crop, PairDataset, cut_out, fixed_crops
from downstream.tasks.judge import ADHERENCE, measure_adherence
from downstream.tasks.pictures import load_png, padded, rows_of, save_png
from downstream.tasks.source import open_pairs
from downstream.tasks.windows import Windows, decode_windows, windowed

FOLDERS = ("condition", "generated", "target")
_GRID_ROWS = 8

Pictures = tuple[Sequence[np.ndarray], Sequence[np.ndarray], Sequence[np.ndarray]]


def evaluate(config: EvaluateConfig, stage: Stage) -> Result:
    """Draw what is missing of the split's images, and write FOLDERS and grid.png. The processes of
    a launch share the images; all but the main one end when they are drawn (DoneElsewhere)."""
    group = process_group()
    group.open(stage)
    if group.main:
        discard_damaged(stage)
    task, split = stage.params["task"], stage.params["split"]
    settings = read_state(resolve(config.run))["downstream"]
    bands = settings.get("bands")
    listing = listing_of(settings, config.data)
    vae = vae_for(load_vae(config.vae, pick_device(config.device)), bands)
    if bands is not None:
        print(f"[{stage.name}] {line_of(bands)}")
    reading = {"cache": int(config.cache_gib * 2**30), "workers": config.workers}
    run, choice = config.run, None
    if config.checkpoint != "last":
        candidates = config.candidates()
        if digest_of([fingerprint(one) for one in candidates]) != stage.inputs["run"]:
            raise UserError(f"{config.run}: has new checkpoints; run the same command again")
        if len(candidates) == 1:
            print(f"[{stage.name}] {config.run}: one checkpoint, nothing to choose from")
        run, choice = choose(
            candidates,
            listing,
            "validation" if config.checkpoint == "best-validation" else split,
            vae,
            settings=settings,
            weights=config.weights,
            batch=config.batch,
            reading=reading,
            group=group,
        )
        print(f"[{stage.name}] {config.checkpoint}: step {choice['step']:,}", flush=True)
    # Its class was made known to load_model by downstream.conditioning.model, imported above.
    model, state = load_model(run, config.weights)
    model = model.to(vae.model.device)
    pairs = open_pairs(listing, split, settings, **reading)
    for line in listing.report.lines():
        print(f"[{stage.name}] {line}")

    crops = fixed_crops(pairs.sizes, pairs.image_size, config.crops == "grid")
    if config.crops == "whole":
        crops = [Crop(index, 0, 0) for index in range(len(pairs))]
    bare, crops = file_names(pairs.keys), crops[: config.limit or None]
    names = [bare[c.index] + (f"_{c.top}_{c.left}" * (config.crops == "grid")) for c in crops]
    four = vae.in_channels == 4  # what is drawn has near infrared
    if group.main:
        _tidy(config.out, names, four)
    group.wait()

    painter = _Painter(config, conditioned(model, config.guidance), pairs, vae)
    # Whole batches are made again, not single images: the batch a sample is in touches its
    # last bits, and a stopped run must end as an unbroken one does.
    size = 1 if config.crops == "whole" else config.batch
    batches = [slice(start, start + size) for start in range(0, len(crops), size)]

    def paths(index: int) -> list[list[Path]]:  # as in FOLDERS
        return [[config.out / f / f"{n}.png" for n in names[batches[index]]] for f in FOLDERS]

    def beside(index: int) -> list[list[Path]]:
        return [_beside(config.out, n) for n in names[batches[index]]] if four else []

    def finished(index: int) -> bool | None:
        places = [*paths(index), *beside(index)]
        return all(path.exists() for place in places for path in place) or None

    def make(left: list[int], tick: Tick) -> Iterator[tuple[int, Pictures]]:
        for index in left:
            part = crops[batches[index]]
            yield index, painter.whole(*part) if config.crops == "whole" else painter.tiles(part)
            tick(len(part))

    def write(index: int, drawn: Pictures) -> bool:
        for places, pictures in zip(paths(index), drawn, strict=True):
            for path, picture in zip(places, pictures, strict=True):
                save_png(path, picture[..., :3])
        if four:
            for name, picture in zip(names[batches[index]], drawn[1], strict=True):
                write_image(config.out, name, picture, picture=False)
        return True

    make_parts(
        [len(crops[part]) for part in batches],
        finished,
        make,
        write,
        name=f"{task} {split}",
        group=group,
        stage=stage,
    )
    save_png(config.out / "grid.png", _grid(config.out, names, pairs.image_size))

    summary = {
        "task": task,
        "split": split,
        "n": len(names),
        "images": len(pairs),
        "step": state["step"],
        "image_size": pairs.image_size,
        "settings": {n: value for n, value in settings.items() if n not in ("task", "bands")},
        "data": listing.summary(),
    }
    outputs = [*(f"{folder}/{name}.png" for folder in FOLDERS for name in names), "grid.png"]
    if four:
        files = (path for name in names for path in _beside(config.out, name))
        outputs += [path.relative_to(config.out).as_posix() for path in files]
    line = f"{task}: {len(names):,} images of {split}"
    if bands is not None:
        summary["bands"] = told(bands)
    if choice is not None:
        summary["checkpoint"] = {"rule": config.checkpoint, **choice}
    if config.segmenter is not None:
        device = str(vae.model.device)
        found = measure_adherence(config.segmenter, config.out, names, settings, device)
        write_json(config.out / ADHERENCE, found)
        summary["adherence"] = found
        outputs.append(ADHERENCE)
        own, real = (part["miou"]["value"] for part in (found, found["real"]))
        if own is not None:
            line += f", mIoU {own:.3f} (real images {real:.3f})"
    return stage.finish(summary, outputs, line)


def _beside(out: Path, name: str) -> list[Path]:
    """The files of what is drawn in four bands, but for its true-colour picture."""
    return [out / file for file in image_files(name, BANDS)[:-1]]


def conditioned(model: torch.nn.Module, guidance: float) -> Model:
    """The model as called with (x, t, condition=...), guided away from its null condition."""
    if guidance == 1.0:
        return model

    def call(x: torch.Tensor, t: torch.Tensor, condition: torch.Tensor) -> torch.Tensor:
        kept = torch.zeros(len(x), dtype=torch.bool, device=x.device)
        both = guided(model, guidance, {"drop": ~kept})
        return both(x, t, condition=condition, drop=kept)

    return call


class _Painter:
    """Draws (conditions, generated images, targets), each uint8, of 3 bands or 4, of a crop."""

    def __init__(self, config: EvaluateConfig, model: Model, pairs: PairDataset, vae: Vae) -> None:
        self.config, self.model, self.pairs, self.vae = config, model, pairs, vae

    def _sample(
        self, model: Model, shape: tuple[int, ...], crops: Sequence[Crop], **given: Any
    ) -> torch.Tensor:
        return sample_latents(
            model,
            shape,
            [slot_of(self.pairs.keys[crop.index], crop) for crop in crops],
            sampler=self.config.sampler,
            steps=self.config.steps,
            seed=self.config.seed,
            precision=self.config.precision,
            device=self.vae.model.device,
            **given,
        )

    def tiles(self, crops: Sequence[Crop]) -> Pictures:
        """Squares of the training's size."""
        pairs, vae = self.pairs, self.vae
        images, companions = pairs.crops(crops)
        given = {"condition": pairs.condition(companions, vae)}
        shape = vae.latent_shape(pairs.image_size)
        latents = self._sample(self.model, shape, crops, model_kwargs=given)
        return list(pairs.picture(companions)), list(vae.decode(latents)), list(images)

    def whole(self, crop: Crop) -> Pictures:
        """All of an image, but for the last pixels of a side that is no multiple of the VAE's
        factor."""
        pairs, vae, batch = self.pairs, self.vae, self.config.batch
        ((image, companion),) = pairs.get([crop.index])
        channels, side, _ = vae.latent_shape(pairs.image_size)
        rows, columns = (length // vae.factor for length in image.shape[:2])
        overlap = min(side - 1, math.ceil(self.config.overlap * side))
        windows = Windows.over(rows, columns, side, overlap)
        places = [Crop(crop.index, *corner) for corner in windows.scaled(vae.factor).corners]
        conditions = torch.cat(list(self._conditions(companion, places)))
        model = windowed(self.model, windows, conditions, batch)
        latent = self._sample(model, (channels, rows, columns), [crop])
        drawn = decode_windows(vae, latent, windows, batch)
        seen = pairs.picture(pairs.cut(companion, crop, drawn.shape[:2])[None])
        return list(seen), [drawn], [cut_out(image, crop, *drawn.shape[:2])]

    def _conditions(self, companion: np.ndarray, places: Sequence[Crop]) -> Iterator[torch.Tensor]:
        for start in range(0, len(places), self.config.batch):
            part = places[start : start + self.config.batch]
            cuts = np.stack([self.pairs.cut(companion, place) for place in part])
            yield self.pairs.condition(cuts, self.vae)


def _grid(out: Path, names: Sequence[str], side: int) -> np.ndarray:
    """Rows of condition | generated | target, spread evenly over the images."""
    count = min(_GRID_ROWS, len(names))
    chosen = [names[round(i * (len(names) - 1) / max(1, count - 1))] for i in range(count)]
    return rows_of(
        *([padded(load_png(out / f / f"{name}.png"), side) for name in chosen] for f in FOLDERS)
    )


def _tidy(out: Path, names: Sequence[str], four: bool) -> None:
    """The folders, without what this evaluation will not write."""
    former = out / "reference"  # what version 0.1 called target/
    if former.is_dir() and not (out / "target").exists():
        former.rename(out / "target")
    for folder in (*FOLDERS, *(("bands", "infrared") if four else ())):
        (out / folder).mkdir(exist_ok=True)
        _remove_others(out / folder, names)


def _remove_others(folder: Path, names: Sequence[str]) -> None:
    """Files that this evaluation will not write: readers of the folder take all of it."""
    wanted = {*names}
    for path in folder.iterdir():
        if path.stem not in wanted or path.suffix not in (".png", ".tif", ".npy"):
            path.unlink()
