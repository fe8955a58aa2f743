"""Settings of prune.embed. Light to import: no array library."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Literal

from core.engines import Engine
from core.errors import UserError
from core.parallel import available_cpus
from core.settings import AtLeast0, AtLeast1, Fraction, machine, place, science, settings
from core.stage import Stage, digest_of, fingerprint, require_folder
from data.reference.sets import Scenes, open_scenes
from prune.encoders.base import Device, Encoder, Precision, open_encoder

DIGESTS = ".weights.json"  # in the output folder: weight digests, so as to hash large files once


@settings
class EmbedConfig:
    """Settings of an embedding. Give --corpus with --scores, or --reference."""

    out: Path
    """Output folder: the embeddings, parts of 4,096 rows."""
    corpus: str | None = place(None)
    """Corpus that was scored, as prune.score takes it. It is only read."""
    scores: Path | None = None
    """Score table of that corpus: a folder that prune.score made."""
    holdout: Path | None = None
    """Hold-out file of data.holdout; its images and their exact copies leave the pool."""
    reference: tuple[str, ...] = place(())
    """Reference set instead of a corpus (D_ref): class folders or Parquet with labels, FOLDER or
    ucm:FOLDER, several together, or union5: as in Table 4; python -m data.scenes lists them."""
    keep: Fraction = 0.30
    """Stage I: fraction of the pool kept, by entropy, in (0, 1] (Sec. 4.4.1; the paper's best is
    0.30). 1 embeds all of the pool, as baselines without Stage I need. Not used by --reference."""
    sample: AtLeast0 = 0
    """Only this many of the images kept, those with the smallest SHA-256 of '0|key'; 0: all. For
    data.holdout --embeddings, which needs some of a large corpus. Not used by --reference."""
    composite: Literal["rgb", "infrared"] = "rgb"
    """The three bands that the encoder sees. infrared: near infrared, red, green, of chips of four
    bands. Its embeddings may be assigned to centroids of a reference in true colours, with a note:
    vegetation is red in them."""
    encoder: str = "descriptor"
    """descriptor: colour and texture, training-free, nothing to download. git-rsclip: the paper's
    encoder."""
    weights: str | None = machine(None)
    """Weights of the encoder: local folder, or Hugging Face repository. Default: the encoder's own
    repository. (Their digest, not their place, is part of the result's fingerprint.)"""
    revision: str | None = machine(None)
    """Commit, tag or branch of the Hugging Face repository."""
    workers: AtLeast1 = machine(available_cpus())
    """Processes that decode (machine setting)."""
    batch: AtLeast1 = machine(64)
    """Images a batch (machine setting; may move features by rounding)."""
    device: Device = machine("auto")
    """Where the encoder runs (machine setting). auto: a GPU if there is one."""
    precision: Precision = machine("auto")
    """Arithmetic of the encoder (machine setting). auto: fp32 on CPU, bf16 on GPU."""
    engine: Engine = machine("local")
    """Where parts are made (machine setting). local: here, or by all processes of an `accelerate
    launch`, each on its GPU. ray: on a Ray cluster."""
    ray_address: str | None = machine(None)
    """The cluster's head: auto, host:port. Default: Ray started on this machine."""

    def open(self) -> tuple[Encoder, Scenes | None]:
        """Find the encoder, and list the reference set if there is one.

        Raises UserError for settings that do not go together, and for what is not there.
        """
        if bool(self.reference) == (self.corpus is not None):
            raise UserError("give either --corpus with --scores, or --reference")
        if self.reference and (self.scores or self.holdout):
            raise UserError("--scores and --holdout belong to --corpus; a reference has neither")
        if self.reference and self.composite != "rgb":
            raise UserError("--composite infrared is of a corpus: reference sets have true colours")
        if self.corpus is not None and self.scores is None:
            raise UserError("--corpus needs --scores: run python -m prune.score first")
        require_folder(self.out)
        encoder = open_encoder(self.encoder, self.weights, self.revision, self.out / DIGESTS)
        if not self.reference:
            return encoder, None
        scenes = open_scenes(self.reference)
        for folder in (Path(part.place.where) for part in scenes.parts):
            if self.out.resolve().is_relative_to(folder.resolve()):
                raise UserError(
                    f"--out {self.out} lies inside {folder}, among its images; move it out"
                )
        for note in scenes.notes:
            print(f"[prune.embed] note: {note}", file=sys.stderr)
        return encoder, scenes

    def stage(self, opened: tuple[Encoder, Scenes | None] | None = None) -> Stage:
        """What the command makes of what; `opened` is what `open` gave, where it has run."""
        encoder, scenes = opened or self.open()
        inputs, params = {"encoder": digest_of(encoder.core())}, science(self)
        if self.composite == "rgb":  # as earlier versions, which knew no other
            del params["composite"]
        if scenes is not None:
            inputs["reference"] = scenes.fingerprint
            del params["keep"], params["sample"]
        else:
            if not self.sample:  # as earlier versions, which had no such setting
                del params["sample"]
            assert self.scores is not None
            inputs["scores"] = fingerprint(self.scores)
            inputs["holdout"] = "none" if self.holdout is None else fingerprint(self.holdout)
        return Stage(self.out, "prune.embed", params, inputs)
