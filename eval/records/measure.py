"""What eval.track does at one checkpoint: held-out loss; draw from fixed noise, decode, compare."""

from __future__ import annotations

import dataclasses
import functools
import json
import threading
import time
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError

from core.errors import UserError
from core.progress import progress
from core.stage import Stage, code_version, digest_of
from data.corpus.base import Corpus
from data.curation.holdout import read_holdout
from dit.diffusion.gaussian import Diffusion
from dit.diffusion.samplers import respaced_for
from dit.model.device import pick_device
from dit.model.transformer import DiT
from dit.sampling.config import DrawConfig, SampleConfig, identifying
from dit.sampling.sample import draw_latents, load_checked
from dit.training.checkpoint import WEIGHTS_FILES, Weights, verify
from dit.training.tracking import open_logger, wandb_mode
from dit.vae.autoencoder import load_vae
from dit.vae.images import bands_of
from eval.judges.evaluate import distances
from eval.judges.extractors import load_extractor
from eval.judges.features import features_of
from eval.judges.images import read_composite
from eval.records.config import TrackConfig
from eval.records.diffusion import TERMS, encode, losses
from eval.records.loss import Sets, read_sets
from eval.records.record import Job, Line, Stopped, as_logged

_DRAWS = 10  # timesteps of each image at which the loss is measured


def settings_of(config: TrackConfig, weights: Weights, job: Job) -> SampleConfig:
    """How dit.sample would be asked for the same images."""
    drawing = {f.name: getattr(config, f.name) for f in dataclasses.fields(DrawConfig)}
    return SampleConfig(
        checkpoint=job.checkpoint, vae=config.vae, weights=weights, out=config.out, **drawing
    )


class Measurer:
    """VAE, extractor and the hold-out's features, loaded once.

    Args:
        config: the command's settings.
        stage: open; W&B gets its params.
        corpus: of the hold-out's images.
        lines: those measured before; raises UserError when it was with another extractor.

    Raises UserError for a hold-out that is not in the table.
    """

    def __init__(
        self, config: TrackConfig, stage: Stage, corpus: Corpus, lines: list[Line]
    ) -> None:
        self.config, self._stage, self._corpus = config, stage, corpus
        self._before = list(lines)
        # Bad settings are refused before the first file binds the folder to them.
        wandb_mode()
        respaced_for(config.sampler, config.steps, Diffusion())
        if config.against != "all":
            read_holdout(config.holdout, config.against)
        self._held = read_sets(config.holdout, None, 0, config.seed)
        self.device = pick_device(config.device, config.precision)
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
        self.vae = load_vae(config.vae, self.device)

    def load(self, job: Job, weights: Weights) -> DiT:
        """The model on the CPU, checked against VAE and settings.

        Raises Damaged when its file is gone or not as written, UserError when the settings or the
        VAE do not fit it.
        """
        try:
            return load_checked(settings_of(self.config, weights, job), self.vae)
        except (UserError, OSError, SafetensorError):
            verify(job.checkpoint, only=WEIGHTS_FILES[weights])  # was it the checkpoint's fault?
            raise

    def line(self, job: Job, weights: Weights, model: DiT, asked: threading.Event) -> Line:
        """Loss, then draw, decode and compare: one line of the record.

        Its loss is null where it is not finite or not asked for, its distances are where the
        samples are not. Raises Stopped when `asked` is set, UserError when memory runs out.
        """
        begun = time.monotonic()
        image_size = model.input_size * self.vae.factor
        settings = settings_of(self.config, weights, job)
        label = f"step {job.state['step']:,} {weights}"
        found: dict[str, Any] = {}
        try:
            model.to(self.device)
            loss = self._loss(model, image_size, label, asked)
            generated = self._draw(settings, model, label, asked)
            if generated is not None:
                real = self._real(image_size)
                features = self.extractor(generated, label=label)
                for name, rows in self._held.rows.items():
                    if self.config.against in ("all", name):
                        n = min(len(rows), len(features))  # equally many on both sides
                        found[name] = distances(self.extractor, features[:n], real[rows[:n]])
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
            "distance": next(iter(found.values()), None),
            "distances": found or None,
            "loss": loss,
            "sampling": identifying(settings),
            "extractor": self.extractor.fingerprint,
            "checkpoint": job.fingerprint,
            "seconds": round(time.monotonic() - begun, 3),
            "device": self.device,
            "code": self.code,
        }

    def log(self, line: Line) -> None:
        """The line to W&B, by the names of its distances and weights."""
        self._logger.log(as_logged(line))

    def close(self, code: int) -> None:
        """End what was opened; `code` is the command's exit code."""
        if "_logger" in self.__dict__:
            self._logger.close(code)

    @functools.cached_property
    def _logger(self) -> Any:
        config = {**self._stage.params, "run": str(self.config.run)}
        earlier = [as_logged(line) for line in self._before]
        return open_logger(self.config.out, config, "track.jsonl", self._stage, earlier)

    def _draw(
        self, settings: SampleConfig, model: DiT, label: str, asked: threading.Event
    ) -> np.ndarray | None:
        """The samples, uint8 [n, h, w, 3]; None where the weights give no finite ones."""
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
                    decoded = self.vae.decode(latents)
                except UserError:  # neither are finite
                    return None
                parts.append(decoded[..., :3])  # what dit.sample writes as PNG
                bar.update(len(slots))
        return np.concatenate(parts)

    def _loss(
        self, model: DiT, image_size: int, label: str, asked: threading.Event
    ) -> dict[str, dict[str, float]] | None:
        """loss, mse and vb on each hold-out; None where one is not finite."""
        config = self.config
        if not config.loss_images:
            return None
        sets, latents = self._latents(image_size)

        def look() -> None:
            if asked.is_set():
                raise Stopped

        found = losses(
            model.eval(),
            latents,
            sets.images.keys,
            seed=config.seed,
            draws=_DRAWS,
            batch=config.batch,
            device=self.device,
            precision=config.precision,
            label=f"loss, {label}",
            on_batch=look,
        )
        if not found.finite():
            return None
        return {
            name: {
                "n": len(rows),
                **{term: float(getattr(found, term)[rows].mean()) for term in TERMS},
            }
            for name, rows in sets.rows.items()
        }

    @functools.lru_cache(maxsize=1)  # noqa: B019 (there is one measurer)
    def _latents(self, image_size: int) -> tuple[Sets, torch.Tensor]:
        """The images whose loss is measured, by hold-out, and their latents."""
        config = self.config
        sets = read_sets(config.holdout, None, config.loss_images, config.seed)
        return sets, encode(self.vae, self._corpus, sets.images, image_size, config.seed)

    @functools.lru_cache(maxsize=1)  # noqa: B019 (there is one measurer)
    def _real(self, image_size: int) -> np.ndarray:
        """Features [n, d] of the images of all hold-outs, kept in OUT/features."""
        images = self._held.images
        content = [self._corpus.fingerprint(), images.places, images.digests, image_size]
        return features_of(
            self.extractor,
            read_composite(self._corpus, images, image_size, bands_of(self._corpus, images)),
            digest=digest_of(content),
            cache=self.config.out / "features",
            label="hold-outs",
            total=len(images),
        )
