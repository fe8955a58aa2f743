"""Generated images against real ones: each hold-out with its floors, and the training images.

Every comparison has the same number of images on both sides. For each hold-out H of n images:

    distance       d(generated, H)
    subset floor   d(n real training images, H): what a perfect generator of its subset would reach
    VAE floor      d(H after the VAE, H): what no generator on its latents can be expected to beat
    after the VAE  d(generated, H after the VAE), and its own subset floor: what is left when both
                   sides carry the VAE's blur, which a small VAE makes the largest part

and, where the classes of H are known, which of them are generated at all. The training images
also say, in two spaces, whether the generated ones are copies of them.

All of this is of red, green and blue. Of images of four bands the hold-outs are compared once more
in colour infrared (near infrared, red and green in their places): the networks that judge take
three bands.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from core.engines import ProcessGroup
from core.errors import UserError
from core.stage import Stage, digest_of, read_manifest
from data.corpus.specs import open_corpus
from data.curation.holdout import draw, holdout_names, read_holdout, read_named
from data.formats.index import read_index
from data.images.chips import BANDS
from data.images.composites import composite
from dit.model.device import pick_device
from dit.vae.autoencoder import load_vae, to_unit
from dit.vae.images import bands_of, batched, read_images
from dit.vae.listing import listing_of
from dit.vae.pictures import INFRARED
from eval.distances.authenticity import SIDE, authenticity, pixels
from eval.distances.manifold import class_recall
from eval.distances.measure import measure
from eval.judges.config import EvaluateConfig
from eval.judges.extractors import Extractor, load_extractor
from eval.judges.features import ImageSet
from eval.judges.images import names_of, read_composite, read_png

PIXELS = Extractor(
    "pixels",
    "pixels",
    {"name": "pixels", "preprocessing": f"area means, {SIDE} x {SIDE}"},
    prepare=lambda image: pixels(image[None])[0],
    finish=np.stack,
)
"""Small pictures as features: the space in which copies of pixels are near."""


class Sets:
    """The images of a comparison, and in which spaces their features are wanted.

    Attributes:
        bands: 4 (with near infrared) or 3, of the generated images; `real_bands` of the corpus's.
        drawn: the generated images, in RGB.
        rows: all held-out images, each once; an image may be in several hold-outs.
        holdouts: name -> the rows of a hold-out, and their places in `rows`, int64.
        training: rows of the training images, of which the first few give the floors; None without.
    """

    def __init__(self, config: EvaluateConfig, vae: str) -> None:
        assert config.generated and config.corpus and config.holdout
        self.config, self._vae = config, vae
        self._corpus, names = open_corpus(config.corpus), names_of(config.generated)
        self.generated, self._files = config.generated, read_manifest(config.generated)["files"]
        _require_size(config, names)
        self.drawn = self._pictures(names, "generated")
        in_infrared = [f"{INFRARED}/{name}" for name in names]
        self.bands = BANDS if in_infrared[0] in self._files else 3
        self.training: pa.Table | None = None
        if config.subset is not None:
            table, _ = read_index(config.subset)
            most = config.training_images or table.num_rows
            self.training = table.take(draw(table["key"].to_pylist(), most, 0))
        self.rows = read_named(config.holdout)
        place = {key: n for n, key in enumerate(self.rows["key"].to_pylist())}
        self.holdouts: dict[str, tuple[pa.Table, np.ndarray]] = {}
        for name in holdout_names(config.holdout):
            rows = read_holdout(config.holdout, name)
            at = np.array([place[key] for key in rows["key"].to_pylist()])
            self.holdouts[name] = rows, at
        if not self.holdouts:
            raise UserError(
                f"--holdout {config.holdout}: no images in it; make it with data.holdout"
            )
        self.real_bands = bands_of(self._corpus, listing_of(self.rows))
        if self.real_bands > self.bands:
            raise UserError(
                f"{config.generated}: images of three bands, but {config.corpus} has four (with "
                "near infrared); give the corpus that their VAE was trained on, CORPUS?bands=rgb, "
                "and its hold-out; or sample with a VAE of four bands"
            )
        self.composites = {"rgb": self.drawn}
        if self.real_bands == self.bands == BANDS:
            self.composites[INFRARED] = self._pictures(in_infrared, "generated, colour infrared")

    def _pictures(self, names: list[str], label: str) -> ImageSet:
        digest = digest_of([self._files[name]["sha256"] for name in names])
        return ImageSet(
            label, digest, len(names),
            lambda places: [self.generated / names[place] for place in places], read_png,
        )  # fmt: skip

    def count(self, at: np.ndarray) -> int:
        """Images on each side of the comparison with a hold-out."""
        return min(len(at), self.drawn.total)

    def few(self, n: int) -> pa.Table:
        """The n training images that give a floor."""
        assert self.training is not None
        return self.training.slice(0, n)

    def real(
        self, rows: pa.Table, *, after_vae: bool = False, shown: str = "rgb"
    ) -> ImageSet:
        """The images of a table's rows in the corpus, or what the VAE's mean latent leaves of them.

        Cropped as training images are (uint8 [S, S, 3], in the composite `shown`), and nothing
        else, so that no difference in preparation is measured as a difference in content.
        """
        config, listing, bands = self.config, listing_of(rows), self.real_bands
        # Places too: tables of version 0.1 have no digests.
        content: list[Any] = [
            self._corpus.fingerprint(), listing.places, listing.digests, config.image_size
        ]  # fmt: skip
        label = "hold-outs" if rows is self.rows else "training images"
        if shown != "rgb":
            content.append(shown)
            label += ", colour infrared"

        def read(places: range) -> Iterator[np.ndarray]:
            part = listing.take(places)
            return read_composite(self._corpus, part, config.image_size, bands, shown)

        def rebuilt(places: range) -> Iterator[np.ndarray]:
            part = listing.take(places)
            found = read_images(self._corpus, part, config.image_size, bands=bands)
            for image in reconstructed(str(config.vae), found, pick_device(config.device)):
                yield composite(image, shown)

        if not after_vae:
            return ImageSet(label, digest_of(content), len(listing), read)
        digest = digest_of([digest_of(content), self._vae])
        return ImageSet(f"{label} after the VAE", digest, len(listing), rebuilt)

    def wanted(self, extractor: Extractor) -> Iterator[tuple[ImageSet, Extractor]]:
        """Everything that `generation` asks the features of, each once."""
        counts = sorted({self.count(at) for _, at in self.holdouts.values()})
        kinds = [False, True] if self.config.vae is not None else [False]
        for shown, drawn in self.composites.items():
            yield drawn, extractor
            for after_vae in kinds:
                yield self.real(self.rows, after_vae=after_vae, shown=shown), extractor
                for n in counts if self.training is not None else ():
                    few = self.real(self.few(n), after_vae=after_vae, shown=shown)
                    yield few, extractor
        if self.training is not None:
            yield self.real(self.training), extractor
            for images in (self.drawn, self.real(self.training), self.real(self.rows)):
                yield images, PIXELS


def generation(
    config: EvaluateConfig, vae: str, group: ProcessGroup, stage: Stage
) -> dict[str, Any]:
    """The metrics of generated images: "holdouts", "authenticity", and what they depend on;
    where generated and real images are of four bands, "infrared" with the "holdouts" of its own.

    `vae` is the fingerprint of config.vae, by which features after it are kept. The processes of a
    launch share the features; all but the main one end here (DoneElsewhere). Raises UserError for
    generated images of another size.
    """
    device, cache = pick_device(config.device), config.cache_folder()
    extractor = load_extractor(config.extractor, weights=config.weights, device=device)
    sets = Sets(config, vae)
    if group.size > 1:
        for images, space in sets.wanted(extractor):
            images.make_together(space, cache, group)
    group.gather(stage)
    stage.count(sets.drawn.total)
    result: dict[str, Any] = {
        "task": "generation",
        "extractor": extractor.fingerprint,
        "holdouts": compared(sets, extractor, cache, "rgb"),
        "sampling": read_manifest(sets.generated)["params"],
    }
    if INFRARED in sets.composites:
        result["infrared"] = {"holdouts": compared(sets, extractor, cache, INFRARED)}
    if sets.training is not None:
        # Unseen, and drawn from all that could be seen: the pool hold-out, or the first there is.
        unseen = next(at for _, at in sets.holdouts.values() if len(at))
        result["authenticity"] = {
            space.space: authenticity(
                sets.drawn.features(space, cache),
                sets.real(sets.training).features(space, cache),
                sets.real(sets.rows).features(space, cache)[unseen],
            )
            for space in (extractor, PIXELS)
        }
    return result


def compared(sets: Sets, extractor: Extractor, cache: Path, shown: str) -> dict[str, Any]:
    """Each hold-out's distances and floors, in one composite of the images."""
    drawn = sets.composites[shown].features(extractor, cache)
    every = sets.real(sets.rows, shown=shown).features(extractor, cache)
    rebuilt_every = None
    if sets.config.vae is not None:
        rebuilt_every = sets.real(sets.rows, after_vae=True, shown=shown).features(extractor, cache)

    holdouts: dict[str, Any] = {}
    for name, (rows, at) in sets.holdouts.items():
        n = sets.count(at)
        real = every[at[:n]]
        compare = functools.partial(measure, extractor.space)
        entry: dict[str, Any] = {"distance": compare(drawn[:n], real)}
        few = None if sets.training is None else sets.few(n)
        if few is not None:
            given = sets.real(few, shown=shown).features(extractor, cache)
            entry["subset_floor"] = compare(given, real[: len(given)])
        if rebuilt_every is not None:
            rebuilt = rebuilt_every[at[:n]]
            entry["vae_floor"] = compare(rebuilt, real)
            entry["after_vae"] = {"distance": compare(drawn[:n], rebuilt)}
            if few is not None:
                given = sets.real(few, after_vae=True, shown=shown).features(extractor, cache)
                entry["after_vae"]["subset_floor"] = compare(given, rebuilt[: len(given)])
        classes = rows["class"].to_pylist()[:n]
        if all(classes) and len({*classes}) > 1:
            entry["classes"] = class_recall(drawn[:n], real, classes)
            if "after_vae" in entry:
                entry["after_vae"]["classes"] = class_recall(drawn[:n], rebuilt, classes)
        if len(at) != len(drawn):
            entry["note"] = f"the first {n:,} of {len(drawn):,} generated, {len(at):,} real"
        holdouts[name] = entry
    return holdouts


def reconstructed(vae_path: str, images: Iterator[np.ndarray], device: str) -> Iterator[np.ndarray]:
    """What is left of images uint8 [h, w, bands] after the VAE's mean latent, one by one.

    Raises UserError for a VAE of other bands than theirs.
    """
    vae = load_vae(vae_path, device=device)
    for batch in batched(images, 16):
        if vae.in_channels != batch.shape[3]:
            raise UserError(
                f"--vae {vae_path}: takes {vae.in_channels} bands, and the corpus's images have "
                f"{batch.shape[3]}; give the VAE that encoded them (of a corpus of four bands "
                "CORPUS?bands=rgb gives three), or leave --vae out"
            )
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
