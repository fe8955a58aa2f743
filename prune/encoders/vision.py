"""What the encoders that are networks have in common: device, precision, weights' digest.

A subclass says how to find its weights, how a picture becomes the network's input size (uint8,
in the decoding processes), how the network is built, and which of its outputs is the feature.
Normalisation is done here, on the device, in float32.
"""

from __future__ import annotations

import contextlib
import json
import re
from abc import abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from core.atomic import write_json
from core.engines import own_gpu
from core.errors import UserError
from core.stage import digest_of, sha256_file
from prune.encoders.base import Device, Encoder, Pixels, Precision

IMAGENET = {"mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]}
CLIP = {"mean": [0.48145466, 0.4578275, 0.40821073], "std": [0.26862954, 0.26130258, 0.27577711]}


class VisionEncoder(Encoder):
    """An encoder whose features a PyTorch network makes.

    Attributes: pixels: preprocessing, with "scale", "mean" and "std" of the normalisation.
    digest: SHA-256 of the weights.
    """

    pixels: dict[str, Any]
    digest: str
    _model: Any = None

    @abstractmethod
    def build(self) -> Any:
        """The network with its weights, float32, in eval mode, on the CPU."""

    @abstractmethod
    def forward(self, model: Any, pixels: Any) -> Any:
        """Features [n, dim] of normalised pixels [n, 3, S, S]."""

    def core(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "dim": self.dim,
            "weights": self.digest,
            "preprocessing": self.pixels,
        }

    def load(self, device: Device = "auto", precision: Precision = "auto") -> None:
        import torch

        if device == "cuda" and not torch.cuda.is_available():
            raise UserError("--device cuda: torch finds no such device; use --device cpu")
        on_gpu = device != "cpu" and torch.cuda.is_available()
        if precision == "auto":
            fast = "bf16" if on_gpu and torch.cuda.is_bf16_supported() else "fp16"
            precision = fast if on_gpu else "fp32"  # type: ignore[assignment]
        self._dtype = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}[precision]
        self._device = torch.device(own_gpu() if on_gpu else "cpu")
        self._model = self.build().to(self._device)

    def features(self, prepared: Sequence[NDArray[Any]]) -> NDArray[np.float32]:
        import torch

        if self._model is None:
            self.load()
        mean, std = (
            torch.tensor(self.pixels[name], device=self._device).view(1, 3, 1, 1)
            for name in ("mean", "std")
        )
        batch = torch.from_numpy(np.stack(prepared)).to(self._device).permute(0, 3, 1, 2)
        pixels = (batch.float() * self.pixels["scale"] - mean) / std
        autocast: Any = contextlib.nullcontext()
        if self._dtype is not None:
            autocast = torch.autocast(self._device.type, self._dtype)
        with torch.inference_mode(), autocast:
            features = self.forward(self._model, pixels).float().cpu().numpy()
        if features.shape != (len(prepared), self.dim):
            raise UserError(
                f"encoder {self.name}: its weights give features {features.shape[1:]}, "
                f"expected ({self.dim},)"
            )
        return features


def squash(image: Pixels, size: int, resample: int) -> Pixels:
    """Resize to size x size, the aspect ratio not kept, as the model was trained (uint8)."""
    if image.shape[:2] == (size, size):
        return image
    return np.asarray(Image.fromarray(image).resize((size, size), Image.Resampling(resample)))


def resize_crop(image: Pixels, size: int, resample: int = Image.Resampling.BICUBIC) -> Pixels:
    """Shorter side to `size`, then the central square: CLIP's and DINOv2's own (uint8).

    Sizes and places are rounded as torchvision's Resize and CenterCrop round them.
    """
    height, width = image.shape[:2]
    short = min(height, width)
    target = (int(size * width / short), int(size * height / short))
    if target != (width, height):
        picture = Image.fromarray(image).resize(target, Image.Resampling(resample))
        image = np.asarray(picture)
    top, left = round((target[1] - size) / 2), round((target[0] - size) / 2)
    return image[top : top + size, left : left + size]


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
    path = Path(source).expanduser() if source is not None else None
    if path is not None and path.exists():
        if revision is not None:
            raise UserError(f"--revision {revision}: {source} is a local path; leave it out")
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
    match = re.fullmatch(r"([\w][\w.-]*/[\w.-]+)(?:/(.+))?", source or repo)
    if match is None:
        raise UserError(f"--weights {source}: no such file or folder, nor a hub repository")
    owner_repo, inside = match[1], match[2] or name

    from huggingface_hub import hf_hub_download

    why = ""
    for offline in (True, False):  # what the cache holds is used without asking the hub
        try:
            return Path(
                hf_hub_download(owner_repo, inside, revision=revision, local_files_only=offline)
            )
        except Exception as error:  # offline, no such repository, gated: many types
            why = str(error).strip().splitlines()[0]
    raise UserError(
        f"{owner_repo}/{inside}: cannot be had from the Hugging Face hub ({why})\n"
        f"fetch it where there is a network: hf download {owner_repo} {inside} --local-dir FOLDER\n"
        "and pass --weights FOLDER; or use --encoder descriptor, which needs no weights"
    )


def load_strictly(model: Any, state: dict[str, Any], where: Path) -> Any:
    """Put every tensor of `state` into the model. Raises UserError for missing, unexpected and
    misshapen ones: what stays at its random initialisation would look right and mean nothing."""
    own = model.state_dict()
    problems = [f"missing: {name}" for name in sorted(set(own) - set(state))]
    problems += [f"unexpected: {name}" for name in sorted(set(state) - set(own))]
    problems += [
        f"{name}: shape {tuple(state[name].shape)}, the network has {tuple(own[name].shape)}"
        for name in sorted(set(own) & set(state))
        if own[name].shape != state[name].shape
    ]
    if problems:
        more = f"\n  and {len(problems) - 8} more" if len(problems) > 8 else ""
        raise UserError(
            f"{where}: not the weights of this network:\n  " + "\n  ".join(problems[:8]) + more
        )
    model.load_state_dict(state, strict=True)
    return model.float().eval().requires_grad_(False)


def read_tensors(file: Path) -> dict[str, Any]:
    """A state dict from .safetensors, .pt, .pth or .bin (weights only: no code is run).

    One that training code has wrapped ('state_dict', 'module.') is unwrapped.
    """
    import pickle

    import torch
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        if file.suffix == ".safetensors":
            return load_file(file)
        state = torch.load(file, map_location="cpu", weights_only=True)
    except (SafetensorError, OSError, RuntimeError, ValueError, EOFError) as error:
        raise UserError(f"{file}: unreadable weights ({error})") from None
    except pickle.UnpicklingError:
        raise UserError(f"{file}: not a file of weights alone (torch.load, weights_only)") from None
    for key in ("state_dict", "model"):
        if isinstance(state, dict) and isinstance(state.get(key), dict):
            state = state[key]
    if not isinstance(state, dict) or not all(isinstance(v, torch.Tensor) for v in state.values()):
        raise UserError(f"{file}: no state dict (a name for each tensor)")
    if state and all(name.startswith("module.") for name in state):
        state = {name.removeprefix("module."): tensor for name, tensor in state.items()}
    return state


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
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path}: missing") from None
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: unreadable ({error})") from None
    if not isinstance(value, dict):
        raise UserError(f"{path}: expected a JSON object")
    return value
