"""Encoders: the feature map f(x) of Stage II, behind one interface (Eq. 2).

An encoder is opened in two steps. `open_encoder` finds its weights and says what it is, without
importing torch; `.load()` makes it ready. Its work is in two steps too: `prepare` turns one
decoded image into what the model takes (in the processes that decode), `finish` turns a batch of
those into unit rows (in the process that has the device).

To add one, write an `Encoder` and a line in ENCODERS.
"""

from __future__ import annotations

import importlib
import importlib.metadata
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from core.errors import UserError
from data.images import descriptor

Pixels = NDArray[np.uint8]
Prepare = Callable[[Pixels], NDArray[Any]]
Device = Literal["auto", "cpu", "cuda"]
Precision = Literal["auto", "fp32", "bf16", "fp16"]

ENCODERS: dict[str, str] = {
    "descriptor": "prune.encoders.base:DescriptorEncoder",
    "git-rsclip": "prune.encoders.siglip:GitRSCLIP",
    "git-rsclip-base": "prune.encoders.siglip:GitRSCLIPBase",
    "remoteclip": "prune.encoders.clip:RemoteCLIP",
    "remoteclip-quickgelu": "prune.encoders.clip:RemoteCLIPQuick",
    "georsclip": "prune.encoders.clip:GeoRSCLIP",
    "dinov2": "prune.encoders.dinov2:DINOv2",
    "sscd": "prune.encoders.sscd:SSCD",
}


class Encoder(ABC):
    """A feature map from RGB images to unit vectors.

    Attributes:
        name: its name in ENCODERS.
        dim: width d of a feature.
        libraries: distributions whose versions can move features by rounding.
    """

    name: str
    dim: int
    libraries: tuple[str, ...]

    @abstractmethod
    def __init__(self, weights: str | None, revision: str | None, digests: Path | None) -> None:
        """Find the weights; see `open_encoder`."""

    @abstractmethod
    def core(self) -> dict[str, Any]:
        """name, dim, weights (a digest) and preprocessing: what features depend on."""

    @property
    @abstractmethod
    def prepare(self) -> Prepare:
        """Function of one uint8 H x W x 3 image; importable by name, so that it can travel."""

    @abstractmethod
    def load(self, device: str = "auto", precision: Precision = "auto") -> None:
        """Make `finish` ready. May import torch and take seconds."""

    @abstractmethod
    def features(self, prepared: Sequence[NDArray[Any]]) -> NDArray[np.float32]:
        """Raw features of prepared images, float32 N x dim, of any norm."""

    def finish(self, prepared: Sequence[NDArray[Any]]) -> NDArray[np.float32]:
        """Unit rows of prepared images, float32 N x dim (Eq. 2: z = f(x) / |f(x)|).

        Raises UserError when a feature is not finite or zero: there is no direction in it.
        """
        if not len(prepared):
            return np.empty((0, self.dim), np.float32)
        features = self.features(prepared)
        norms = np.sqrt(np.einsum("nd,nd->n", features, features, dtype=np.float64))
        if not (np.isfinite(norms) & (norms > 0)).all():
            bad = norms[~(np.isfinite(norms) & (norms > 0))][0]
            raise UserError(
                f"encoder {self.name} gave a feature of norm {bad}; are its weights complete? "
                "(with --precision fp16, try bf16 or fp32)"
            )
        return (features / norms[:, None]).astype(np.float32)

    def encode(self, images: Sequence[Pixels]) -> NDArray[np.float32]:
        """Unit features, float32 N x dim, of RGB images, uint8 H x W x 3 of any size."""
        return self.finish([self.prepare(image) for image in images])

    def fingerprint(self) -> dict[str, Any]:
        """`core` and the versions of the libraries, for manifests."""
        versions = {name: importlib.metadata.version(name) for name in self.libraries}
        return {**self.core(), "libraries": versions}


def open_encoder(
    name: str,
    weights: str | None = None,
    revision: str | None = None,
    digests: Path | None = None,
) -> Encoder:
    """Find an encoder. Light: no torch, no model yet; call `.load()` before `.encode()`.

    Args:
        name: a key of ENCODERS.
        weights: local folder or Hugging Face repository; None for the encoder's own.
        revision: commit, tag or branch of the repository.
        digests: file that remembers weight digests, so that large files are hashed once.

    Raises:
        UserError: unknown name, weights that are missing, offline, or of another kind.
    """
    try:
        module, _, attribute = ENCODERS[name].partition(":")
    except KeyError:
        raise UserError(f"--encoder {name}: unknown; known are {', '.join(ENCODERS)}") from None
    kind: type[Encoder] = getattr(importlib.import_module(module), attribute)
    return kind(weights, revision, digests)


class DescriptorEncoder(Encoder):
    """The training-free descriptor of colour and texture (data/images/descriptor.py)."""

    name = "descriptor"
    dim = descriptor.DIM
    libraries = ("numpy", "pillow")

    def __init__(
        self,
        weights: str | None = None,
        revision: str | None = None,
        digests: Path | None = None,
    ) -> None:
        if weights is not None or revision is not None:
            raise UserError(
                "--encoder descriptor has no weights; leave --weights and --revision out"
            )

    def core(self) -> dict[str, Any]:
        what = descriptor.fingerprint()
        return {
            "name": self.name,
            "dim": self.dim,
            "weights": f"none ({what['version']})",
            "preprocessing": what["sizes"],
        }

    @property
    def prepare(self) -> Prepare:
        return describe_one  # all of it, so that it runs in the decoding processes

    def load(self, device: str = "auto", precision: Precision = "auto") -> None:
        pass  # nothing to load: device and precision have no bearing on it

    def features(self, prepared: Sequence[NDArray[Any]]) -> NDArray[np.float32]:
        return np.stack(prepared)


def describe_one(image: Pixels) -> NDArray[np.float32]:
    """The descriptor of one image, float32 d."""
    return descriptor.describe([image])[0]
