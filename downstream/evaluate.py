"""Draw the held-out images of a fine-tuned SR or SIS model.

    python -m downstream.evaluate --run RUN --data ROOT --out OUT
"""

from __future__ import annotations

from core.command import command, execute
from core.engines import quiet_unless_main
from core.stage import Result, Stage, run_stage
from dit.training.checkpoint import pinned
from downstream.tasks.config import EvaluateConfig

__all__ = ["EvaluateConfig", "run"]


def run(config: EvaluateConfig) -> Result:
    """Draw the held-out images of a fine-tuned SR or SIS model.

    Writes three folders of PNGs with the same names, for eval.evaluate --pairs to compare:
    OUT/generated/NAME.png, the model's image; OUT/target/NAME.png, the real image (SR: high
    resolution), the same crop; OUT/condition/NAME.png, what the model saw (SR: the enlarged
    low-resolution image; SIS: the mask in its palette's colours). OUT/grid.png shows some rows of
    condition | generated | target. The noise of an image is a function of the seed, the image's key
    and the crop's place, so a stopped run goes on where it was.

    --crops whole draws images of any size by overlapping windows of the training's size; the files
    of a --segmenter are joined by OUT/adherence.json. Under `accelerate launch` the processes share
    the images, each on its GPU; the files are the same.
    """
    if config.checkpoint == "last":
        config = pinned(config, "run")

    def make(stage: Stage) -> Result:
        from downstream.tasks.evaluate import evaluate

        return evaluate(config, stage)

    quiet_unless_main()
    return run_stage(config.stage(), make)


main = command("downstream.evaluate", EvaluateConfig, run)

if __name__ == "__main__":
    execute(main)
