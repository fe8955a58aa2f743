"""Fine-tune a pretrained DiT for super-resolution (SR) or semantic image synthesis (SIS).

    python -m downstream.train --task sr --init RUN --data ROOT --out OUT
"""

from __future__ import annotations

from core.command import command, execute
from core.stage import Result, Stage, run_stage
from dit.training.checkpoint import pinned
from dit.training.processes import FINISHED, WORK_LEFT, first_process_prints
from downstream.tasks.config import DownstreamConfig

__all__ = ["DownstreamConfig", "run"]


def run(config: DownstreamConfig) -> Result:
    """Fine-tune a pretrained DiT for super-resolution (SR) or semantic image synthesis (SIS).

    On one process: python -m downstream.train --task sr --init RUN --data ROOT --out OUT. On
    several GPUs: accelerate launch -m downstream.train with the same arguments. The model starts
    equal to the pretrained one and learns to use its condition; the loop, the checkpoints and the
    run folder are those of dit.train.
    """

    def make(stage: Stage) -> Result:
        from downstream.tasks.train import train

        return train(chosen, stage)

    with first_process_prints():
        chosen = pinned(config, "init")
        stage = chosen.stage()
        if config.is_done:
            return Result(config.out, exit_code=FINISHED if stage.done() else WORK_LEFT)
        return run_stage(stage, make)


main = command("downstream.train", DownstreamConfig, run)

if __name__ == "__main__":
    execute(main)
