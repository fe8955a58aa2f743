"""How well an encoder tells scenes apart: leave-one-out k-NN on a folder of classes."""

from core.command import execute
from prune.studies.descriptor_accuracy import main

if __name__ == "__main__":
    execute(main)
