"""`python -m dit.train_vae`: train an autoencoder (AutoencoderKL) on a corpus."""

from core.command import execute
from dit.vae.train import main

if __name__ == "__main__":
    execute(main)
