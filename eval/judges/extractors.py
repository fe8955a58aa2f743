"""Feature extractors for Frechet distances. Each says what its distance may be called.

'inception' is the network and resizing of clean-fid ('clean' mode): its distance is FID.
'descriptor' is our training-free descriptor, which needs no download: FD-descriptor, never FID.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from core.errors import UserError
from core.progress import progress

INCEPTION_FILE = "inception-2015-12-05.pt"
BATCH = 64


class Extractor:
    """A function from images uint8 [n, h, w, 3] to features float [n, d], with a name.

    Attributes:
        name: 'inception' or 'descriptor'.
        distance: what the Frechet distance in this space is called.
        fingerprint: JSON-able description (weights digest, resizing, versions) for metrics files.
    """

    def __init__(
        self,
        name: str,
        distance: str,
        fingerprint: dict[str, Any],
        function: Callable[[np.ndarray], np.ndarray],
    ) -> None:
        self.name = name
        self.distance = distance
        self.fingerprint = fingerprint
        self._function = function

    def __call__(self, images: np.ndarray, *, label: str = "features") -> np.ndarray:
        """Features float64 [n, d] of images uint8 [n, h, w, 3], computed in batches."""
        if images.dtype != np.uint8 or images.ndim != 4 or images.shape[3] != 3:
            raise UserError(
                f"extractor wants uint8 [n, h, w, 3], got {images.dtype} {images.shape}"
            )
        parts = []
        with progress(total=len(images), name=f"{self.name}: {label}") as bar:
            for start in range(0, len(images), BATCH):
                part = images[start : start + BATCH]
                parts.append(np.asarray(self._function(part), dtype=np.float64))
                bar.update(len(part))
        return np.concatenate(parts)


def load_extractor(name: str, *, weights: Path | None = None, device: str = "cpu") -> Extractor:
    """Build an extractor by name. Raises UserError for an unknown name or missing weights."""
    if name == "descriptor":
        return _descriptor()
    if name == "inception":
        return _inception(weights, device)
    raise UserError(f"unknown extractor '{name}'; known: inception, descriptor")


def inception_folder(weights: Path | None) -> Path | None:
    """The folder that holds clean-fid's Inception weights, or None when they are nowhere.

    Looked for in `weights` (a file or its folder), else where clean-fid downloads them.
    """
    if weights is not None:
        folder = weights if weights.is_dir() else weights.parent
        if weights.is_file() and weights.name != INCEPTION_FILE:
            raise UserError(f"{weights}: clean-fid wants the file name {INCEPTION_FILE}; rename it")
        return folder if (folder / INCEPTION_FILE).is_file() else None
    folder = Path(tempfile.gettempdir())
    return folder if (folder / INCEPTION_FILE).is_file() else None


def _descriptor() -> Extractor:
    from data.images.descriptor import DESCRIPTOR_VERSION, describe

    fingerprint = {"name": "descriptor", "version": DESCRIPTOR_VERSION}
    return Extractor("descriptor", "FD-descriptor", fingerprint, describe)


def _inception(weights: Path | None, device: str) -> Extractor:
    import torch
    from cleanfid.inception_torchscript import InceptionV3W

    from core.stage import sha256_file

    folder = inception_folder(weights)
    if weights is not None and folder is None:
        raise UserError(f"{weights}: {INCEPTION_FILE} is not there")
    try:
        # clean-fid downloads into the folder it is given when the file is absent.
        home = folder or Path(tempfile.gettempdir())
        network = InceptionV3W(str(home), download=folder is None, resize_inside=False)
    except (OSError, RuntimeError) as error:
        raise UserError(
            f"Inception weights cannot be loaded or downloaded ({error}); download "
            f"{INCEPTION_FILE} by hand (see clean-fid's README) and pass --weights FOLDER, "
            "or use --extractor descriptor"
        ) from None
    network = network.to(device).eval()

    def features(images: np.ndarray) -> np.ndarray:
        resized = np.stack([_resize_299(image) for image in images])
        with torch.inference_mode():
            batch = torch.from_numpy(resized).permute(0, 3, 1, 2).to(device)
            return network(batch).double().cpu().numpy()

    fingerprint = {
        "name": "inception",
        "weights_sha256": sha256_file(home / INCEPTION_FILE),
        "resize": "float bicubic to 299 (clean-fid 'clean')",
    }
    return Extractor("inception", "FID", fingerprint, features)


def _resize_299(image: np.ndarray) -> np.ndarray:
    """Pillow's antialiased bicubic on float channels, as clean-fid's 'clean' mode does.

    Its own resizer passes `mode=` to Image.fromarray, which newer Pillow releases warn about.
    """
    from PIL import Image

    channels = [
        np.asarray(
            Image.fromarray(np.ascontiguousarray(image[:, :, c], dtype=np.float32)).resize(
                (299, 299), Image.Resampling.BICUBIC
            )
        ).clip(0, 255)
        for c in range(3)
    ]
    return np.stack(channels, axis=2)
