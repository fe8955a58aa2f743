"""What the encoders that are networks have in common: finding their weights, and running them.

A subclass says how to find its weights, how an image becomes the network's input size (uint8,
in the decoding processes), how the network is built, and which of its outputs is the feature.
Nothing here imports torch or Pillow before it is needed: what an encoder is should be known fast.
"""

from __future__ import annotations

import contextlib
import json
from abc import abstractmethod
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from core.atomic import write_json
from core.errors import UserError
from core.hub import hub_file, local_path
from core.stage import digest_of, sha256_file
from prune.encoders.base import Encoder, Precision, Prepare

IMAGENET = {"mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]}
CLIP = {"mean": [0.48145466, 0.4578275, 0.40821073], "std": [0.26862954, 0.26130258, 0.27577711]}
BILINEAR, BICUBIC = 2, 3  # Pillow's numbers


class VisionEncoder(Encoder):
    """An encoder whose features a PyTorch network makes.

    Attributes:
        image_size: side S of the network's input.
        crop: whether an image keeps its aspect ratio and loses what is beside the central square.
        resample: Pillow's number of the filter.
        pixels: preprocessing, with "scale", "mean" and "std" of the normalisation.
        digest: SHA-256 of the weights.
    """

    image_size: int
    crop = True
    resample = BICUBIC
    pixels: dict[str, Any]
    digest: str
    _network: Any = None

    @abstractmethod
    def build(self) -> Any:
        """The network with its weights, float32, in eval mode, on the CPU."""

    def forward(self, model: Any, pixels: Any) -> Any:
        """Features [n, dim] of normalised pixels [n, 3, S, S]."""
        return model(pixels)

    def core(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "dim": self.dim,
            "weights": self.digest,
            "preprocessing": self.pixels,
        }

    @property
    def prepare(self) -> Prepare:
        from prune.encoders.pixels import resize_crop, squash

        function = resize_crop if self.crop else squash
        return partial(function, size=self.image_size, resample=self.resample)

    def load(self, device: str = "auto", precision: Precision = "auto") -> None:
        from prune.encoders.network import Network

        self._network = Network(self.build, self.pixels, device, precision)

    def features(self, prepared: Sequence[NDArray[Any]]) -> NDArray[np.float32]:
        if self._network is None:
            self.load()
        features: NDArray[np.float32] = self._network(prepared, self.forward)
        if features.shape != (len(prepared), self.dim):
            raise UserError(
                f"encoder {self.name}: its weights give features {features.shape[1:]}, "
                f"expected ({self.dim},)"
            )
        return features


def cropped(size: int, norm: dict[str, list[float]], **more: Any) -> dict[str, Any]:
    """The preprocessing of `resize_crop`, for the fingerprint."""
    resize = f"shorter side to {size}, centre crop, Pillow bicubic"
    return {"resize": resize, "scale": 1 / 255, **norm, **more}


@contextlib.contextmanager
def from_hub() -> Iterator[None]:
    """Where a hub cannot be reached, say that one encoder does without."""
    try:
        yield
    except UserError as error:
        raise UserError(f"{error}; or use the descriptor, which needs none") from None


def find_file(
    source: str | None, revision: str | None, repo: str, name: str, suffixes: tuple[str, ...]
) -> Path:
    """One weight file: a path, a folder's, or a Hugging Face repository's.

    Args:
        source: a file; a folder, which holds `name` or one file with one of the suffixes;
            'owner/repo' or 'owner/repo/path/in/it' on the hub; None for `repo`.
        revision: commit, tag or branch, of a repository only.
        repo, name: where the weights are published, and the file that is taken by default.

    Raises UserError when there is no such file, or the hub cannot be reached.
    """
    path = None if source is None else local_path(source, "--weights", revision)
    if path is None:
        with from_hub():
            return hub_file(source or repo, name, "--weights", revision)
    if path.is_file():
        return path
    for default in (path / name, path / Path(name).name):
        if default.is_file():
            return default
    found = sorted(file for file in path.iterdir() if file.name.endswith(suffixes))
    if len(found) != 1:
        names = ", ".join(file.name for file in found) or f"none of {', '.join(suffixes)}"
        raise UserError(f"--weights {source}: give the file itself; there are {names}")
    return found[0]


def digest_files(files: Sequence[Path], remembered: Path | None) -> str:
    """SHA-256 of the weight file, or of several files' names and digests."""
    known: dict[str, Any] = {}
    if remembered is not None and remembered.is_file():
        with contextlib.suppress(json.JSONDecodeError):
            known = json.loads(remembered.read_text(encoding="utf-8"))
    digests, stamps = {}, {}
    for file in files:
        status = file.stat()
        stamp = [str(file.resolve()), status.st_size, status.st_mtime_ns]
        entry = known.get(file.name, {})
        same = entry.get("stamp") == stamp
        digests[file.name] = entry["sha256"] if same else sha256_file(file)
        stamps[file.name] = {"stamp": stamp, "sha256": digests[file.name]}
    if remembered is not None and stamps != known:
        write_json(remembered, stamps)
    return digests[files[0].name] if len(files) == 1 else digest_of(digests)


def read_json(path: Path) -> dict[str, Any]:
    """The JSON object in a file. Raises UserError where there is none."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path}: missing") from None
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: unreadable ({error})") from None
    if not isinstance(value, dict):
        raise UserError(f"{path}: expected a JSON object")
    return value
