"""Git-RSCLIP: the vision tower of a SigLIP model, as transformers stores it.

Only the vision tower is read from the weight files, and every one of its tensors must be there:
a tensor left at its random initialisation would give features that look right and mean nothing.
Sizes come from config.json. The feature is the pooled output of the vision tower's attention
head; SigLIP has no further projection. Git-RSCLIP was itself trained on Git-10M, which does no
harm to pruning but should be said beside any result.
"""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from data.atomic import write_json
from data.errors import UserError
from data.stage import digest_of, sha256_file
from prune.encoders import Device, Encoder, Pixels, Precision, Prepare

HUB = "lcybuaa/Git-RSCLIP"
HUB_DIM = 1024  # SigLIP-large; the repository's -base sibling has 768 and other preprocessing
PREFIX = "vision_model."
_CONFIGS = ["config.json", "preprocessor_config.json"]


class GitRSCLIP(Encoder):
    """Pooled output of a SigLIP vision tower, from a local folder or the Hugging Face hub."""

    name = "git-rsclip"

    def __init__(
        self,
        weights: str | None = None,
        revision: str | None = None,
        digests: Path | None = None,
    ) -> None:
        self.folder = locate(weights or HUB, revision)
        self._vision = _vision_config(self.folder)
        # What transformers assumes where a configuration leaves a value out.
        self.dim = int(self._vision.get("hidden_size", 768))
        self.image_size = int(self._vision.get("image_size", 224))
        if weights is None and self.dim != HUB_DIM:
            raise UserError(f"{self.folder}: width {self.dim}, expected {HUB_DIM} of {HUB}")
        self.pixels = _preprocessing(self.folder, self.image_size)
        self.files = weight_files(self.folder)
        self._digest = _digest(self.files, digests)
        self._model: Any = None

    def core(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "dim": self.dim,
            "weights": self._digest,
            "preprocessing": self.pixels,
        }

    @property
    def libraries(self) -> tuple[str, ...]:
        return ("transformers", "torch", "pillow")

    @property
    def prepare(self) -> Prepare:
        return partial(squash, size=self.image_size, resample=self.pixels["resample"])

    def load(self, device: Device = "auto", precision: Precision = "auto") -> None:
        import torch

        if device == "cuda" and not torch.cuda.is_available():
            raise UserError("--device cuda: torch finds no such device; use --device cpu")
        on_gpu = device != "cpu" and torch.cuda.is_available()
        if precision == "auto":
            fast = "bf16" if on_gpu and torch.cuda.is_bf16_supported() else "fp16"
            precision = fast if on_gpu else "fp32"  # type: ignore[assignment]
        self._dtype = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}[precision]
        self._device = torch.device("cuda" if on_gpu else "cpu")
        self._model = load_vision(self.folder, self._vision, self.files).to(self._device)

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
            pooled = self._model(pixel_values=pixels).pooler_output
        return pooled.float().cpu().numpy()


def squash(image: Pixels, size: int, resample: int) -> Pixels:
    """Resize to size x size, the aspect ratio not kept, as the model was trained (uint8)."""
    if image.shape[:2] == (size, size):
        return image
    return np.asarray(Image.fromarray(image).resize((size, size), Image.Resampling(resample)))


def locate(source: str, revision: str | None = None) -> Path:
    """The folder of a model: `source` itself, or a snapshot of a Hugging Face repository.

    What the hub's cache holds is used without asking the hub. Raises UserError when neither
    gives a folder with config.json and weights.
    """
    folder = Path(source).expanduser()
    if folder.is_dir():
        if revision is not None:
            raise UserError(f"--revision {revision}: {source} is a local folder; leave it out")
        return folder
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", source) or source.startswith("."):
        raise UserError(f"--weights {source}: no such folder, nor the name of a hub repository")

    from huggingface_hub import snapshot_download

    why: Exception | None = None
    for offline in (True, False):
        # Weights in the old pickle format only where the repository has no others.
        for patterns in (["*.safetensors", "*.safetensors.index.json"], ["pytorch_model*"]):
            try:
                found = Path(
                    snapshot_download(
                        source,
                        revision=revision,
                        allow_patterns=_CONFIGS + patterns,
                        local_files_only=offline,
                    )
                )
                weight_files(found)
                return found
            except UserError:
                continue
            except Exception as error:  # offline, no such repository, gated: many types
                why = error
                break
    reason = str(why).strip().splitlines()[0] if why else "it has no weights that can be read"
    raise UserError(
        f"{source}: cannot be had from the Hugging Face hub ({reason})\n"
        f"fetch it where there is a network: hf download {source} --local-dir FOLDER\n"
        "and pass --weights FOLDER; or use --encoder descriptor, which needs no weights"
    )


def weight_files(folder: Path) -> list[Path]:
    """The files of a model's weights, safetensors before pickles. Raises UserError if none."""
    for name in ("model.safetensors", "pytorch_model.bin"):
        if (folder / name).is_file():
            return [folder / name]
        index = folder / f"{name}.index.json"
        if index.is_file():
            shards = sorted(set(_read_json(index).get("weight_map", {}).values()))
            missing = [shard for shard in shards if not (folder / shard).is_file()]
            if missing or not shards:
                raise UserError(f"{index}: names {missing or 'no files'}, not there")
            return [folder / shard for shard in shards]
    raise UserError(
        f"{folder}: neither model.safetensors nor pytorch_model.bin (or an index of either)"
    )


def load_vision(folder: Path, vision: dict[str, Any], files: Sequence[Path]) -> Any:
    """A SiglipVisionModel in float32 and eval mode with every tensor from `files`.

    Reads a whole SigLIP model (its text tower is skipped unread) and a vision tower alone, in
    the key layouts of transformers 4 and 5. Raises UserError for missing, unexpected or
    misshapen tensors.
    """
    import torch
    from transformers import SiglipVisionConfig, SiglipVisionModel

    config = SiglipVisionConfig.from_dict(dict(vision))
    with torch.device("meta"):  # no memory, and no random numbers, for what is replaced anyway
        model = SiglipVisionModel(config)
    # transformers 4 nests the tower in `vision_model`, transformers 5 does not.
    names = {name.removeprefix(PREFIX): name for name in model.state_dict()}
    found = read_vision_tensors(files)
    found.pop("embeddings.position_ids", None)  # a constant that old versions stored
    shapes = {name: tuple(model.state_dict()[full].shape) for name, full in names.items()}
    problems = [f"missing: {name}" for name in sorted(set(names) - set(found))]
    problems += [f"unexpected: {name}" for name in sorted(set(found) - set(names))]
    problems += [
        f"{name}: shape {tuple(found[name].shape)}, config.json says {shapes[name]}"
        for name in sorted(set(found) & set(names))
        if tuple(found[name].shape) != shapes[name]
    ]
    if problems:
        more = f"\n  and {len(problems) - 8} more" if len(problems) > 8 else ""
        raise UserError(
            f"{folder}: its weights are not those of its config.json:\n  "
            + "\n  ".join(problems[:8])
            + more
        )
    state = {names[name]: tensor.float() for name, tensor in found.items()}
    model.load_state_dict(state, strict=True, assign=True)
    for name, buffer in list(model.named_buffers()):
        if buffer.is_meta:
            owner, _, attribute = name.rpartition(".")
            if attribute != "position_ids":
                raise UserError(f"{folder}: this version of transformers has a buffer {name}")
            positions = torch.arange(buffer.shape[-1]).expand(buffer.shape)
            model.get_submodule(owner).register_buffer(attribute, positions, persistent=False)
    return model.eval().requires_grad_(False)


def read_vision_tensors(files: Sequence[Path]) -> dict[str, Any]:
    """Tensors of the vision tower by name without prefix; all tensors if none has the prefix."""
    import torch
    from safetensors import SafetensorError, safe_open

    try:
        if files[0].suffix == ".safetensors":
            with contextlib.ExitStack() as stack:
                readers = [stack.enter_context(safe_open(file, "pt")) for file in files]
                owner = {name: reader for reader in readers for name in reader.keys()}  # noqa: SIM118
                return {
                    name.removeprefix(PREFIX): owner[name].get_tensor(name)
                    for name in _vision_names(list(owner))
                }
        state: dict[str, Any] = {}
        for file in files:
            state.update(torch.load(file, map_location="cpu", weights_only=True, mmap=True))
    except (SafetensorError, OSError, RuntimeError, ValueError, EOFError) as error:
        raise UserError(f"{files[0].parent}: unreadable weights ({error})") from None
    return {name.removeprefix(PREFIX): state[name] for name in _vision_names(list(state))}


def _vision_names(names: list[str]) -> list[str]:
    return [name for name in names if name.startswith(PREFIX)] or names


def _vision_config(folder: Path) -> dict[str, Any]:
    path = folder / "config.json"
    config = _read_json(path)
    kind = config.get("model_type")
    if kind == "siglip":
        config = config.get("vision_config") or {}
    elif kind != "siglip_vision_model":
        raise UserError(f"{path}: model_type {kind}; expected siglip or siglip_vision_model")
    if not config.get("vision_use_head", True):
        raise UserError(f"{path}: vision_use_head is false, so there is no pooled feature")
    return config


def _preprocessing(folder: Path, image_size: int) -> dict[str, Any]:
    """Preprocessing by preprocessor_config.json, or SigLIP's own where there is none."""
    path = folder / "preprocessor_config.json"
    given = _read_json(path) if path.is_file() else {}
    size = given.get("size", {"height": image_size, "width": image_size})
    if isinstance(size, int):
        size = {"height": size, "width": size}
    if size != {"height": image_size, "width": image_size}:
        raise UserError(f"{path}: size {size}, but the model takes {image_size} x {image_size}")
    for step in ("do_resize", "do_rescale", "do_normalize"):
        if given.get(step) is False:
            raise UserError(f"{path}: {step} is false; only resize, rescale, normalise is known")
    if given.get("do_center_crop"):
        raise UserError(f"{path}: do_center_crop is set; only a direct resize is known")
    mean, std = given.get("image_mean", [0.5] * 3), given.get("image_std", [0.5] * 3)
    if len(mean) != 3 or len(std) != 3 or min(std) <= 0:
        raise UserError(f"{path}: image_mean {mean}, image_std {std}: expected three numbers each")
    resample = given.get("resample", 3)
    if resample not in list(Image.Resampling):
        raise UserError(f"{path}: resample {resample} is none of Pillow's filters")
    return {
        "resize": f"direct to {image_size} x {image_size}, Pillow",
        "resample": int(resample),  # Pillow's number: 3 is bicubic
        "scale": float(given.get("rescale_factor", 1 / 255)),
        "mean": [float(value) for value in mean],
        "std": [float(value) for value in std],
    }


def _digest(files: Sequence[Path], remembered: Path | None) -> str:
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


def _read_json(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path}: missing") from None
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: unreadable ({error})") from None
    if not isinstance(value, dict):
        raise UserError(f"{path}: expected a JSON object")
    return value
