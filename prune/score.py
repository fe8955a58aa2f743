"""Stage I: one pass over the corpus, one row an image.

python -m prune.score --corpus tiles --out scores
"""

from __future__ import annotations

from core.command import command, execute
from core.stage import Result, Stage, run_stage
from data.corpus.specs import open_corpus
from prune.stage1.config import ScoreConfig

__all__ = ["ScoreConfig", "run"]


def run(config: ScoreConfig) -> Result:
    """Stage I: decode every image of a corpus once; record digest and entropy."""
    corpus = open_corpus(config.corpus)

    def make(stage: Stage) -> Result:
        from prune.stage1.score import score

        return score(config, corpus, stage)

    return run_stage(config.stage(corpus), make)


main = command("prune.score", ScoreConfig, run)

if __name__ == "__main__":
    execute(main)
