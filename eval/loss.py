"""The diffusion loss on images that a model never saw, at fixed timesteps and noise.

    python -m eval.loss --checkpoint RUN --vae V --corpus C --holdout H --out loss.json
"""

from __future__ import annotations

from core.command import command, execute
from core.engines import quiet_unless_main
from core.stage import Result, Stage, run_stage
from dit.training.checkpoint import pinned
from eval.records.config import LossConfig

__all__ = ["LossConfig", "run"]


def run(config: LossConfig) -> Result:
    """The diffusion loss on images that a model never saw, at fixed timesteps and noise.

    Loss, mse and vb of each hold-out, and of images of the training subset to set beside them, for
    averaged and raw weights and by timestep, with intervals. It needs neither samples nor an
    encoder. Timesteps and noise are functions of the seed and the image's key, so that values of
    two models differ by the models alone: --baseline compares them image by image. Under
    `accelerate launch` the processes share the images, each on its GPU; the result is the same.
    """
    config = pinned(config, "checkpoint")

    def make(stage: Stage) -> Result:
        from eval.records.loss import evaluate

        return evaluate(config, stage)

    quiet_unless_main()
    return run_stage(config.stage(), make)


main = command("eval.loss", LossConfig, run)

if __name__ == "__main__":
    execute(main)
