"""Which metrics see missing classes, at how many images: measured on real, labelled scenes.

    python -m eval.sensitivity --images SCENES --out sensitivity --n 125 500 2000
"""

from __future__ import annotations

from core.command import command, execute
from core.stage import Result, Stage, run_stage
from eval.studies.config import SensitivityConfig

__all__ = ["SensitivityConfig", "run"]


def run(config: SensitivityConfig) -> Result:
    """Every metric of two disjoint draws of the same classes, and of two of changed classes.

    In the second comparison some classes are missing from one draw. The table has each metric at
    each n with its interval, and how often it tells the two comparisons apart; so it says which
    metric to trust at which n, for images like these in this feature space.
    """
    from data.reference.sets import open_scenes

    scenes = open_scenes(config.images)

    def make(stage: Stage) -> Result:
        from eval.studies.sensitivity import sensitivity

        return sensitivity(config, scenes, stage)

    return run_stage(config.stage(scenes.fingerprint), make)


main = command("eval.sensitivity", SensitivityConfig, run)

if __name__ == "__main__":
    execute(main)
