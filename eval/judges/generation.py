"""Generated images against real ones: each hold-out with its floors, and the training images.

Every comparison has the same number of images on both sides. For each hold-out H of n images:

    distance       d(generated, H)
    subset floor   d(n real training images, H): what a perfect generator of its subset would reach
    VAE floor      d(H after the VAE, H): what no generator on its latents can be expected to beat
    after the VAE  d(generated, H after the VAE), and its own subset floor: what is left when both
                   sides carry the VAE's blur, which a small VAE makes the largest part

and, where the classes of H are known, which of them are generated at all. The training images
also say, in two spaces, whether the generated ones are copies of them.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow as pa

from core.errors import UserError
from core.stage import digest_of, read_manifest
from data.corpus.base import Corpus
from data.corpus.specs import open_corpus
from data.curation.holdout import draw, holdout_names, read_holdout
from data.formats.index import read_index
from dit.model.device import pick_device
from dit.vae.autoencoder import load_vae, to_unit
from dit.vae.images import batched, read_images
from dit.vae.listing import listing_of
from eval.distances.authenticity import SIDE, authenticity, pixels
from eval.distances.manifold import class_recall
from eval.distances.measure import measure
from eval.judges.config import EvaluateConfig
from eval.judges.extractors import Extractor, load_extractor
from eval.judges.features import features_of
from eval.judges.images import names_of, read_png

PIXELS = Extractor(
    "pixels",
    "pixels",
    {"name": "pixels", "preprocessing": f"area means, {SIDE} x {SIDE}"},
    prepare=lambda image: pixels(image[None])[0],
    finish=np.stack,
)
"""Small pictures as features: the space in which copies of pixels are near."""


class RealImages:
    """The images of a table's rows in a corpus, and their features in a space, made once."""

    def __init__(
        self, corpus: Corpus, rows: pa.Table, config: EvaluateConfig, name: str
    ) -> None:
        self.rows, self.name, self._config, self._corpus = rows, name, config, corpus
        listing = listing_of(rows)  # places too: tables of version 0.1 have no digests
        content = [corpus.fingerprint(), listing.places, listing.digests, config.image_size]
        self.digest = digest_of(content)

    def __len__(self) -> int:
        return self.rows.num_rows

    def images(self) -> Iterator[np.ndarray]:
        """Cropped as training images are, one by one, uint8 [S, S, 3].

        The training transform (resize, crop) and nothing else, so that no difference in
        preparation is measured as a difference in content.
        """
        return read_images(self._corpus, listing_of(self.rows), self._config.image_size)

    def features(self, extractor: Extractor) -> np.ndarray:
        return features_of(
            extractor, self.images(), digest=self.digest, cache=self._config.cache_folder(),
            label=self.name, total=len(self),
        )  # fmt: skip

    def after_vae(self, extractor: Extractor, vae: str, fingerprint: str) -> np.ndarray:
        """Features of what is left of the images after the VAE's mean latent."""
        return features_of(
            extractor, reconstructed(vae, self.images(), pick_device(self._config.device)),
            digest=digest_of([self.digest, fingerprint]), cache=self._config.cache_folder(),
            label=f"{self.name} after the VAE", total=len(self),
        )  # fmt: skip


def generation(config: EvaluateConfig, vae: str) -> dict[str, Any]:
    """The metrics of generated images: "holdouts", "authenticity", and what they depend on.

    `vae` is the fingerprint of config.vae, by which features after it are kept. Raises UserError
    for generated images of another size.
    """
    assert config.generated and config.corpus and config.holdout
    device = pick_device(config.device)
    extractor = load_extractor(config.extractor, weights=config.weights, device=device)
    corpus, names = open_corpus(config.corpus), names_of(config.generated)
    samples = read_manifest(config.generated)
    _require_size(config, names)
    read = functools.partial(
        features_of, images=[config.generated / name for name in names], decode=read_png,
        digest=digest_of([samples["files"][name]["sha256"] for name in names]),
        cache=config.cache_folder(), label="generated",
    )  # fmt: skip
    drawn = read(extractor)
    training = None
    if config.subset is not None:
        table, _ = read_index(config.subset)
        most = config.training_images or table.num_rows
        places = draw(table["key"].to_pylist(), most, 0)
        training = RealImages(corpus, table.take(places), config, "training images")

    # An image may be in several hold-outs: each is looked at once.
    held = RealImages(corpus, read_holdout(config.holdout), config, "hold-outs")
    place = {key: n for n, key in enumerate(held.rows["key"].to_pylist())}
    every = held.features(extractor)
    rebuilt_every = None
    if config.vae is not None:
        rebuilt_every = held.after_vae(extractor, config.vae, vae)

    holdouts: dict[str, Any] = {}
    unseen: np.ndarray = np.arange(0)  # places of the pool hold-out, or of the first there is
    for name in holdout_names(config.holdout):
        rows = read_holdout(config.holdout, name)
        at = np.array([place[key] for key in rows["key"].to_pylist()])
        unseen = unseen if len(unseen) else at
        n = min(len(at), len(drawn))
        real = every[at[:n]]
        compare = functools.partial(measure, extractor.space)
        entry: dict[str, Any] = {"distance": compare(drawn[:n], real)}
        few = None
        if training is not None:
            few = RealImages(corpus, training.rows.slice(0, n), config, "training images")
            given = training.features(extractor)[: len(few)]
            entry["subset_floor"] = compare(given, real[: len(few)])
        if config.vae is not None and rebuilt_every is not None:
            rebuilt = rebuilt_every[at[:n]]
            entry["vae_floor"] = compare(rebuilt, real)
            entry["after_vae"] = {"distance": compare(drawn[:n], rebuilt)}
            if few is not None:
                given = few.after_vae(extractor, config.vae, vae)
                entry["after_vae"]["subset_floor"] = compare(given, rebuilt[: len(few)])
        classes = rows["class"].to_pylist()[:n]
        if all(classes) and len({*classes}) > 1:
            entry["classes"] = class_recall(drawn[:n], real, classes)
            if "after_vae" in entry:
                entry["after_vae"]["classes"] = class_recall(drawn[:n], rebuilt, classes)
        if len(at) != len(drawn):
            entry["note"] = f"the first {n:,} of {len(drawn):,} generated, {len(at):,} real"
        holdouts[name] = entry
    if not holdouts:
        raise UserError(f"--holdout {config.holdout}: no images in it; make it with data.holdout")

    result: dict[str, Any] = {
        "task": "generation",
        "extractor": extractor.fingerprint,
        "holdouts": holdouts,
        "sampling": samples["params"],
    }
    if training is not None:
        # Unseen, and drawn from all that could be seen.
        result["authenticity"] = {
            space.space: authenticity(
                read(space), training.features(space), held.features(space)[unseen]
            )
            for space in (extractor, PIXELS)
        }
    return result


def reconstructed(vae_path: str, images: Iterator[np.ndarray], device: str) -> Iterator[np.ndarray]:
    """What is left of images uint8 [h, w, 3] after the VAE's mean latent, one by one.

    Raises UserError for a VAE of other bands than RGB.
    """
    vae = load_vae(vae_path, device=device)
    if vae.in_channels != 3:
        raise UserError(
            f"--vae {vae_path}: takes {vae.in_channels} bands, and the hold-out is compared in "
            "RGB; leave --vae out"
        )
    for batch in batched(images, 16):
        mean, _ = vae.encode(to_unit(batch))
        yield from vae.decode(mean * vae.scale)


def _require_size(config: EvaluateConfig, names: list[str]) -> None:
    """Raise UserError where the first image is not of --image-size; the others are its equals."""
    assert config.generated is not None
    height, width = read_png(config.generated / names[0]).shape[:2]
    if (height, width) != (config.image_size, config.image_size):
        raise UserError(
            f"{config.generated}: images of {width} x {height} px, but --image-size is "
            f"{config.image_size}"
        )
