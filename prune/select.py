"""Subset indices: which images to train on.

    python -m prune.select --method rsprune --scores S --assignments A --ratio 0.85 --keep 0.30 \\
        --holdout holdout.parquet --out subsets/rsprune_85.parquet
    python -m prune.select --method random --scores S --ratio 0.85 --out subsets/random_85.parquet
    python -m prune.select --method rsprune --scores S --assignments A \\
        --ratio 0.5 0.75 0.85 --out 'subsets/rsprune_{ratio}.parquet'

docs/methods.md describes the methods.
"""

from __future__ import annotations

from core.command import command, execute
from core.stage import Result
from prune.subsets.config import SelectConfig

__all__ = ["SelectConfig", "run"]


def run(config: SelectConfig) -> Result:
    """Write a subset index, or one for each of several ratios: which images to train on.

    The result's summary is the index's metadata; with several ratios, that of each by its path.
    """
    from prune.subsets.select import select

    return select(config)


main = command("prune.select", SelectConfig, run)

if __name__ == "__main__":
    execute(main)
