"""Export a trained DiT as a diffusers folder that gives our outputs, not merely similar ones."""

from core.command import execute
from dit.sampling.export import main

if __name__ == "__main__":
    execute(main)
