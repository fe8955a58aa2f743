"""Sample images from a trained DiT: a folder of PNG files, and a grid of the first ones."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from core.atomic import atomic_path
from core.errors import UserError
from core.progress import progress
from core.settings import machine, parse, science, settings
from core.stage import Stage, discard_damaged, sha256_file
from dit.training.checkpoint import fingerprint as checkpoint_fingerprint
from dit.vae.autoencoder import describe_vae

if TYPE_CHECKING:
    import numpy as np
    import torch

    from dit.model.transformer import DiT
    from dit.vae.autoencoder import Vae, VaeInfo

GRID = 64  # images in grid.png, eight to a row


@settings
class SampleConfig:
    """Settings of one folder of samples."""

    checkpoint: Path
    """Run folder of dit.train (its newest checkpoint), one checkpoint folder of it, or a file in
    the published DiT format (.pt, .safetensors)."""
    vae: Path
    """VAE that decodes: folder in diffusers' layout or hub id; must be the one trained with."""
    out: Path
    """Output folder: 000000.png, 000001.png, ..., grid.png."""
    n: int = 256
    """Images to draw."""
    weights: Literal["ema", "raw"] = "ema"
    """The weights' moving average, or the weights themselves."""
    sampler: Literal["ddpm", "ddim", "dpmpp"] = "ddpm"
    """ddpm: DiT's own, learned variance. ddim: deterministic, steps must divide 1000 evenly.
    dpmpp: DPM-Solver++, deterministic, good from 20 steps on."""
    steps: int = 250
    """Model evaluations an image."""
    seed: int = 0
    """Seed of all noise; image i depends on the seed and i alone."""
    class_label: int = -1
    """Class-conditional models: class of every image; -1 gives image i class i mod classes."""
    guidance: float = 1.0
    """Class-conditional models: classifier-free guidance scale; 1 is without."""
    guided_channels: int = 0
    """Latent channels that guidance acts on; 0 is all (DiT's published figures: 3 of 4)."""
    num_heads: int = 0
    """Files in the published format: attention heads; 0 knows those of the published models."""

    batch: int = machine(32)
    """Images at a time through the model."""
    precision: Literal["tf32", "fp32", "bf16"] = machine("tf32")
    """Arithmetic of the DiT: bf16 is autocast; tf32 is fp32 where the hardware has no TF32."""
    compile: bool = machine(False)
    """Compile the DiT (torch.compile); pays on a GPU."""
    device: str = machine("")
    """Torch device; empty takes the GPU if there is one."""


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point of `python -m dit.sample`; also runs under `accelerate launch`."""
    config = parse(
        SampleConfig, argv, prog="python -m dit.sample", description="Sample images from a DiT."
    )
    least = {"n": 1, "steps": 1, "batch": 1, "seed": 0, "class_label": -1, "num_heads": 0}
    for name, value in least.items():
        if getattr(config, name) < value:
            flag = name.replace("_", "-")
            raise UserError(f"--{flag} {getattr(config, name)}: must be at least {value}")
    if config.seed >= 2**64:
        raise UserError(f"--seed {config.seed}: must be below 2**64")
    info = describe_vae(config.vae)
    inputs = {"checkpoint": fingerprint_of(config.checkpoint), "vae": info.fingerprint}
    stage = Stage(config.out, "dit.sample", identifying(config), inputs)
    if stage.done():
        return 0
    rank, world = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
    if rank == 0:
        stage.open()
        discard_damaged(stage)
    model, vae, device = _load(config, info)
    shape = (model.in_channels, model.input_size, model.input_size)
    _draw(config, model, vae, device, rank, world)
    if world > 1:
        from accelerate import PartialState

        PartialState().wait_for_everyone()
        if rank > 0:
            return 0
    names = [f"{i:06d}.png" for i in range(config.n)]
    _grid(config.out, names)
    summary = {"n": config.n, "latent_shape": list(shape), "image_size": shape[1] * vae.factor}
    line = f"{config.n:,} images, {config.sampler} {config.steps}, {config.weights} weights"
    stage.finish(summary, [*names, "grid.png"], line)
    return 0


def identifying(config: SampleConfig) -> dict[str, Any]:
    """The settings that make up the samples' fingerprint."""
    params = science(config)
    if not config.num_heads:
        del params["num_heads"]
    return params


def fingerprint_of(checkpoint: Path) -> str:
    """What a run, a checkpoint folder or a file in the published format is, as an input."""
    return sha256_file(checkpoint) if checkpoint.is_file() else checkpoint_fingerprint(checkpoint)


def load_dit(
    checkpoint: Path, weights: Literal["ema", "raw"], num_heads: int = 0
) -> tuple[DiT, dict[str, Any]]:
    """A DiT on the CPU and what its checkpoint says of its latents ({} for a published one).

    `num_heads` is for a file in the published format, which does not hold it; 0 looks it up.
    Raises UserError for a checkpoint that is missing, damaged, or of a conditioned model.
    """
    from dit.model.published import load_official
    from dit.model.transformer import DiT
    from dit.training.checkpoint import load_model

    if checkpoint.is_file():
        return load_official(checkpoint, weights=weights, num_heads=num_heads or None), {}
    if num_heads:
        raise UserError(f"--num-heads {num_heads}: {checkpoint} is a run, which knows its own")
    model, state = load_model(checkpoint, weights)
    if not isinstance(model, DiT):
        raise UserError(f"{checkpoint}: holds a {type(model).__name__}, expected a plain DiT")
    return model, state["latent"]


def check_vae(
    model: DiT, latent: Mapping[str, Any], info: VaeInfo, checkpoint: Path, vae: Path
) -> None:
    """Raise UserError unless the VAE is the one that made the model's training latents."""
    if latent and latent["vae_fingerprint"] != info.fingerprint:
        raise UserError(
            f"{vae}: not the VAE that {checkpoint} was trained with (fingerprint "
            f"{info.fingerprint[:12]}, expected {latent['vae_fingerprint'][:12]}); its latents "
            "mean something else. Give the folder that dit.encode was given"
        )
    if model.in_channels != info.latent_channels:
        raise UserError(
            f"{vae}: {info.latent_channels} latent channels, the DiT has {model.in_channels}"
        )


def load_checked(config: SampleConfig, info: VaeInfo) -> DiT:
    """The model on the CPU, checked against the VAE and against what the settings ask of it.

    Raises UserError as `load_dit` and `check_vae` do, and for a class or a guidance that the
    model does not have.
    """
    model, latent = load_dit(config.checkpoint, config.weights, config.num_heads)
    check_vae(model, latent, info, config.checkpoint, config.vae)
    if model.out_channels != 2 * model.in_channels:
        raise UserError(
            f"{config.checkpoint}: predicts {model.out_channels} channels for "
            f"{model.in_channels}; the samplers need noise and variance (learn_sigma)"
        )
    classes = model.num_classes
    if config.class_label >= max(classes, 1):
        raise UserError(f"--class-label {config.class_label}: the model has {classes} classes")
    if config.guidance != 1.0 and not (classes > 1 and model.class_dropout_prob):
        raise UserError(
            f"--guidance {config.guidance}: needs a class-conditional model trained with class "
            "dropout; leave it at 1"
        )
    if not 0 <= config.guided_channels <= model.in_channels:
        raise UserError(
            f"--guided-channels {config.guided_channels}: expected 0 to {model.in_channels}"
        )
    return model


def ready_device(config: SampleConfig) -> torch.device:
    """The device of the settings, set to their precision. Raises UserError if it is not there."""
    import torch

    default = f"cuda:{os.environ.get('LOCAL_RANK', 0)}" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(config.device or default)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:  # no such device, or no memory left on it
        raise UserError(f"--device {config.device or default}: {error}") from None
    if device.type == "cuda":
        torch.set_float32_matmul_precision("highest" if config.precision == "fp32" else "high")
        torch.backends.cudnn.allow_tf32 = config.precision != "fp32"
    return device


def draw_latents(
    config: SampleConfig,
    model: DiT,
    slots: Sequence[int],
    device: torch.device,
    on_step: Callable[[int], None] | None = None,
    predictor: Any = None,
) -> torch.Tensor:
    """The latents of the images numbered `slots`: float32 [len(slots), C, h, w], scaled.

    They depend on the weights, the sampler, the seed, the labels and the numbers only.

    Args:
        model: on the device; says the latents' shape and the number of classes.
        on_step: called with the number of finished sampling steps.
        predictor: what is called in the model's place (the model compiled).
    """
    import torch

    from dit.diffusion.samplers import sample_latents

    classes = model.num_classes
    options: dict[str, Any] = {}
    if classes > 0:
        labels = [config.class_label if config.class_label >= 0 else i for i in slots]
        options["model_kwargs"] = {"y": torch.tensor(labels) % classes}
    if config.guidance != 1.0:
        options["null_kwargs"] = {"y": torch.full((len(slots),), classes)}
    return sample_latents(
        model if predictor is None else predictor,
        (model.in_channels, model.input_size, model.input_size),
        slots,
        sampler=config.sampler,
        steps=config.steps,
        seed=config.seed,
        device=device,
        precision="bf16" if config.precision == "bf16" else "fp32",
        guidance=config.guidance,
        guided_channels=config.guided_channels or None,
        on_step=on_step,
        **options,
    )


def _load(config: SampleConfig, info: VaeInfo) -> tuple[DiT, Vae, torch.device]:
    """Model and VAE on the device, checked against each other and the settings."""
    from dit.vae.autoencoder import load_vae

    model, device = load_checked(config, info), ready_device(config)
    try:
        return model.to(device), load_vae(config.vae, device), device
    except RuntimeError as error:  # no memory left on it
        raise UserError(f"--device {device}: {error}") from None


def _draw(
    config: SampleConfig, model: DiT, vae: Vae, device: torch.device, rank: int, world: int
) -> None:
    """Draw what is missing, batch by batch; process `rank` takes every world-th batch."""
    import torch

    predictor: Any = torch.compile(model) if config.compile else model
    mine = range(rank * config.batch, config.n, world * config.batch)
    starts = [start for start in mine if not _complete(config, start)]
    batches = [range(start, min(start + config.batch, config.n)) for start in starts]
    total = sum(min(config.batch, config.n - start) for start in mine)
    left = sum(map(len, batches))
    with progress(
        total=total, initial=total - left, name="sample", unit="img", disable=rank > 0
    ) as bar:

        def show(step: int) -> None:
            bar.set_postfix_str(f"step {step}/{config.steps}", False)

        for slots in batches:
            latents = draw_latents(config, model, slots, device, show, predictor)
            if not torch.isfinite(latents).all():
                raise UserError(
                    f"{config.checkpoint}: the {config.weights} weights give latents that are not "
                    "finite; a short run's moving average is still mostly the untrained net "
                    "(try --weights raw), or the training has diverged"
                )
            for slot, image in zip(slots, vae.decode(latents), strict=True):
                _write(config.out / f"{slot:06d}.png", image)
            bar.update(len(slots))


def _complete(config: SampleConfig, start: int) -> bool:
    # Whole batches only: a cut-short one is drawn again with the same neighbours, so that
    # not even the rounding differs from an uninterrupted run.
    stop = min(start + config.batch, config.n)
    return all((config.out / f"{slot:06d}.png").exists() for slot in range(start, stop))


def _write(path: Path, image: np.ndarray) -> None:
    """One PNG; of more than three bands the first three, and all of them in bands/*.npy."""
    import numpy as np
    from PIL import Image

    if image.shape[2] > 3:
        bands = path.parent / "bands" / f"{path.stem}.npy"
        with atomic_path(bands) as temporary, open(temporary, "wb") as stream:
            np.save(stream, image)
    shown = image[:, :, 0] if image.shape[2] < 3 else image[:, :, :3]
    with atomic_path(path) as temporary:  # last, since its presence says that the slot is done
        Image.fromarray(np.ascontiguousarray(shown)).save(temporary, format="PNG")


def _grid(folder: Path, names: Sequence[str]) -> None:
    from PIL import Image

    tiles = [Image.open(folder / name).convert("RGB") for name in names[:GRID]]
    columns, side = min(8, len(tiles)), tiles[0].width
    rows = -(-len(tiles) // columns)
    sheet = Image.new("RGB", (columns * side, rows * side))
    for place, tile in enumerate(tiles):
        sheet.paste(tile, (place % columns * side, place // columns * side))
    with atomic_path(folder / "grid.png") as temporary:
        sheet.save(temporary, format="PNG")
