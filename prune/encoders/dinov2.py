"""DINOv2 (Oquab et al. 2023, arXiv 2304.07193) through timm: class token after the last norm.

Weights are in timm's hub format: a folder with config.json, which names the architecture, and
model.safetensors. Published at 518 pixels, used at 224, so the position embedding is resampled
as timm does it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from core.errors import UserError
from prune.encoders.vision import (
    IMAGENET,
    VisionEncoder,
    cropped,
    digest_files,
    find_file,
    read_json,
)

REPO, FILE = "timm/vit_large_patch14_dinov2.lvd142m", "model.safetensors"
IMAGE_SIZE = 224


class DINOv2(VisionEncoder):
    """Class token of a DINOv2 vision transformer; ViT-L/14 by default."""

    name = "dinov2"
    libraries = ("timm", "torch", "pillow")

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
        self.pixels = cropped(self.image_size, IMAGENET, architecture=self.architecture)
        self.digest = digest_files([self.path], digests)

    def build(self) -> Any:
        import timm
        from timm.models.vision_transformer import checkpoint_filter_fn

        from prune.encoders.network import load_strictly, read_tensors

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
