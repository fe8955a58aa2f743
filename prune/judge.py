"""Judge the pruning where the truth is known.

    python -m prune.judge --seeds 0 1 2 3 4 --tiles 3000 --out judge
    python -m prune.judge --corpus CLASSFOLDERS --reference CLASSFOLDERS --out judge
"""

from __future__ import annotations

from core.command import command, execute
from core.stage import Result
from prune.studies.config import JudgeConfig

__all__ = ["JudgeConfig", "run"]


def run(config: JudgeConfig) -> Result:
    """Judge the pruning where the truth is known: miniature worlds by default.

    A miniature world is built for each seed and asked what the paper claims: Stage I drops
    near-uniform tiles, Stage II loses no scene type that survived Stage I, and the subset is more
    balanced than a random one of its size. Exit code 1: some property did not hold. With --corpus,
    whose class folders are the truth (the pruner never sees them), class balance and coverage of
    the methods are reported, without a verdict.

    Either runs the stages themselves, so a stopped run continues where it was.
    """
    from prune.studies.judge import judge

    return judge(config)


main = command("prune.judge", JudgeConfig, run)

if __name__ == "__main__":
    execute(main)
