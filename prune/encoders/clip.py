"""RemoteCLIP and GeoRSCLIP: CLIP models fine-tuned on remote-sensing pairs, through open_clip.

Both are published as state dicts of a complete CLIP model; the file's name says its architecture
(a folder of open_clip's own format says it in open_clip_config.json, which then counts). Every
tensor must be there. The feature is the projected image embedding.

QuickGELU: OpenAI's CLIP, and what was fine-tuned from it with that activation, gives wrong
features under plain GELU, and nothing fails. open_clip's `pretrained="openai"` no longer forces
it, so it is set here and stands in the fingerprint. GeoRSCLIP's ViT-B/32 comes from OpenAI's
(QuickGELU), its ViT-H/14 from LAION's (plain). RemoteCLIP is built as its authors show, with
plain GELU; `remoteclip-quickgelu` is the other reading of weights that come from OpenAI's.
"""

from __future__ import annotations

import json
from importlib.resources import files
from pathlib import Path
from typing import Any, ClassVar

from core.errors import UserError
from prune.encoders.vision import (
    CLIP,
    VisionEncoder,
    cropped,
    digest_files,
    find_file,
    read_json,
)

CONFIG = "open_clip_config.json"
SUFFIXES = (".pt", ".pth", ".bin", ".safetensors")
ARCHITECTURES = ("ViT-B-32", "ViT-B-16", "ViT-L-14-336", "ViT-L-14", "ViT-H-14", "RN50")
"""A file's name says the first of them that it holds."""


class ClipEncoder(VisionEncoder):
    """Image embedding of a CLIP model in open_clip's naming."""

    libraries = ("open_clip_torch", "torch", "pillow")
    repo: str
    file: str
    quick_gelu: ClassVar[dict[str, bool]] = {}
    """Architectures whose activation is QuickGELU; what a configuration file says counts more."""

    def __init__(
        self,
        weights: str | None = None,
        revision: str | None = None,
        digests: Path | None = None,
    ) -> None:
        self.path = find_file(weights, revision, self.repo, self.file, SUFFIXES)
        self.architecture, self.settings = architecture(self.path)
        plain = self.quick_gelu.get(self.architecture, False)
        self.quick = bool(self.settings.get("quick_gelu", plain))
        self.dim = int(self.settings["embed_dim"])
        self.image_size = int(self.settings["vision_cfg"].get("image_size", 224))
        activation = "QuickGELU" if self.quick else "GELU"
        self.pixels = cropped(
            self.image_size, CLIP, architecture=self.architecture, activation=activation
        )
        self.digest = digest_files([self.path], digests)

    def build(self) -> Any:
        from open_clip.model import CLIP as ClipModel

        from prune.encoders.network import load_strictly, read_tensors

        settings = {k: v for k, v in self.settings.items() if k != "quick_gelu"}
        try:
            model = ClipModel(**settings, quick_gelu=self.quick)
        except (TypeError, ValueError, RuntimeError) as error:
            raise UserError(f"{self.path}: open_clip cannot build {settings}: {error}") from None
        state = read_tensors(self.path)
        # Constants that some versions stored with the weights.
        for name in ("visual.attn_mask", "text.position_ids", "attn_mask", "position_ids"):
            if name not in model.state_dict():
                state.pop(name, None)
        return load_strictly(model, state, self.path)

    def forward(self, model: Any, pixels: Any) -> Any:
        return model.encode_image(pixels)


def architecture(path: Path) -> tuple[str, dict[str, Any]]:
    """(name, open_clip's model configuration) of a weight file."""
    beside = path.parent / CONFIG
    if beside.is_file():
        settings = read_json(beside).get("model_cfg")
        if not isinstance(settings, dict) or not {"embed_dim", "vision_cfg"} <= set(settings):
            raise UserError(f"{beside}: no model_cfg with embed_dim and vision_cfg")
        return str(settings.get("name", "as configured")), settings
    for name in ARCHITECTURES:
        if name.lower() in path.name.lower():
            return name, _known(name)
    raise UserError(
        f"{path}: its name says no architecture ({', '.join(ARCHITECTURES)}) and there is no "
        f"{CONFIG} beside it; rename it as it was published"
    )


def _known(name: str) -> dict[str, Any]:
    # open_clip keeps a file for each; read here, for importing open_clip takes seconds.
    config = files("open_clip").joinpath("model_configs", f"{name}.json")
    return json.loads(config.read_text(encoding="utf-8"))


class RemoteCLIP(ClipEncoder):
    """RemoteCLIP (Liu et al. 2024): ViT-L/14 by default, also ViT-B/32 and RN50."""

    name = "remoteclip"
    repo, file = "chendelong/RemoteCLIP", "RemoteCLIP-ViT-L-14.pt"


class RemoteCLIPQuick(RemoteCLIP):
    """RemoteCLIP with QuickGELU."""

    name = "remoteclip-quickgelu"
    quick_gelu: ClassVar = dict.fromkeys(ARCHITECTURES, True)


class GeoRSCLIP(ClipEncoder):
    """GeoRSCLIP (Zhang et al. 2024, RS5M): ViT-B/32 by default, also ViT-H/14."""

    name = "georsclip"
    repo, file = "Zilun/GeoRSCLIP", "ckpt/RS5M_ViT-B-32.pt"
    quick_gelu: ClassVar = {"ViT-B-32": True, "ViT-L-14": True}
