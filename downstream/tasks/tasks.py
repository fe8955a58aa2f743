"""What the training and the evaluation command share: opening the data, fitting model to VAE."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from core.errors import UserError
from data.pairs.listing import Listing, open_sis, open_sr

TaskName = Literal["sr", "sis"]
Dates = Literal["both", "first"]

_DATES = {"both": ("im1", "im2"), "first": ("im1",)}


def open_listing(task: TaskName, root: Path, dates: Dates) -> Listing:
    """The data set of a task, listed; nothing is decoded."""
    return open_sr(root, _DATES[dates]) if task == "sr" else open_sis(root)


def check_vae(vae: Any, latent: Mapping[str, Any], given: Path | str, model: Path | str) -> None:
    """Refuse a VAE other than the one whose latents the model was trained on.

    Args:
        vae: VaeInfo or Vae.
        latent: the checkpoint's state["latent"].
        given, model: names for the message.
    """
    if vae.in_channels != 3:
        raise UserError(f"--vae {given}: takes {vae.in_channels} bands; SR and SIS images are RGB")
    if vae.fingerprint != latent["vae_fingerprint"]:
        raise UserError(
            f"--vae {given} is not the VAE that {model} was trained with "
            f"(fingerprint {vae.fingerprint[:12]}, scale {vae.scale:g}; the model's: "
            f"{latent['vae_fingerprint'][:12]}, scale {latent['scale']:g}); give that one"
        )


def check_size(vae: Any, image_size: int, latent: Mapping[str, Any], model: Path | str) -> None:
    """Refuse an image size whose latent is not the shape that the model takes."""
    shape = list(vae.latent_shape(image_size))
    if shape != list(latent["shape"]):
        raise UserError(
            f"--image-size {image_size} gives latents of {shape}, but {model} takes "
            f"{list(latent['shape'])}, that is --image-size {latent['image_size']}"
        )


def build_task(
    task: TaskName,
    listing: Listing,
    split: str,
    settings: Mapping[str, Any],
    machine: dict[str, Any],
) -> Any:
    """Read a split's images into memory and pair them: an SrTask or a SisTask.

    Args:
        settings: "image_size", and for sr "hr_size" and "factor", for sis "tile_size" and
            "palette" (a palette's JSON form).
        machine: cache (bytes), workers (threads), quiet.
    """
    from data.pairs.palettes import from_dict
    from downstream.tasks.sis import SisTask
    from downstream.tasks.sr import SrTask

    items, size = listing.items(split), settings["image_size"]
    if task == "sr":
        return SrTask(
            items,
            listing.report,
            side=settings["hr_size"],
            factor=settings["factor"],
            image_size=size,
            **machine,
        )
    return SisTask(
        items,
        listing.report,
        palette=from_dict(settings["palette"]),
        side=settings["tile_size"],
        image_size=size,
        **machine,
    )
