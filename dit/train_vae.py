"""Train an autoencoder (AutoencoderKL) on a corpus.

    python -m dit.train_vae --corpus CORPUS --scores SCORES --out VAE
"""

from __future__ import annotations

from core.command import command, execute
from core.stage import Result, Stage, run_stage
from dit.training.processes import first_process_prints
from dit.vae.config import TrainVaeConfig

__all__ = ["TrainVaeConfig", "run"]


def run(config: TrainVaeConfig) -> Result:
    """Train an autoencoder (AutoencoderKL) on a corpus.

    For imagery that Stable Diffusion's VAE does not fit, and for runs without a network. Writes a
    folder in diffusers' layout; the latent scale, 1 / standard deviation of the posterior's
    samples measured after training, is its config's scaling_factor. Run the same command again to
    continue a run that was killed. SIGTERM or SIGUSR1 makes it write a checkpoint and exit with
    code 75: run me again. The bands are the corpus's: three, or four with near infrared.

    On one process: python -m dit.train_vae ...; on several GPUs: accelerate launch -m dit.train_vae
    ..., with the same result to rounding.
    """

    def make(stage: Stage) -> Result:
        from dit.vae.train import train_vae

        return train_vae(config, stage)

    with first_process_prints():
        return run_stage(config.stage(), make)


main = command("dit.train_vae", TrainVaeConfig, run)

if __name__ == "__main__":
    execute(main)
