"""Sample images from a trained DiT: a folder of PNG files, and a grid of the first ones.

    python -m dit.sample --checkpoint RUN --vae VAE --n 256 --out samples
"""

from __future__ import annotations

from core.command import command, execute
from core.engines import quiet_unless_main
from core.stage import Result, Stage, run_stage
from dit.sampling.config import SampleConfig
from dit.training.checkpoint import pinned

__all__ = ["SampleConfig", "run"]


def run(config: SampleConfig) -> Result:
    """Sample images from a DiT; also under `accelerate launch`, on several GPUs."""
    config = pinned(config, "checkpoint")

    def make(stage: Stage) -> Result:
        from dit.sampling.sample import sample

        return sample(config, stage)

    quiet_unless_main()
    return run_stage(config.stage(), make)


main = command("dit.sample", SampleConfig, run)

if __name__ == "__main__":
    execute(main)
