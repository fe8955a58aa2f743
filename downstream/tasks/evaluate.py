"""`python -m downstream.evaluate`: draw the held-out images of a fine-tuned SR or SIS model.

Writes three folders of PNGs with the same names, for `eval` to compare:

    OUT/generated/NAME.png   the model's image
    OUT/reference/NAME.png   the real image (SR: high resolution), the same crop
    OUT/condition/NAME.png   what the model saw (SR: the enlarged low-resolution image; SIS: the
                             mask in its palette's colours)
    OUT/grid.png             rows of condition | generated | reference

The noise of an image is a function of the seed and of its place in the list, so a stopped run
goes on where it was.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from core.errors import UserError
from core.settings import machine, parse, science, settings
from core.stage import Stage, discard_damaged
from dit.training.checkpoint import Weights, fingerprint, read_state, resolve
from dit.vae.autoencoder import describe_vae
from downstream.tasks.tasks import build_task, check_vae, open_listing

if TYPE_CHECKING:
    import numpy as np

FOLDERS = ("generated", "reference", "condition")
_GRID_ROWS = 8


@settings
class EvaluateConfig:
    """Draw the held-out images of a fine-tuned model."""

    run: Path
    """Run folder of downstream.train (its newest checkpoint), or a checkpoint."""
    data: Path
    """The data set, as in training."""
    out: Path
    """Output folder."""
    vae: str = machine("stabilityai/sd-vae-ft-ema")
    """The VAE of the run: a diffusers folder or a hub id."""
    task: Literal["auto", "sr", "sis"] = "auto"
    """auto: the run's own; another is refused."""
    split: str = "auto"
    """Which split: auto is test for sr and val for sis (OpenEarthMap withholds test labels)."""
    weights: Weights = "ema"
    """The averaged weights or the raw ones."""
    sampler: Literal["ddpm", "ddim", "dpmpp"] = "ddim"
    """ddpm with learned variance, ddim (eta 0) or DPM-Solver++."""
    steps: int = 25
    """Network evaluations for an image; DiT's own figures use ddpm with 250."""
    crops: Literal["center", "grid"] = "center"
    """Of each image the centre, or every whole tile of a centred grid."""
    limit: int = 0
    """Only the first so many images; 0: all."""
    seed: int = 0
    """Seed of the noise."""
    batch: int = machine(32)
    """Images at a time."""
    precision: Literal["fp32", "bf16"] = machine("fp32")
    """Arithmetic of the network."""
    device: str = machine("auto")
    """Torch device: auto, cpu, cuda, cuda:1, ..."""
    workers: int = machine(4)
    """Threads that decode images."""
    cache_gib: float = machine(8.0)
    """Decoded images are kept in memory up to this (GiB)."""


def main(argv: Sequence[str] | None = None) -> int | None:
    config = parse(
        EvaluateConfig, argv, prog="python -m downstream.evaluate", description=__doc__ or ""
    )
    for name, least in (("steps", 1), ("batch", 1), ("limit", 0), ("seed", 0)):
        if getattr(config, name) < least:
            raise UserError(f"--{name} {getattr(config, name)}: at least {least}")
    trained = fingerprint(config.run)
    state = read_state(resolve(config.run))
    settings = state.get("downstream")
    if settings is None:
        raise UserError(f"--run {config.run}: not a run of downstream.train")
    task = settings["task"]
    if config.task not in ("auto", task):
        raise UserError(f"--task {config.task}: {config.run} was trained for {task}")
    split = config.split if config.split != "auto" else {"sr": "test", "sis": "val"}[task]
    info = describe_vae(config.vae)
    check_vae(info, state["latent"], config.vae, config.run)
    listing = open_listing(task, config.data, settings.get("dates", "both"))
    stage = Stage(
        config.out,
        "downstream.evaluate",
        {**science(config), "task": task, "split": split},
        {
            "run": trained,
            "data": listing.fingerprint(split),
            "vae": info.fingerprint,
        },
    )
    if stage.done():
        return 0
    stage.open()
    discard_damaged(stage)
    _evaluate(config, stage, listing, split, settings)
    return 0


def _evaluate(
    config: EvaluateConfig, stage: Stage, listing: Any, split: str, settings: dict[str, Any]
) -> None:
    from core.progress import progress
    from data.pairs.listing import file_names
    from dit.diffusion.samplers import sample_latents
    from dit.model.device import pick_device
    from dit.training.checkpoint import load_model
    from dit.vae.autoencoder import load_vae
    from downstream.conditioning import conditioned  # noqa: F401 (teaches load_model its class)
    from downstream.tasks.dataset import fixed_crops
    from downstream.tasks.pictures import save_png

    model, state = load_model(config.run, config.weights)
    vae = load_vae(config.vae, pick_device(config.device))
    model = model.to(vae.model.device)
    limits = {
        "cache": int(config.cache_gib * 2**30),
        "workers": config.workers,
        "quiet": False,
    }
    task = build_task(settings["task"], listing, split, settings, limits)
    for line in listing.report.lines():
        print(f"[{stage.name}] {line}")

    grid = config.crops == "grid"
    crops = fixed_crops(task.bank.sizes, task.image_size, grid)
    bare = file_names(task.bank.keys)
    names = [
        f"{bare[crop.index]}_{crop.top}_{crop.left}" if grid else bare[crop.index] for crop in crops
    ]
    if config.limit:
        crops, names = crops[: config.limit], names[: config.limit]
    for folder in FOLDERS:
        (config.out / folder).mkdir(exist_ok=True)
        _remove_others(config.out / folder, names)

    # Whole batches are made again, not single images: the batch a sample is in touches its
    # last bits, and a stopped run must end as an unbroken one does.
    bar = progress(total=len(crops), name=f"{settings['task']} {split}")
    for start in range(0, len(crops), config.batch):
        part, part_names = crops[start : start + config.batch], names[start : start + config.batch]
        bar.update(len(part))
        if all((config.out / f / f"{name}.png").exists() for f in FOLDERS for name in part_names):
            continue
        images, conditions = task.crops(part)
        latents = sample_latents(
            model,
            tuple(state["latent"]["shape"]),
            range(start, start + len(part)),
            sampler=config.sampler,
            steps=config.steps,
            seed=config.seed,
            precision=config.precision,
            model_kwargs={"condition": task.condition(conditions, vae)},
        )
        pictures = {
            "condition": task.picture(conditions),
            "reference": images,
            "generated": vae.decode(latents),
        }
        for folder, batch in pictures.items():
            for name, picture in zip(part_names, batch, strict=True):
                save_png(config.out / folder / f"{name}.png", picture)
    bar.close()
    save_png(config.out / "grid.png", _grid(config.out, names))

    summary = {
        "task": settings["task"],
        "split": split,
        "n": len(names),
        "images": len(task.bank),
        "step": state["step"],
        "image_size": task.image_size,
        "settings": {name: value for name, value in settings.items() if name != "task"},
        "data": listing.summary(),
    }
    outputs = [f"{folder}/{name}.png" for folder in FOLDERS for name in names]
    stage.finish(
        summary, [*outputs, "grid.png"], f"{settings['task']}: {len(names):,} images of {split}"
    )


def _grid(out: Path, names: Sequence[str]) -> np.ndarray:
    """Rows of condition | generated | reference, spread evenly over the images."""
    from downstream.tasks.pictures import load_png, rows_of

    count = min(_GRID_ROWS, len(names))
    chosen = [names[round(i * (len(names) - 1) / max(1, count - 1))] for i in range(count)]
    columns = ("condition", "generated", "reference")
    return rows_of(*([load_png(out / c / f"{name}.png") for name in chosen] for c in columns))


def _remove_others(folder: Path, names: Sequence[str]) -> None:
    """Files that this evaluation will not write: readers of the folder take all of it."""
    wanted = {f"{name}.png" for name in names}
    for path in folder.iterdir():
        if path.name not in wanted:
            path.unlink()
