"""Reading the image sets that metrics compare."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from core.errors import UserError
from core.progress import progress
from core.stage import read_manifest
from data.corpus.base import Corpus
from data.corpus.verified import check_corpus, images_of
from data.curation import holdout as holdouts
from data.images.chips import BANDS
from data.images.composites import composite
from data.images.decode import Reject, decode_rgb
from dit.vae.images import read_images
from dit.vae.listing import Listing

SHEETS = ("grid.png", "infrared-grid.png")


def names_of(stage: Path, part: str = "") -> list[str]:
    """The PNG images that a finished stage wrote to its folder (or its subfolder `part`), sorted.

    As its manifest lists them: a stray file is no sample, and a lost one is missed on reading.
    """
    head = f"{part}/" if part else ""
    names = [n.removeprefix(head) for n in read_manifest(stage)["files"] if n.startswith(head)]
    images = sorted(n for n in names if n.endswith(".png") and "/" not in n)
    if not part:
        images = [name for name in images if name not in SHEETS]
    if not images:
        raise UserError(f"{stage}: its manifest lists no images{f' in {part}' if part else ''}")
    return images


def read_folder(folder: Path, names: Sequence[str]) -> np.ndarray:
    """The named PNG images of a folder: uint8 [n, h, w, 3].

    Raises UserError when there are none, one is missing or broken, or sizes differ.
    """
    if not names:
        raise UserError(f"{folder}: no .png images")
    images: list[np.ndarray] = []
    for name in progress(names, name=f"read {folder.name}"):
        images.append(read_png(folder / name))
        if images[-1].shape != images[0].shape:
            raise UserError(
                f"{folder / name}: {images[-1].shape}, but {names[0]} is {images[0].shape}"
            )
    return np.stack(images)


def read_png(path: Path) -> np.ndarray:
    """An image that a stage wrote: uint8 [h, w, 3]. Raises UserError, missing or broken."""
    try:
        return decode_rgb(path.read_bytes(), path.name)
    except FileNotFoundError:
        raise UserError(f"{path}: missing; make the samples again") from None
    except Reject as reject:
        raise UserError(
            f"{path}: {reject.reason} ({reject.detail}); delete the folder and sample again"
        ) from None


def read_composite(
    corpus: Corpus, images: Listing, image_size: int, bands: int, name: str = "rgb"
) -> Iterator[np.ndarray]:
    """A corpus's images as a network for photographs takes them: uint8 [S, S, 3] each.

    `bands` are the corpus's, see `bands_of`; of three `name` is 'rgb'. Raises UserError as
    `read_images` does.
    """
    found = read_images(corpus, images, image_size, bands=bands, taker="the comparison")
    return (composite(image, name) for image in found) if bands == BANDS else found


def check_holdout(corpus: Corpus, holdout: Path) -> None:
    """Raise UserError for another corpus than the hold-out is from, before anything is written."""
    table = holdouts.read_holdout(holdout)
    check_corpus(corpus, table.num_rows, lambda rows: images_of(table.take(rows)))
