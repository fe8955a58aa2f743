"""Pairs of images of equal names: what a downstream model drew, and what it was to draw.

    PSNR    10 log10(255^2 / mean squared error), over all pixels and bands, in dB
    SSIM    Wang et al. 2004: a Gaussian window of 11 pixels (sigma 1.5), K = 0.01 and 0.03, mean
            over the image, mirrored beyond its border, and its bands

Both are torchmetrics', of each image; a value is the mean over images. Of super-resolution the
bicubic input is judged like the model's images: a model that loses to its own input shows it.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torchmetrics.functional.image import (
    peak_signal_noise_ratio,
    structural_similarity_index_measure,
)

from core.engines import ProcessGroup
from core.errors import UserError
from core.progress import progress
from core.stage import Stage, digest_of, read_manifest
from dit.model.device import pick_device
from eval.distances.bootstrap import bootstrap_interval
from eval.judges.config import EvaluateConfig, target_folder
from eval.judges.extractors import Extractor, load_extractor
from eval.judges.features import ImageSet
from eval.judges.images import names_of, read_png
from eval.judges.perceptual import load_perceptual, perceptual_pairs

ADHERENCE = "adherence.json"  # of downstream.evaluate --segmenter
WINDOW = 11  # pixels of SSIM's window
MOST_DB = 100.0  # PSNR of images that are equal
_CHUNK = 64 * 2**20  # bytes of images read at once
_SSIM_BATCH = 2**22  # values at a time through SSIM's five convolutions

Distances = Callable[[Extractor, np.ndarray, np.ndarray], dict[str, Any]]


def judge_pairs(
    config: EvaluateConfig, folder: Path, distances: Distances, group: ProcessGroup, stage: Stage
) -> dict[str, Any]:
    """Compare the images of a finished downstream.evaluate with their targets.

    Returns {"task", "extractor", "distance", "perceptual", "psnr", "ssim", "checkpoint_rule",
    "sampling" (with the rule, too)}; for super-resolution "bicubic" with the four comparisons of
    its own; where a segmenter was given to downstream.evaluate, "adherence"; of a model of four
    bands "bands", its way. Images may be of
    several sizes. Features are kept in config.cache_folder(). The processes of a launch share the
    work; all but the main one end here (DoneElsewhere).
    Raises UserError for images that are missing, broken, or too small for SSIM.
    """
    device = pick_device(config.device)
    manifest = read_manifest(folder)
    task = str(manifest["params"].get("task", "pairs"))
    parts = {"generated": folder / "generated", "target": folder / target_folder(folder)}
    if task == "sr" and any(name.startswith("condition/") for name in manifest["files"]):
        parts["bicubic"] = folder / "condition"
    extractor = load_extractor(config.extractor, weights=config.weights, device=device)
    local = config.weights if config.weights is None or config.weights.is_dir() else None
    network = load_perceptual(config.perceptual, device, weights=local)
    names = names_of(folder, "generated")

    def images_of(part: str) -> ImageSet:
        place = parts[part]
        digest = digest_of([manifest["files"][f"{place.name}/{n}"]["sha256"] for n in names])
        return ImageSet(
            part, digest, len(names), lambda at: [place / names[i] for i in at], read_png
        )

    def features(part: str) -> np.ndarray:
        return images_of(part).features(extractor, config.cache_folder())

    # Of each chunk by its number, as each process finds those that are its own.
    mine: dict[int, dict[tuple[str, str], np.ndarray]] = {}
    with progress(total=len(names), name=f"judge {folder.name}", unit="pair") as bar:
        for number, images in enumerate(_chunks(names, parts)):
            target = images.pop("target")
            if number % group.size == group.rank:
                stage.count(len(target))
                found = mine[number] = {}
                for part, pictures in images.items():
                    found[part, "perceptual"] = perceptual_pairs(network, pictures, target, device)
                    found[part, "psnr"] = psnr(pictures, target)
                    found[part, "ssim"] = ssim(pictures, target)
            bar.update(len(target))
    chunks = {number: found for each in group.exchange(mine) for number, found in each.items()}
    if group.size > 1:
        for part in parts:
            images_of(part).make_together(extractor, config.cache_folder(), group)
    group.gather(stage)
    called = {"perceptual": network.name, "psnr": "PSNR (dB)", "ssim": "SSIM"}
    real = features("target")

    def compared(part: str) -> dict[str, Any]:
        own = {"distance": distances(extractor, features(part), real)}
        return own | {
            kind: _summary(
                name, np.concatenate([chunks[number][part, kind] for number in sorted(chunks)])
            )
            for kind, name in called.items()
        }

    result = {"task": task, "extractor": extractor.fingerprint, **compared("generated")}
    if "bicubic" in parts:
        result["bicubic"] = compared("bicubic")
    if ADHERENCE in manifest["files"]:
        result["adherence"] = json.loads((folder / ADHERENCE).read_text(encoding="utf-8"))
    if "bands" in manifest["summary"]:  # of a model of four bands: the way of downstream.train
        result["bands"] = manifest["summary"]["bands"]
    result["checkpoint_rule"] = manifest["params"].get("checkpoint", "last")
    result["sampling"] = manifest["params"] | {"checkpoint_rule": result["checkpoint_rule"]}
    return result


def psnr(images: np.ndarray, target: np.ndarray) -> np.ndarray:
    """Peak signal-to-noise ratio of each pair in dB: uint8 [n, h, w, 3] twice -> float64 [n].

    At most 100, which equal images have.
    """
    found = peak_signal_noise_ratio(
        _tensor(images).double(),
        _tensor(target).double(),
        data_range=255.0,
        reduction="none",
        dim=(1, 2, 3),
    )
    return found.clamp(max=MOST_DB).numpy()


def ssim(images: np.ndarray, target: np.ndarray) -> np.ndarray:
    """Structural similarity of each pair: uint8 [n, h, w, 3] twice -> float64 [n], at most 1.

    Raises UserError for images smaller than its window of 11 pixels.
    """
    if min(images.shape[1:3]) < WINDOW:
        height, width = images.shape[1:3]
        raise UserError(f"images of {width} x {height} px: SSIM's window takes {WINDOW} at least")
    step = max(1, _SSIM_BATCH // images[0].size)
    parts = []
    for start in range(0, len(images), step):
        part = slice(start, start + step)
        found = structural_similarity_index_measure(
            _tensor(images[part]).double(),
            _tensor(target[part]).double(),
            data_range=255.0,
            reduction="none",
        )
        assert isinstance(found, torch.Tensor)
        parts.append(found.reshape(-1).numpy())
    return np.concatenate(parts)


def _tensor(images: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(images.transpose(0, 3, 1, 2)))


def _summary(name: str, values: np.ndarray) -> dict[str, Any]:
    return {
        "name": name,
        "value": float(values.mean()),
        "interval_95": list(bootstrap_interval(values)),
        "pairs": len(values),
    }


def _chunks(names: Sequence[str], parts: Mapping[str, Path]) -> Iterator[dict[str, np.ndarray]]:
    """The images of every part, uint8 [n, h, w, 3] under its name, of one size at a time.

    Raises UserError where the parts of a name differ in size.
    """
    waiting: dict[tuple[int, ...], list[dict[str, np.ndarray]]] = defaultdict(list)
    size = 0
    for last, name in zip([*[False] * (len(names) - 1), True], names, strict=True):
        row = {part: read_png(path / name) for part, path in parts.items()}
        shape = row["target"].shape
        for part, image in row.items():
            if image.shape != shape:
                raise UserError(
                    f"{parts[part] / name}: {image.shape[1]} x {image.shape[0]} px, but its "
                    f"target has {shape[1]} x {shape[0]}; run downstream.evaluate again"
                )
        waiting[shape].append(row)
        size += len(parts) * row["target"].nbytes
        if size >= _CHUNK or last:
            for rows in waiting.values():
                yield {part: np.stack([row[part] for row in rows]) for part in parts}
            waiting.clear()
            size = 0
