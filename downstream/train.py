"""Fine-tune a pretrained DiT for super-resolution (SR) or semantic image synthesis (SIS)."""

from core.command import execute
from downstream.tasks.train import main

if __name__ == "__main__":
    execute(main)
