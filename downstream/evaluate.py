"""`python -m downstream.evaluate`: draw the held-out images of a fine-tuned SR or SIS model."""

from core.command import execute
from downstream.tasks.evaluate import main

if __name__ == "__main__":
    execute(main)
