"""Feature extractors for Frechet distances. Each names what its distance may be called.

'inception' is the network and resizing of clean-fid ('clean' mode): its distance is FID.
'descriptor' is our training-free descriptor, which needs no download: FD-descriptor, never FID.
"""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from cleanfid.inception_torchscript import InceptionV3W
from cleanfid.resize import build_resizer

from core.errors import UserError
from core.progress import progress
from core.stage import sha256_file
from data.images import descriptor, pretrained

INCEPTION_FILE = "inception-2015-12-05.pt"
BATCH = 64


@dataclasses.dataclass(frozen=True)
class Extractor:
    """A function from images uint8 [n, h, w, 3] to features float [n, d], with a name.

    Attributes:
        name: 'inception' or 'descriptor'.
        distance: what the Frechet distance in this space is called.
        fingerprint: JSON-able description (weights digest, resizing, versions) for metrics files.
        function: of a batch of images.
    """

    name: str
    distance: str
    fingerprint: dict[str, Any]
    function: Callable[[np.ndarray], np.ndarray]

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
                parts.append(np.asarray(self.function(part), dtype=np.float64))
                bar.update(len(part))
        return np.concatenate(parts)


def load_extractor(name: str, *, weights: Path | None = None, device: str = "cpu") -> Extractor:
    """Build an extractor by name. Raises UserError for an unknown name or missing weights.

    Args:
        weights: Inception's file, or its folder; by default where clean-fid downloads it.
    """
    if name == "descriptor":
        fingerprint = {"name": "descriptor", "version": descriptor.DESCRIPTOR_VERSION}
        return Extractor("descriptor", "FD-descriptor", fingerprint, descriptor.describe)
    if name == "inception":
        return _inception(weights, device)
    if name == "efficientnet-lite0":
        return _lite0(weights, device)
    raise UserError(
        f"unknown extractor '{name}'; known: inception, efficientnet-lite0, descriptor"
    )


def _lite0(weights: Path | None, device: str) -> Extractor:
    path, digest = pretrained.find_lite0(weights)
    network = pretrained.load_lite0(path).to(device)

    def features(images: np.ndarray) -> np.ndarray:
        batch = torch.from_numpy(np.stack([pretrained.resized(image) for image in images]))
        with torch.inference_mode():
            x = pretrained.normalised(batch.permute(0, 3, 1, 2).to(device))
            x = network.forward_head(network.forward_features(x), pre_logits=True)
            return x.double().cpu().numpy()

    fingerprint = {
        "name": "efficientnet-lite0",
        "weights_sha256": digest,
        "resize": "224 x 224, Pillow bicubic",
    }
    return Extractor("efficientnet-lite0", "FD-EfficientNetLite0", fingerprint, features)


def _inception(weights: Path | None, device: str) -> Extractor:
    folder = Path(tempfile.gettempdir())
    if weights is not None:
        folder = weights if weights.is_dir() else weights.parent
        if weights.is_file() and weights.name != INCEPTION_FILE:
            raise UserError(f"{weights}: clean-fid wants the file name {INCEPTION_FILE}; rename it")
        if not (folder / INCEPTION_FILE).is_file():
            raise UserError(f"{weights}: {INCEPTION_FILE} is not there")
    path = folder / INCEPTION_FILE
    try:
        network = InceptionV3W(str(folder), download=not path.is_file(), resize_inside=False)
    except (OSError, RuntimeError) as error:
        raise UserError(
            f"Inception weights cannot be loaded or downloaded ({error}); download "
            f"{INCEPTION_FILE} by hand (see clean-fid's README) and pass --weights FOLDER, "
            "or use --extractor descriptor"
        ) from None
    network = network.to(device).eval()
    resize = build_resizer("clean")  # Pillow's antialiased bicubic on float channels, to 299

    def features(images: np.ndarray) -> np.ndarray:
        resized = np.stack([resize(image) for image in images])
        with torch.inference_mode():
            batch = torch.from_numpy(resized).permute(0, 3, 1, 2).to(device)
            return network(batch).double().cpu().numpy()

    fingerprint = {
        "name": "inception",
        "weights_sha256": sha256_file(path),
        "resize": "float bicubic to 299 (clean-fid 'clean')",
    }
    return Extractor("inception", "FID", fingerprint, features)
