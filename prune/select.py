"""Write a subset index, or one for each of several ratios: which images to train on."""

from core.command import execute
from prune.subsets.select import main

if __name__ == "__main__":
    execute(main)
