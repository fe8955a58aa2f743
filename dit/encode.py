"""`python -m dit.encode`: the latents of a subset, each image and its mirror image, once."""

from core.command import execute
from dit.latents.encode import main

if __name__ == "__main__":
    execute(main)
