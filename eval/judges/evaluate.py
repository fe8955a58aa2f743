"""python -m eval.evaluate: Frechet and kernel distance, and LPIPS of pairs, to one JSON file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from core.atomic import write_json
from core.errors import UserError
from core.settings import machine, parse, place, science, settings
from core.stage import Stage, fingerprint, read_manifest, sha256_file
from data.corpus.base import keep_apart
from data.corpus.specs import open_corpus


@settings
class EvaluateConfig:
    """Either --generated with --corpus and --holdout, or --pairs."""

    out: Path
    """Metrics file to write (.json)."""
    generated: Path | None = None
    """Folder of generated PNG images (from dit.sample), judged against the hold-out."""
    corpus: str | None = place(None)
    """Corpus that the hold-out images come from, as prune.score takes it."""
    holdout: Path | None = None
    """Hold-out table (from data.holdout)."""
    vae: str | None = None
    """VAE of the generated images: its reconstructions of the hold-out give the floor that no
    generator on its latents can be expected to beat."""
    image_size: int = 256
    """Side of the images (pixels)."""
    pairs: Path | None = None
    """Folder with generated/ and reference/ of the same names (from downstream.evaluate)."""
    extractor: str = "inception"
    """Feature space: inception (the distance is FID) or descriptor (FD-descriptor)."""
    weights: Path | None = None
    """Folder with Inception's weights, inception-2015-12-05.pt (default: clean-fid's place)."""
    lpips_backbone: str = "alex"
    """LPIPS trunk: alex, vgg, or random (labelled; needs no download). The paper names none."""
    device: str = machine("auto")
    """Where networks run: auto, cpu, cuda (machine setting)."""


def main(argv: list[str] | None = None) -> int:
    config = parse(
        EvaluateConfig,
        argv,
        prog="python -m eval.evaluate",
        description="Frechet distance, kernel distance and, for pairs, LPIPS; counts stated.",
    )
    if config.out.suffix != ".json":
        raise UserError(f"{config.out}: the metrics file must end in .json")
    if config.image_size < 1:
        raise UserError(f"--image-size {config.image_size}: at least 1")
    stage = Stage(config.out, "eval.evaluate", science(config), _inputs(config))
    if stage.done():
        return 0
    if config.corpus is not None:
        keep_apart(config.out.parent, open_corpus(config.corpus), config.corpus)
    stage.open()
    result = _pairs(config) if config.pairs else _generation(config)
    write_json(config.out, result)
    stage.finish({"result": result}, [config.out.name], _line(result))
    return 0


def _inputs(config: EvaluateConfig) -> dict[str, str]:
    """The fingerprints of what is compared; also refuses a mixture of the two modes."""
    if config.pairs is not None:
        if config.generated or config.holdout:
            raise UserError("give either --pairs, or --generated with --corpus and --holdout")
        return {"pairs": fingerprint(config.pairs)}
    if not (config.generated and config.corpus and config.holdout):
        raise UserError("--generated needs --corpus and --holdout (or give --pairs FOLDER)")
    if not config.holdout.is_file():
        raise UserError(f"--holdout {config.holdout}: no such file; make it with data.holdout")
    inputs = {"generated": fingerprint(config.generated), "holdout": sha256_file(config.holdout)}
    if config.vae is not None:
        local = Path(config.vae)
        inputs["vae"] = fingerprint(local) if (local / "manifest.json").exists() else config.vae
    return inputs


def _generation(config: EvaluateConfig) -> dict[str, Any]:
    """Distances of generated images, and of VAE reconstructions, from the hold-out."""
    from dit.model.device import pick_device
    from eval.judges.extractors import load_extractor
    from eval.judges.images import names_of, read_folder, read_holdout

    assert config.generated and config.corpus and config.holdout
    device = pick_device(config.device)
    extractor = load_extractor(config.extractor, weights=config.weights, device=device)
    reference = read_holdout(config.corpus, config.holdout, config.image_size)
    _, generated = read_folder(config.generated, names_of(config.generated))
    if generated.shape[1:] != reference.shape[1:]:
        raise UserError(
            f"{config.generated}: images of {generated.shape[1:3]}, but --image-size is "
            f"{config.image_size}"
        )
    real = extractor(reference, label="hold-out")
    result = {
        "task": "generation",
        "extractor": extractor.fingerprint,
        "distance": distances(extractor, extractor(generated, label="generated"), real),
        "sampling": _sampling(config.generated),
    }
    if config.vae is not None:
        rebuilt = extractor(_reconstruct(config.vae, reference, device), label="reconstructed")
        result["vae_floor"] = distances(extractor, rebuilt, real)
    return result


def _pairs(config: EvaluateConfig) -> dict[str, Any]:
    """Distances between two folders of equal names, and LPIPS of each pair."""
    import numpy as np

    from dit.model.device import pick_device
    from eval.judges.extractors import load_extractor
    from eval.judges.images import names_of, read_folder
    from eval.judges.lpips_metric import bootstrap_interval, load_lpips, lpips_pairs, metric_name

    assert config.pairs
    device = pick_device(config.device)
    names = names_of(config.pairs, "generated")
    _, generated = read_folder(config.pairs / "generated", names)
    _, reference = read_folder(config.pairs / "reference", names)
    extractor = load_extractor(config.extractor, weights=config.weights, device=device)
    values = lpips_pairs(load_lpips(config.lpips_backbone, device), generated, reference, device)
    low, high = bootstrap_interval(values)
    error = (generated.astype(np.float64) - reference) ** 2
    psnr = 10.0 * np.log10(255.0**2 / np.maximum(error.mean(axis=(1, 2, 3)), 1e-10))
    return {
        "task": str(read_manifest(config.pairs)["params"].get("task", "pairs")),
        "extractor": extractor.fingerprint,
        "distance": distances(
            extractor,
            extractor(generated, label="generated"),
            extractor(reference, label="reference"),
        ),
        "lpips": {
            "name": metric_name(config.lpips_backbone),
            "value": float(values.mean()),
            "interval_95": [low, high],
            "pairs": len(values),
        },
        "psnr_db": float(psnr.mean()),
        "sampling": _sampling(config.pairs),
    }


def distances(extractor: Any, generated: Any, reference: Any) -> dict[str, Any]:
    """Frechet and kernel distance of features [n, d] and [m, d], with the counts they depend on.

    Raises UserError for fewer than two rows or values that are not finite.
    """
    from eval.distances.frechet import fit, frechet_distance, kernel_distance

    dimension = generated.shape[1]
    count = min(len(generated), len(reference))
    kernel, kernel_std = kernel_distance(generated, reference)
    result = {
        "name": extractor.distance,
        "value": frechet_distance(fit(generated), fit(reference)),
        "n_generated": len(generated),
        "n_reference": len(reference),
        "dimension": dimension,
        "kernel_name": extractor.distance.replace("FID", "KID").replace("FD-", "KD-"),
        "kernel_value": kernel,
        "kernel_std": kernel_std,
    }
    notes = []
    if len(generated) != len(reference):
        notes.append("unequal counts: compare only with values of the same counts")
    if count <= dimension:
        notes.append(f"{count} samples in {dimension} dimensions: the Frechet value is mostly bias")
    if notes:
        result["notes"] = notes
    return result


def _reconstruct(vae_path: str, images: Any, device: str) -> Any:
    """What is left of images uint8 [n, h, w, 3] after the VAE's mean latent: same shape."""
    import numpy as np
    import torch

    from core.progress import progress
    from dit.vae.autoencoder import load_vae

    vae = load_vae(vae_path, device=device)
    if vae.in_channels != 3:
        raise UserError(
            f"--vae {vae_path}: takes {vae.in_channels} bands, and the hold-out is compared in "
            "RGB; leave --vae out"
        )
    parts = []
    with torch.inference_mode(), progress(total=len(images), name="VAE floor") as bar:
        for start in range(0, len(images), 16):
            batch = torch.from_numpy(images[start : start + 16]).permute(0, 3, 1, 2).float()
            mean, _ = vae.encode((batch / 127.5 - 1.0).to(device))
            parts.append(np.asarray(vae.decode(mean * vae.scale)))
            bar.update(len(parts[-1]))
    return np.concatenate(parts)


def _sampling(folder: Path) -> dict[str, Any]:
    """How the images were sampled: parameters of the stage that wrote them."""
    return dict(read_manifest(folder)["params"])


def _line(result: dict[str, Any]) -> str:
    distance = result["distance"]
    parts = [
        f"{result['task']}: {distance['name']} {distance['value']:.3f}",
        f"(n {distance['n_generated']} vs {distance['n_reference']})",
    ]
    if "lpips" in result:
        parts.append(f"{result['lpips']['name']} {result['lpips']['value']:.4f}")
    if "vae_floor" in result:
        parts.append(f"VAE floor {result['vae_floor']['value']:.3f}")
    return ", ".join([parts[0] + " " + parts[1], *parts[2:]])
