"""Fine-tune a pretrained DiT for super-resolution (SR) or semantic image synthesis (SIS).

    python -m downstream.train --task sr --init RUN --data ROOT --out OUT
"""

from __future__ import annotations

from core.command import command, execute
from core.engines import process_group, quiet_unless_main
from core.errors import UserError
from core.stage import Result, Stage, run_stage
from downstream.config import DownstreamConfig

__all__ = ["DownstreamConfig", "run"]

_WORK_LEFT, _REFUSED = 3, 2


def run(config: DownstreamConfig) -> Result:
    """Fine-tune a pretrained DiT for super-resolution (SR) or semantic image synthesis (SIS).

    On one process: python -m downstream.train --task sr --init RUN --data ROOT --out OUT. On
    several GPUs: accelerate launch -m downstream.train with the same arguments. The model starts
    equal to the pretrained one and learns to use its condition; the loop, the checkpoints and the
    run folder are those of dit.train.
    """

    def make(stage: Stage) -> Result:
        if config.is_done:
            return Result(config.out, exit_code=_WORK_LEFT)
        from downstream.tasks.train import train

        return train(config, stage)

    quiet_unless_main()
    try:
        return run_stage(config.stage(), make)
    except UserError:
        if process_group().main:
            raise
        return Result(config.out, exit_code=_REFUSED)  # the main process says why


main = command("downstream.train", DownstreamConfig, run)

if __name__ == "__main__":
    execute(main)
