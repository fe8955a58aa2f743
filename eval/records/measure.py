"""What eval.track does at one checkpoint: draw from fixed noise, decode, compare.

Light to import: torch and the extractor come with the first measurement.
"""

from __future__ import annotations

import dataclasses
import json
import threading
import time
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from core.atomic import atomic_path
from core.errors import UserError
from core.progress import progress
from core.stage import code_version, digest_of, sha256_file
from dit.sampling.config import SampleConfig, identifying
from dit.training.checkpoint import Weights
from eval.judges.evaluate import distances
from eval.records.record import Line

if TYPE_CHECKING:
    import numpy as np

    from data.corpus.base import Corpus
    from dit.model.transformer import DiT
    from eval.records.track import TrackConfig


class Stopped(Exception):
    """Asked to stop while at work."""


@dataclasses.dataclass(frozen=True)
class Job:
    """A checkpoint whose lines are missing for `weights`."""

    checkpoint: Path
    fingerprint: str
    state: dict[str, Any]
    weights: list[Weights]


def settings_of(config: TrackConfig, checkpoint: Path, weights: Weights) -> SampleConfig:
    """How dit.sample would be asked for the same images."""
    shared = {field.name for field in dataclasses.fields(SampleConfig)}
    values = {field.name: getattr(config, field.name) for field in dataclasses.fields(config)}
    values = {name: value for name, value in values.items() if name in shared}
    return SampleConfig(**{**values, "checkpoint": checkpoint, "weights": weights})


class Measurer:
    """VAE, extractor and the hold-out's features, loaded once.

    Args:
        config: the command's settings.
        corpus: of the hold-out's images.
        image_size: side of the generated images (pixels).
        lines: those measured before; raises UserError when it was with another extractor.
    """

    def __init__(
        self, config: TrackConfig, corpus: Corpus, image_size: int, lines: list[Line]
    ) -> None:
        from dit.diffusion.gaussian import Diffusion
        from dit.diffusion.samplers import respaced_for
        from dit.model.device import pick_device
        from dit.vae.autoencoder import load_vae
        from eval.judges.extractors import load_extractor

        self.config = config
        # Bad settings are refused before the first file binds the folder to them.
        respaced_for(config.sampler, config.steps, Diffusion())
        self.device = pick_device(config.device, settings_of(config, config.run, "ema").precision)
        self.code = code_version()
        self.extractor = load_extractor(
            config.extractor, weights=config.weights_folder, device=self.device
        )
        known = lines[-1]["extractor"] if lines else self.extractor.fingerprint
        if known != self.extractor.fingerprint:
            raise UserError(
                f"{config.out}: measured with the extractor {json.dumps(known)}, now it is "
                f"{json.dumps(self.extractor.fingerprint)}; choose another --out"
            )
        self.reference = self._reference(corpus, image_size)
        self.vae = load_vae(config.vae, self.device)

    def line(self, job: Job, weights: Weights, model: DiT, asked: threading.Event) -> Line:
        """Draw, decode and compare: one line of the record, its distance null if it diverged.

        Raises Stopped when `asked` is set while it draws, UserError when memory runs out.
        """
        import torch

        begun = time.monotonic()
        settings = settings_of(self.config, job.checkpoint, weights)
        label = f"step {job.state['step']:,} {weights}"
        distance = None
        try:
            images = self._images(settings, model.to(self.device), label, asked)
            if images is not None:
                features = self.extractor(images, label=label)
                distance = distances(self.extractor, features, self.reference)
        except torch.OutOfMemoryError as error:
            raise UserError(
                f"--device {self.device}: {error}; lower --batch {self.config.batch}, or take a "
                "GPU that the training does not use"
            ) from None
        model.to("cpu")  # makes room on the GPU for the next one
        return {
            "step": job.state["step"],
            "samples": job.state["samples"],
            "weights": weights,
            "distance": distance,
            "sampling": identifying(settings),
            "extractor": self.extractor.fingerprint,
            "checkpoint": job.fingerprint,
            "seconds": round(time.monotonic() - begun, 3),
            "device": str(self.device),
            "code": self.code,
        }

    def _images(
        self, settings: SampleConfig, model: DiT, label: str, asked: threading.Event
    ) -> np.ndarray | None:
        """The samples, uint8 [n, h, w, 3]; None where the weights give no finite ones."""
        import numpy as np

        from dit.sampling.sample import draw_latents

        parts = []
        with progress(total=settings.n, name=label, unit="img") as bar:

            def show(step: int) -> None:
                if asked.is_set():
                    raise Stopped
                bar.set_postfix_str(f"step {step}/{settings.steps}", False)

            for start in range(0, settings.n, settings.batch):
                slots = range(start, min(start + settings.batch, settings.n))
                latents = draw_latents(settings, model, slots, self.device, show)
                try:
                    images = self.vae.decode(latents)
                except UserError:  # neither are finite
                    return None
                parts.append(images[..., :3])  # what dit.sample writes as PNG
                bar.update(len(slots))
        return np.concatenate(parts)

    def _reference(self, corpus: Corpus, image_size: int) -> np.ndarray:
        """The hold-out's features [n, d], from OUT/holdout.npz if that is of these very images."""
        import numpy as np

        from eval.judges.images import read_holdout

        config, path = self.config, self.config.out / "holdout.npz"
        made_of = digest_of(
            {
                "holdout": sha256_file(config.holdout),
                "corpus": corpus.fingerprint(),
                "image_size": image_size,
                "extractor": self.extractor.fingerprint,
            }
        )
        try:
            with np.load(path) as stored:
                if str(stored["made_of"]) == made_of:
                    return stored["features"]
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
            pass  # not there, or harmed since: made below
        images = read_holdout(config.corpus, config.holdout, image_size)
        features = self.extractor(images, label="hold-out")
        with atomic_path(path) as temporary, open(temporary, "wb") as stream:
            np.savez(stream, features=features, made_of=np.array(made_of))
        return features
