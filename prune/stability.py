"""A stability card: how much of a subset stays when a choice that the paper leaves open changes.

    python -m prune.stability --corpus C --reference RESISC45 UCM --ratio 0.85 --out stability
"""

from __future__ import annotations

from core.command import command, execute
from core.stage import Result
from prune.studies.config import StabilityConfig

__all__ = ["StabilityConfig", "run"]


def run(config: StabilityConfig) -> Result:
    """A stability card: how much of a subset stays when a choice the paper leaves open changes.

    The stages run for a base setting and for others that differ from it in one thing: the seed of
    k-means, K, the encoder, the reference set, and the convention of Stage I's entropy. The card
    (stability.md, and stability.json for programs) gives for each the Jaccard overlap of its
    subset with the base's, |A n B| / |A u B|, beside what chance would give, and the fraction of
    the budget that came from the global remainder. Stages are shared between the settings, and a
    stopped run continues where it was.
    """
    from prune.studies.stability import stability

    return stability(config)


main = command("prune.stability", StabilityConfig, run)

if __name__ == "__main__":
    execute(main)
