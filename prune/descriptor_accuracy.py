"""How well an encoder tells scenes apart: leave-one-out k-NN on a folder of classes.

    python -m prune.descriptor_accuracy --images CLASSFOLDERS
"""

from __future__ import annotations

from core.command import command, execute
from core.stage import Result
from prune.studies.config import AccuracyConfig

__all__ = ["AccuracyConfig", "run"]


def run(config: AccuracyConfig) -> Result:
    """Leave-one-out k-NN accuracy of an encoder on a folder of classes.

    A check of an encoder before anything is pruned with it: every image is given the majority
    label of its k nearest neighbours among all the others, by cosine.
    """
    from prune.studies.descriptor_accuracy import accuracy

    return accuracy(config)


main = command("prune.descriptor_accuracy", AccuracyConfig, run)

if __name__ == "__main__":
    execute(main)
