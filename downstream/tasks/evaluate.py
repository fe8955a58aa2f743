"""The evaluation: the images of a split, drawn from their conditions by a fine-tuned model."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from core.progress import progress
from core.stage import Result, Stage, discard_damaged
from data.pairs.listing import file_names
from dit.diffusion.samplers import sample_latents
from dit.model.device import pick_device
from dit.training.checkpoint import load_model
from dit.vae.autoencoder import load_vae
from downstream.tasks.config import EvaluateConfig, open_listing
from downstream.tasks.dataset import fixed_crops
from downstream.tasks.pictures import load_png, rows_of, save_png
from downstream.tasks.source import open_pairs

FOLDERS = ("condition", "generated", "target")
_GRID_ROWS = 8


def evaluate(config: EvaluateConfig, stage: Stage) -> Result:
    """Draw what is missing of the split's images, and write FOLDERS and grid.png."""
    stage.open()
    discard_damaged(stage)
    task, split = stage.params["task"], stage.params["split"]
    # Its class was made known to load_model by downstream.conditioning.model, imported above.
    model, state = load_model(config.run, config.weights)
    settings = state["downstream"]
    listing = open_listing(task, config.data, settings.get("dates", "both"))
    vae = load_vae(config.vae, pick_device(config.device))
    model = model.to(vae.model.device)
    cache = int(config.cache_gib * 2**30)
    pairs = open_pairs(listing, split, settings, cache=cache, workers=config.workers)
    for line in listing.report.lines():
        print(f"[{stage.name}] {line}")

    grid = config.crops == "grid"
    crops = fixed_crops(pairs.sizes, pairs.image_size, grid)
    bare, crops = file_names(pairs.keys), crops[: config.limit or None]
    names = [bare[c.index] + (f"_{c.top}_{c.left}" if grid else "") for c in crops]
    former = config.out / "reference"  # what version 0.1 called target/
    if former.is_dir() and not (config.out / "target").exists():
        former.rename(config.out / "target")
    for folder in FOLDERS:
        (config.out / folder).mkdir(exist_ok=True)
        _remove_others(config.out / folder, names)

    # Whole batches are made again, not single images: the batch a sample is in touches its
    # last bits, and a stopped run must end as an unbroken one does.
    with progress(total=len(crops), name=f"{task} {split}") as bar:
        for start in range(0, len(crops), config.batch):
            part = slice(start, start + config.batch)
            bar.update(len(crops[part]))
            paths = [[config.out / f / f"{name}.png" for name in names[part]] for f in FOLDERS]
            if all(path.exists() for places in paths for path in places):
                continue
            images, companions = pairs.crops(crops[part])
            latents = sample_latents(
                model,
                tuple(state["latent"]["shape"]),
                range(start, start + len(images)),
                sampler=config.sampler,
                steps=config.steps,
                seed=config.seed,
                precision=config.precision,
                model_kwargs={"condition": pairs.condition(companions, vae)},
            )
            drawn = (pairs.picture(companions), vae.decode(latents), images)  # as in FOLDERS
            for places, pictures in zip(paths, drawn, strict=True):
                for path, picture in zip(places, pictures, strict=True):
                    save_png(path, picture)
    save_png(config.out / "grid.png", _grid(config.out, names))

    summary = {
        "task": task,
        "split": split,
        "n": len(names),
        "images": len(pairs),
        "step": state["step"],
        "image_size": pairs.image_size,
        "settings": {name: value for name, value in settings.items() if name != "task"},
        "data": listing.summary(),
    }
    outputs = [f"{folder}/{name}.png" for folder in FOLDERS for name in names]
    return stage.finish(
        summary, [*outputs, "grid.png"], f"{task}: {len(names):,} images of {split}"
    )


def _grid(out: Path, names: Sequence[str]) -> np.ndarray:
    """Rows of condition | generated | target, spread evenly over the images."""
    count = min(_GRID_ROWS, len(names))
    chosen = [names[round(i * (len(names) - 1) / max(1, count - 1))] for i in range(count)]
    return rows_of(*([load_png(out / f / f"{name}.png") for name in chosen] for f in FOLDERS))


def _remove_others(folder: Path, names: Sequence[str]) -> None:
    """Files that this evaluation will not write: readers of the folder take all of it."""
    wanted = {f"{name}.png" for name in names}
    for path in folder.iterdir():
        if path.name not in wanted:
            path.unlink()
