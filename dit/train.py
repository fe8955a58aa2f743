"""Train a DiT on a latent store (Sec. 4 of the paper; DiT's recipe, unconditional by default).

    python -m dit.train --latents STORE --subset INDEX --out RUN
"""

from __future__ import annotations

from core.command import command, execute
from core.stage import Result, Stage, run_stage
from dit.pretraining.config import DitConfig
from dit.training.checkpoint import pinned
from dit.training.processes import FINISHED, WORK_LEFT, first_process_prints

__all__ = ["DitConfig", "run"]


def run(config: DitConfig) -> Result:
    """Train a DiT on a latent store (Sec. 4 of the paper; DiT's recipe, unconditional by default).

    On one process: python -m dit.train --latents STORE --out RUN. On several GPUs:
    accelerate launch -m dit.train --latents STORE --out RUN, with the same result to rounding. On
    several CPU processes: ACCELERATE_USE_CPU=1 torchrun --nproc-per-node 2 -m dit.train ...

    Run the same command again to continue a run that was killed. SIGTERM or SIGUSR1 makes it write
    a checkpoint at the next step (several GPUs: within ten steps) and exit with code 75: run me
    again; accelerate launch reports any such code as 1, so ask --is-done. Loss or gradients that
    are not finite: the step is skipped and counted; ten in a row end the run, naming the samples.
    """

    def make(stage: Stage) -> Result:
        from dit.pretraining.train import train_dit

        return train_dit(chosen, stage)

    with first_process_prints():
        chosen = pinned(config, "init")
        stage = chosen.stage()
        if config.is_done:
            return Result(config.out, exit_code=FINISHED if stage.done() else WORK_LEFT)
        return run_stage(stage, make)


main = command("dit.train", DitConfig, run)

if __name__ == "__main__":
    execute(main)
