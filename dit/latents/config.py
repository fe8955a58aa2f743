"""Settings of dit.encode. Light to import: no torch."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from core.engines import Engine
from core.errors import UserError
from core.settings import AtLeast1, machine, place, settings
from core.stage import require_folder
from dit.vae.autoencoder import SD_VAE, describe_vae

if TYPE_CHECKING:
    from dit.latents.shards import StoreStage


@settings
class EncodeConfig:
    """Settings of dit.encode."""

    corpus: str = place()
    """Corpus that the subset was chosen from, as prune.score takes it."""
    subset: Path
    """Subset index (Parquet) from python -m prune.select: its images are encoded."""
    out: Path
    """Folder of the latent store: one for a corpus, a VAE and an image size, whatever the subset;
    images that are there already are not encoded again."""
    vae: str = machine(SD_VAE)
    """VAE: a diffusers folder or a hub id. Its fingerprint, weights and scale, is recorded."""
    image_size: AtLeast1 = 256
    """Side to which images are resized and centre-cropped (pixels)."""
    shard_rows: AtLeast1 = machine(2048)
    """Images in a new shard file; a killed run loses at most one."""
    batch: AtLeast1 = machine(32)
    """Images read at a time, and views (images and mirror images) that the VAE encodes at a time
    (machine setting; another one may move latents by rounding)."""
    workers: AtLeast1 = machine(2)
    """Threads that decode images."""
    device: str = machine("auto")
    """Torch device: auto, cpu, cuda, cuda:1, ..."""
    engine: Engine = machine("local")
    """Where shards are made (machine setting). local: here, or by all processes of an `accelerate
    launch`, each on its GPU. ray: on a Ray cluster."""
    ray_address: str | None = machine(None)
    """The cluster's head: auto, host:port. Default: Ray started on this machine."""

    def stage(self) -> StoreStage:
        """What the command makes of what."""
        from dit.latents.shards import StoreStage  # pyarrow: --help need not wait for it

        require_folder(self.out)
        vae = describe_vae(self.vae)
        if vae.in_channels not in (3, 4):
            raise UserError(
                f"{self.vae}: takes {vae.in_channels} bands; give a VAE of 3 (RGB), or of 4 for a "
                "corpus of chips with near infrared"
            )
        return StoreStage(self.out, vae, self.image_size, self.subset)
