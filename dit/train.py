"""Train a DiT on a latent store (Sec. 4 of the paper; DiT's recipe, unconditional by default)."""

from core.command import execute
from dit.training.train import main

if __name__ == "__main__":
    execute(main)
