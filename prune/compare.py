"""Compare the methods on a corpus whose classes are known, without training anything.

    python -m prune.compare --corpus CLASSFOLDERS --reference CLASSFOLDERS --out compare
"""

from __future__ import annotations

from core.command import command, execute
from core.stage import Result
from prune.studies.config import CompareConfig

__all__ = ["CompareConfig", "run"]


def run(config: CompareConfig) -> Result:
    """Compare the methods on a corpus whose classes are known, without training anything.

    The stages run once (score, embed, centroids, assign, hierarchy) and every method selects from
    what they wrote. The classes are the corpus's folders, or those of --labels; no method sees
    them. A stopped run continues where it was.
    """
    from prune.studies.compare import compare

    return compare(config)


main = command("prune.compare", CompareConfig, run)

if __name__ == "__main__":
    execute(main)
