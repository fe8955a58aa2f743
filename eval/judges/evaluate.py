"""The comparison: generated images with the hold-out, or pairs of images with each other."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

from core.atomic import write_json
from core.errors import UserError
from core.progress import progress
from core.stage import Result, Stage, read_manifest
from data.corpus.base import keep_apart
from data.corpus.specs import open_corpus
from dit.model.device import pick_device
from dit.vae.autoencoder import load_vae, to_unit
from eval.distances.bootstrap import bootstrap_interval
from eval.distances.frechet import fit, frechet_distance, kernel_distance
from eval.judges.config import EvaluateConfig, target_folder
from eval.judges.extractors import Extractor, load_extractor
from eval.judges.images import check_holdout, names_of, read_folder, read_holdout
from eval.judges.perceptual import load_perceptual, perceptual_pairs


def evaluate(config: EvaluateConfig, stage: Stage) -> Result:
    """Write the metrics file."""
    if config.corpus is not None and config.holdout is not None:
        corpus = open_corpus(config.corpus)
        keep_apart(config.out.parent, corpus, config.corpus)
        check_holdout(corpus, config.holdout)
    stage.open()
    result = _pairs(config, config.pairs) if config.pairs else _generation(config)
    write_json(config.out, result)
    return stage.finish({"result": result}, [config.out.name], _line(result))


def _generation(config: EvaluateConfig) -> dict[str, Any]:
    """Distances of generated images, and of VAE reconstructions, from the hold-out."""
    assert config.generated and config.corpus and config.holdout
    device = pick_device(config.device)
    extractor = load_extractor(config.extractor, weights=config.weights, device=device)
    real = read_holdout(open_corpus(config.corpus), config.holdout, config.image_size)
    generated = read_folder(config.generated, names_of(config.generated))
    if generated.shape[1:] != real.shape[1:]:
        raise UserError(
            f"{config.generated}: images of {generated.shape[1:3]}, but --image-size is "
            f"{config.image_size}"
        )
    features = extractor(real, label="hold-out")
    result = {
        "task": "generation",
        "extractor": extractor.fingerprint,
        "distance": distances(extractor, extractor(generated, label="generated"), features),
        "sampling": read_manifest(config.generated)["params"],
    }
    if config.vae is not None:
        rebuilt = extractor(reconstruct(config.vae, real, device), label="reconstructed")
        result["vae_floor"] = distances(extractor, rebuilt, features)
    return result


def _pairs(config: EvaluateConfig, pairs: Path) -> dict[str, Any]:
    """Distances between two folders of equal names, and LPIPS and PSNR of each pair."""
    device = pick_device(config.device)
    names = names_of(pairs, "generated")
    generated = read_folder(pairs / "generated", names)
    target = read_folder(pairs / target_folder(pairs), names)
    extractor = load_extractor(config.extractor, weights=config.weights, device=device)
    folder = config.weights if config.weights and config.weights.is_dir() else None
    network = load_perceptual(config.perceptual, device, weights=folder)
    values = perceptual_pairs(network, generated, target, device)
    error = (generated.astype(np.float64) - target) ** 2
    psnr = 10.0 * np.log10(255.0**2 / np.maximum(error.mean(axis=(1, 2, 3)), 1e-10))
    features = extractor(generated, label="generated"), extractor(target, label="target")
    params = read_manifest(pairs)["params"]
    return {
        "task": str(params.get("task", "pairs")),
        "extractor": extractor.fingerprint,
        "distance": distances(extractor, *features),
        "lpips": {
            "name": network.name,
            "value": float(values.mean()),
            "interval_95": list(bootstrap_interval(values)),
            "pairs": len(values),
        },
        "psnr_db": float(psnr.mean()),
        "sampling": params,
    }


def distances(extractor: Extractor, generated: np.ndarray, real: np.ndarray) -> dict[str, Any]:
    """Frechet and kernel distance of features [n, d] and [m, d], with the counts they depend on.

    Raises UserError for fewer than two rows or values that are not finite.
    """
    dimension = generated.shape[1]
    count = min(len(generated), len(real))
    kernel, kernel_std = kernel_distance(generated, real)
    result = {
        "name": extractor.distance,
        "value": frechet_distance(fit(generated), fit(real)),
        "n_generated": len(generated),
        "n_real": len(real),
        "dimension": dimension,
        "kernel_name": extractor.distance.replace("FID", "KID").replace("FD-", "KD-"),
        "kernel_value": kernel,
        "kernel_std": kernel_std,
    }
    notes = []
    if len(generated) != len(real):
        notes.append("unequal counts: compare only with values of the same counts")
    if count <= dimension:
        notes.append(f"{count} samples in {dimension} dimensions: the Frechet value is mostly bias")
    if notes:
        result["notes"] = notes
    return result


def reconstruct(vae_path: str, images: np.ndarray, device: str) -> np.ndarray:
    """What is left of images uint8 [n, h, w, 3] after the VAE's mean latent: same shape.

    Raises UserError for a VAE of other bands than RGB.
    """
    vae = load_vae(vae_path, device=device)
    if vae.in_channels != 3:
        raise UserError(
            f"--vae {vae_path}: takes {vae.in_channels} bands, and the hold-out is compared in "
            "RGB; leave --vae out"
        )
    parts = []
    with torch.inference_mode(), progress(total=len(images), name="VAE floor") as bar:
        for start in range(0, len(images), 16):
            mean, _ = vae.encode(to_unit(images[start : start + 16]))
            parts.append(vae.decode(mean * vae.scale))
            bar.update(len(parts[-1]))
    return np.concatenate(parts)


def _line(result: dict[str, Any]) -> str:
    distance = result["distance"]
    parts = [
        f"{result['task']}: {distance['name']} {distance['value']:.3f} "
        f"(n {distance['n_generated']} vs {distance['n_real']})"
    ]
    if "lpips" in result:
        parts.append(f"{result['lpips']['name']} {result['lpips']['value']:.4f}")
    if "vae_floor" in result:
        parts.append(f"VAE floor {result['vae_floor']['value']:.3f}")
    return ", ".join(parts)
