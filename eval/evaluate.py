"""python -m eval.evaluate: Frechet and kernel distance, and LPIPS of pairs, to one JSON file."""

from core.command import execute
from eval.judges.evaluate import main

if __name__ == "__main__":
    execute(main)
