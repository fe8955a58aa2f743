"""Git-RSCLIP: the vision tower of a SigLIP model, as transformers stores and loads it.

Every tensor of the vision tower must be there: one left at its random initialisation would give
features that look right and mean nothing. Sizes come from config.json. The feature is the pooled
output of the vision tower's attention head; SigLIP has no further projection. Git-RSCLIP was
itself trained on Git-10M, which does no harm to pruning but should be said beside any result.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from core.errors import UserError
from core.hub import hub_folder, local_path
from core.weights import plain_folder
from prune.encoders.vision import VisionEncoder, digest_files, from_hub, read_json

HUB = "lcybuaa/Git-RSCLIP"
CONFIGS = ["config.json", "preprocessor_config.json"]
BESIDE = ("text_model.", "logit_scale", "logit_bias")  # what a SigLIP has besides its vision tower


class GitRSCLIP(VisionEncoder):
    """Pooled output of a SigLIP vision tower, from a local folder or the Hugging Face hub."""

    name = "git-rsclip"
    libraries = ("transformers", "torch", "pillow")
    hub = HUB
    hub_dim = 1024  # SigLIP-large
    crop = False

    def __init__(
        self,
        weights: str | None = None,
        revision: str | None = None,
        digests: Path | None = None,
    ) -> None:
        self.folder = locate(weights or self.hub, revision)
        vision = _vision_config(self.folder)
        # What transformers assumes where a configuration leaves a value out.
        self.dim = int(vision.get("hidden_size", 768))
        self.image_size = int(vision.get("image_size", 224))
        if self.dim != self.hub_dim and (weights is None or self.dim in HUB_DIMS):
            other = f"; --encoder {HUB_DIMS[self.dim]} is that wide" if self.dim in HUB_DIMS else ""
            raise UserError(
                f"{self.folder}: width {self.dim}, expected {self.hub_dim} of {self.hub}{other}"
            )
        self.pixels = _preprocessing(self.folder, self.image_size)
        self.resample = self.pixels["resample"]
        self.digest = digest_files(weight_files(self.folder), digests)

    def build(self) -> Any:
        """The tower. Raises UserError for missing, unexpected or misshapen tensors."""
        from transformers import SiglipVisionModel

        try:
            with _quietly(), plain_folder(self.folder, weight_files(self.folder)) as folder:
                load: Any = SiglipVisionModel.from_pretrained
                model, found = load(
                    folder,
                    output_loading_info=True,
                    ignore_mismatched_sizes=True,  # they are in `found`
                    local_files_only=True,
                )
        except Exception as error:  # a damaged file is met with errors of every type
            why = (str(error).strip().splitlines() or [type(error).__name__])[0]
            raise UserError(f"{self.folder}: unreadable weights ({why})") from None
        extra = (name for name in found["unexpected_keys"] if not name.startswith(BESIDE))
        problems = [
            *(f"missing: {name}" for name in sorted(found["missing_keys"])),
            *(f"unexpected: {name}" for name in sorted(extra)),
            *(
                f"{name}: shape {tuple(stored)}, config.json says {tuple(expected)}"
                for name, stored, expected in sorted(found["mismatched_keys"])
            ),
        ]
        if problems:
            more = f"\n  and {len(problems) - 8} more" if len(problems) > 8 else ""
            raise UserError(
                f"{self.folder}: its weights are not those of its config.json:\n  "
                + "\n  ".join(problems[:8])
                + more
            )
        return model.float().eval().requires_grad_(False)

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

    Raises UserError when neither gives a folder with config.json and weights.
    """

    def complete(folder: Path) -> bool:
        with contextlib.suppress(UserError):
            return bool(weight_files(folder))
        return False

    folder = local_path(source, "--weights", revision)
    if folder is not None and not folder.is_dir():
        raise UserError(f"--weights {source}: a file; give the folder, with its config.json")
    if folder is not None:
        return folder
    tensors = ["*.safetensors", "*.safetensors.index.json"]
    with from_hub():
        return hub_folder(
            source, [*CONFIGS, *tensors], complete, "--weights", revision,
            otherwise=[*CONFIGS, "pytorch_model*"],
        )  # fmt: skip


@contextlib.contextmanager
def _quietly() -> Iterator[None]:
    """Without transformers' report on the text tower, which is left out, and its progress bar."""
    from transformers.utils import logging

    level, bar = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bar:
            logging.enable_progress_bar()


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
    if resample not in range(6):
        raise UserError(f"{path}: resample {resample} is none of Pillow's filters")
    return {
        "resize": f"direct to {image_size} x {image_size}, Pillow",
        "resample": int(resample),  # Pillow's number: 3 is bicubic
        "scale": float(given.get("rescale_factor", 1 / 255)),
        "mean": [float(value) for value in mean],
        "std": [float(value) for value in std],
    }
