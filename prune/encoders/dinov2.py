"""DINOv2 (Oquab et al. 2023, arXiv 2304.07193) through timm: class token after the last norm.

Weights are in timm's hub format: a folder with config.json, which names the architecture, and
model.safetensors. Published at 518 pixels, used at 224, so the position embedding is resampled
as timm does it.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

from core.errors import UserError
from prune.encoders.base import Prepare
from prune.encoders.vision import (
    IMAGENET,
    VisionEncoder,
    digest_files,
    find_file,
    load_strictly,
    read_json,
    read_tensors,
    resize_crop,
)

REPO, FILE = "timm/vit_large_patch14_dinov2.lvd142m", "model.safetensors"
IMAGE_SIZE = 224


class DINOv2(VisionEncoder):
    """Class token of a DINOv2 vision transformer; ViT-L/14 by default."""

    name = "dinov2"

    def __init__(
        self,
        weights: str | None = None,
        revision: str | None = None,
        digests: Path | None = None,
    ) -> None:
        suffixes = (".safetensors", ".bin", ".pth")
        self.path = find_file(weights, revision, REPO, FILE, suffixes)
        config = self.path.parent / "config.json"
        if not config.is_file() and (weights is None or not Path(weights).exists()):
            repo = "/".join((weights or REPO).split("/")[:2])
            config = find_file(f"{repo}/config.json", revision, REPO, "config.json", (".json",))
        self.settings = read_json(config)
        self.architecture = str(self.settings.get("architecture", ""))
        if "dinov2" not in self.architecture or not self.settings.get("num_features"):
            raise UserError(
                f"{config}: architecture '{self.architecture}', num_features "
                f"{self.settings.get('num_features')}; expected a DINOv2 in timm's hub format "
                f"(such as {REPO})"
            )
        self.dim = int(self.settings["num_features"])
        self.image_size = int(self.settings.get("model_args", {}).get("img_size", IMAGE_SIZE))
        self.pixels = {
            "resize": f"shorter side to {self.image_size}, centre crop, Pillow bicubic",
            "scale": 1 / 255,
            **IMAGENET,
            "architecture": self.architecture,
        }
        self.digest = digest_files([self.path], digests)

    @property
    def libraries(self) -> tuple[str, ...]:
        return ("timm", "torch", "pillow")

    @property
    def prepare(self) -> Prepare:
        return partial(resize_crop, size=self.image_size)

    def build(self) -> Any:
        import timm
        from timm.models.vision_transformer import checkpoint_filter_fn

        arguments = {**self.settings.get("model_args", {}), "img_size": self.image_size}
        try:
            model: Any = timm.create_model(
                self.architecture, pretrained=False, num_classes=0, **arguments
            )
            state = checkpoint_filter_fn(read_tensors(self.path), model)
        except (RuntimeError, TypeError, ValueError, KeyError) as error:
            raise UserError(
                f"{self.path}: timm cannot build {self.architecture}: {error}"
            ) from None
        state = {name: tensor for name, tensor in state.items() if name != "mask_token"}
        return load_strictly(model, state, self.path)

    def forward(self, model: Any, pixels: Any) -> Any:
        return model(pixels)
