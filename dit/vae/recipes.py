"""Autoencoder recipes: what defines a VAE and its training, beside the data."""

from __future__ import annotations

import dataclasses
from typing import Literal

from dit.training.config import Schedule, schedule_factor

Perceptual = Literal["gradient", "lpips-vgg", "lpips-alex", "efficientnet-lite0", "none"]
SMALLEST = 24
"""Pixels a side of what the discriminator can judge."""
_FLOOR = 0.02  # of the cosine: the last steps still learn


@dataclasses.dataclass(frozen=True)
class Recipe:
    """What defines a VAE and its training, beside the data. See PRESETS."""

    block_out_channels: tuple[int, ...]
    """Channels at each resolution; their number less one is the halvings: factor 2**(n - 1)."""
    layers_per_block: int
    """Residual blocks of each encoder level (the decoder has one more)."""
    norm_groups: int
    """Groups of every GroupNorm."""
    mid_attention: bool
    """Self-attention at the lowest resolution."""
    start: Literal["random", "pyramid"]
    """Initial weights: diffusers' own, or those of dit.vae.init."""
    crop: int
    """Side of the random training crops (pixels)."""
    batch: int
    """Crops in a step."""
    steps: int
    """Optimizer steps."""
    learning_rate: float
    """Adam's rate."""
    warmup: int
    """Steps of linear warm-up."""
    schedule: Schedule
    """constant, or cosine: half a cosine down to a fiftieth."""
    beta1: float
    """Adam's first beta."""
    beta2: float
    """Adam's second beta."""
    perceptual: Perceptual
    """See dit.vae.losses."""
    perceptual_weight: float
    """Against L1."""
    adversarial_start: int
    """First step (1-based) of the patch discriminator; 0: never."""
    validate_every: int
    """Steps."""
    log_every: int
    """Steps between lines of stats.jsonl."""
    kl_weight: float = 1e-6
    """KL summed over the latent, against the reconstruction summed over pixels."""
    adversarial_weight: float = 0.5
    """Times the adaptive weight."""
    latent_channels: int = 4
    """Channels of the latent."""
    half: bool = False
    """Weights are written as float16, half the file; scale and quality are those of the written."""
    ema_decay: float = 0.995
    """Decay of the weights' moving average in a step; min(decay, (1 + s) / (10 + s)) at step s."""
    normalised_together: int = 4
    """Images that share the discriminator's batch statistics; a micro batch is a multiple of it."""

    def rate(self, step: int) -> float:
        """Adam's rate at a step (1-based): linear warm-up, then constant or half a cosine."""
        rate = self.learning_rate * min(1.0, step / max(1, self.warmup))
        return rate * schedule_factor(self.schedule, step - 1, self.steps, _FLOOR)

    def adversarial(self, step: int) -> bool:
        """Whether the discriminator takes part in a step (1-based)."""
        return 0 < self.adversarial_start <= step


PRESETS = {
    # Small enough for two CPU cores: f = 4, so 64 px become 16 x 16 x 4; trained on 32-px crops.
    "mini": Recipe(
        block_out_channels=(16, 32, 64),
        layers_per_block=1,
        norm_groups=2,
        mid_attention=False,
        start="pyramid",
        crop=32,
        batch=8,
        steps=600,
        learning_rate=4e-4,
        warmup=20,
        schedule="cosine",
        beta1=0.5,
        beta2=0.99,
        perceptual="gradient",
        perceptual_weight=0.5,
        adversarial_start=0,
        validate_every=200,
        log_every=10,
    ),
    # The paper's geometry in small: f = 8, so 64 px become 8 x 8 x 4. dit/vae/shipped has it,
    # a quarter of an hour of two CPU cores; few channels at full size, where most of the time goes.
    "mini-f8": Recipe(
        block_out_channels=(16, 32, 64, 112),
        layers_per_block=1,
        norm_groups=2,
        mid_attention=False,
        start="pyramid",
        crop=64,
        batch=8,
        steps=1600,
        learning_rate=5e-4,
        warmup=20,
        schedule="cosine",
        beta1=0.5,
        beta2=0.99,
        perceptual="gradient",
        perceptual_weight=0.5,
        adversarial_start=0,
        validate_every=200,
        log_every=20,
        half=True,
    ),
    # The first stage of latent diffusion with f = 8, z = 4 (Rombach et al. 2022): channels 128
    # times 1, 2, 4, 4, two residual blocks; rate 4.5e-6 times batch 24; GAN after 50K steps.
    "kl-f8": Recipe(
        block_out_channels=(128, 256, 512, 512),
        layers_per_block=2,
        norm_groups=32,
        mid_attention=True,
        start="random",
        crop=256,
        batch=24,
        steps=100_000,
        learning_rate=1.08e-4,
        warmup=0,
        schedule="constant",
        beta1=0.5,
        beta2=0.9,
        perceptual="lpips-vgg",
        perceptual_weight=1.0,
        adversarial_start=50_001,
        validate_every=2_500,
        log_every=50,
        ema_decay=0.9999,
        normalised_together=6,  # so that 24 crops divide among four GPUs
    ),
}
