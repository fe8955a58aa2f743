"""Sample images from a trained DiT: a folder of PNG files, and a grid of the first ones."""

from core.command import execute
from dit.sampling.sample import main

if __name__ == "__main__":
    execute(main)
