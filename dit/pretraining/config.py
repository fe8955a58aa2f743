"""Settings of dit.train. Light to import: no torch."""

from __future__ import annotations

from pathlib import Path

from core.errors import UserError
from core.settings import machine, science, settings
from core.stage import require_folder, sha256_file
from dit.training.checkpoint import Weights, trained_on
from dit.training.checkpoint import fingerprint as checkpoint_fingerprint
from dit.training.config import BelowOne, TrainConfig
from dit.training.stage import TrainingStage


@settings
class DitConfig(TrainConfig):
    """Settings of dit.train."""

    latents: Path
    """Latent store from python -m dit.encode."""
    subset: Path | None = None
    """Subset index (Parquet): train on its images, in its order. All of the store without it."""
    out: Path
    """Run folder."""
    model: str = "DiT-XL/2"
    """Network: DiT-XL/2 (the paper's), DiT-L/2, DiT-B/2, DiT-S/2, DiT-mini/2 or
    DiT-mini/4 (those two for a CPU)."""
    freq_shift: int = 0
    """Timestep frequencies: 0 as published; 1 as in diffusers, for an export without a patch."""
    labels: Path | None = None
    """Parquet or CSV with columns key and label: train class-conditionally. Unconditional without
    it. The classes' names go with the checkpoint."""
    class_dropout: BelowOne = 0.1
    """With --labels: chance that a label becomes the null class, for classifier-free guidance."""
    init: Path | None = None
    """Start from these weights: a run folder, a checkpoint, or a file in the published DiT format.
    A class-conditional one becomes unconditional (as its null class) unless there are --labels."""
    init_weights: Weights = "ema"
    """Which weights of --init, its average or the raw ones."""
    vae: str = machine("")
    """VAE of the latents, a folder or a hub id; only --sample-every needs it."""
    is_done: bool = machine(False)
    """Train nothing; exit with 0 when the run is finished, 3 when work is left, 2 when these
    settings are refused."""

    def stage(self) -> TrainingStage:
        """What the command makes of what."""
        from dit.latents.shards import latents_fingerprint  # pyarrow: --help need not wait for it

        require_folder(self.out)
        if self.sample_every and not self.vae:
            raise UserError("--sample-every needs --vae, which made the latents")
        params = science(self)
        inputs = {"latents": latents_fingerprint(self.latents, self.subset)}
        if self.labels is None:
            del params["class_dropout"]
        elif not self.labels.is_file():
            raise UserError(f"--labels {self.labels}: no such file")
        else:
            inputs["labels"] = sha256_file(self.labels)
        if self.init is None:
            del params["init_weights"]
        else:
            inputs["init"] = checkpoint_fingerprint(self.init)
        hints = {"init": trained_on(self.init)} if self.init is not None else None
        return TrainingStage(self.out, "dit.train", params, inputs, hints=hints)
