"""A VAE's reconstructions of held-out images, beside the originals.

The figures of each band are those of dit/vae/quality.py. The distance (rFID of Inception, or
another judge's) is that of the reconstructions from the originals, of equally many on both sides,
on red, green and blue; of four bands once more in colour infrared.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from PIL import Image

from core.atomic import atomic_path, write_json
from core.errors import UserError
from core.stage import Result, Stage
from data.corpus.base import keep_apart
from data.corpus.specs import open_corpus
from data.curation.holdout import holdout_names, read_holdout, read_named
from data.images.chips import BANDS
from data.images.composites import composite
from dit.model.device import pick_device
from dit.vae.autoencoder import load_vae, to_unit
from dit.vae.images import bands_of, batched, read_images
from dit.vae.listing import listing_of
from dit.vae.pictures import INFRARED, beside
from dit.vae.quality import Quality
from eval.distances.measure import measure
from eval.judges.config import ReconstructionConfig
from eval.judges.extractors import load_extractor
from eval.judges.images import check_holdout

SHOWN = 8  # images of the sheet
_BATCH = 16


def reconstruction(config: ReconstructionConfig, stage: Stage) -> Result:
    """Write the metrics file: {"task", "extractor", "bands", "holdouts": {name: {"quality", "rgb",
    "infrared" (of four bands)}}}, and the sheet. Every image goes through the VAE once.

    Raises UserError for a VAE of other bands than the corpus's.
    """
    corpus = open_corpus(config.corpus)
    keep_apart(config.out.parent, corpus, config.corpus)
    check_holdout(corpus, config.holdout)
    rows = read_named(config.holdout)
    if not rows.num_rows:
        raise UserError(f"--holdout {config.holdout}: no images in it; make it with data.holdout")
    images, device = listing_of(rows), pick_device(config.device)
    vae, bands = load_vae(config.vae, device), bands_of(corpus, listing_of(rows))
    if vae.in_channels != bands:
        raise UserError(
            f"--vae {config.vae}: takes {vae.in_channels} bands, and the images of "
            f"{config.corpus} have {bands}; give the VAE that was trained on them "
            "(of a corpus of four bands CORPUS?bands=rgb gives three)"
        )
    vae.latent_shape(config.image_size)
    extractor = load_extractor(config.extractor, weights=config.weights, device=device)
    stage.open()
    names = holdout_names(config.holdout)
    members = {n: set(read_holdout(config.holdout, n)["key"].to_pylist()) for n in names}
    qualities = {name: Quality() for name in names}
    shown = ["rgb", INFRARED] if bands == BANDS else ["rgb"]
    parts: dict[tuple[str, int], list[np.ndarray]] = {(s, k): [] for s in shown for k in (0, 1)}
    sheet: tuple[np.ndarray, np.ndarray] | None = None

    def rebuilt() -> Iterator[tuple[np.ndarray, np.ndarray]]:
        found = read_images(corpus, images, config.image_size, bands=bands, taker=config.vae)
        for batch in batched(found, _BATCH):
            mean, _ = vae.encode(to_unit(batch))
            yield batch, vae.decode(mean * vae.scale)

    start = 0
    for pair in rebuilt():
        keys = images.keys[start : start + len(pair[0])]
        start += len(keys)
        for name, quality in qualities.items():
            inside = np.array([key in members[name] for key in keys])
            if inside.any():
                quality.add(pair[0][inside], pair[1][inside])
        for (picture, side), found in parts.items():
            pictures = composite(pair[side], picture)
            found.append(extractor(pictures, label=f"reconstruction, {picture}"))
        if sheet is None:
            sheet = pair[0][:SHOWN], pair[1][:SHOWN]
    stage.count(start)
    features = {key: np.concatenate(found) for key, found in parts.items()}
    holdouts: dict[str, Any] = {}
    for name, quality in qualities.items():
        at = [row for row, key in enumerate(images.keys) if key in members[name]]
        holdouts[name] = {"quality": quality.result()} | {
            s: {"distance": measure(extractor.space, features[s, 1][at], features[s, 0][at])}
            for s in shown
        }
    result = {
        "task": "reconstruction", "extractor": extractor.fingerprint, "bands": bands,
        "vae": vae.record(), "image_size": config.image_size, "holdouts": holdouts,
    }  # fmt: skip
    assert sheet is not None
    path = config.out.with_suffix(".png")
    lines = [np.concatenate(list(beside(side)), axis=1) for side in sheet]
    with atomic_path(path) as temporary:
        Image.fromarray(np.concatenate(lines)).save(temporary, format="PNG")
    write_json(config.out, result)
    said = [f"{name} {entry['quality']['psnr']:.2f} dB" for name, entry in holdouts.items()]
    line = f"reconstruction: {', '.join(said)}"
    return stage.finish({"result": result}, [config.out.name, path.name], line)
