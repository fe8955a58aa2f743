"""Frechet and kernel distance, and LPIPS of pairs, to one JSON file.

    python -m eval.evaluate --generated SAMPLES --corpus C --holdout H --out metrics.json
    python -m eval.evaluate --pairs FOLDER --out metrics.json
"""

from __future__ import annotations

from core.command import command, execute
from core.engines import quiet_unless_main
from core.stage import Result, Stage, run_stage
from eval.judges.config import EvaluateConfig

__all__ = ["EvaluateConfig", "run"]


def run(config: EvaluateConfig) -> Result:
    """Frechet distance, kernel distance and, for pairs, LPIPS; counts stated.

    Generated images are compared with the real ones of the hold-out, which take the training
    transform and nothing else. Pairs are the images of downstream.evaluate. Under `accelerate
    launch` the processes share the images, each on its GPU; the result is the same.
    """

    def make(stage: Stage) -> Result:
        from eval.judges.evaluate import evaluate

        return evaluate(config, stage)

    quiet_unless_main()
    return run_stage(config.stage(), make)


main = command("eval.evaluate", EvaluateConfig, run)

if __name__ == "__main__":
    execute(main)
