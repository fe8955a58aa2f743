"""Git-RSCLIP: the vision tower of a SigLIP model, as transformers stores it.

Only the vision tower is read from the weight files, and every one of its tensors must be there:
a tensor left at its random initialisation would give features that look right and mean nothing.
Sizes come from config.json. The feature is the pooled output of the vision tower's attention
head; SigLIP has no further projection. Git-RSCLIP was itself trained on Git-10M, which does no
harm to pruning but should be said beside any result.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from PIL import Image

from core.errors import UserError
from prune.encoders.base import Prepare
from prune.encoders.vision import VisionEncoder, digest_files, read_json, squash

HUB = "lcybuaa/Git-RSCLIP"
PREFIX = "vision_model."
CONFIGS = ["config.json", "preprocessor_config.json"]


class GitRSCLIP(VisionEncoder):
    """Pooled output of a SigLIP vision tower, from a local folder or the Hugging Face hub."""

    name = "git-rsclip"
    hub = HUB
    hub_dim = 1024  # SigLIP-large

    def __init__(
        self,
        weights: str | None = None,
        revision: str | None = None,
        digests: Path | None = None,
    ) -> None:
        self.folder = locate(weights or self.hub, revision)
        self._vision = _vision_config(self.folder)
        # What transformers assumes where a configuration leaves a value out.
        self.dim = int(self._vision.get("hidden_size", 768))
        self.image_size = int(self._vision.get("image_size", 224))
        if self.dim != self.hub_dim and (weights is None or self.dim in HUB_DIMS):
            other = f"; --encoder {HUB_DIMS[self.dim]} is that wide" if self.dim in HUB_DIMS else ""
            raise UserError(
                f"{self.folder}: width {self.dim}, expected {self.hub_dim} of {self.hub}{other}"
            )
        self.pixels = _preprocessing(self.folder, self.image_size)
        self.files = weight_files(self.folder)
        self.digest = digest_files(self.files, digests)

    @property
    def libraries(self) -> tuple[str, ...]:
        return ("transformers", "torch", "pillow")

    @property
    def prepare(self) -> Prepare:
        return partial(squash, size=self.image_size, resample=self.pixels["resample"])

    def build(self) -> Any:
        return load_vision(self.folder, self._vision, self.files)

    def forward(self, model: Any, pixels: Any) -> Any:
        return model(pixel_values=pixels).pooler_output


class GitRSCLIPBase(GitRSCLIP):
    """The base size: 768 wide, its own preprocessing; its features do not mix with the large's."""

    name = "git-rsclip-base"
    hub = f"{HUB}-base"
    hub_dim = 768


HUB_DIMS = {kind.hub_dim: kind.name for kind in (GitRSCLIP, GitRSCLIPBase)}


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
                        allow_patterns=[*CONFIGS, *patterns],
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
            shards = sorted(set(read_json(index).get("weight_map", {}).values()))
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
    config = read_json(path)
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
    given = read_json(path) if path.is_file() else {}
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
