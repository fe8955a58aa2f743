"""Export a trained DiT as a diffusers folder that gives our outputs, not merely similar ones.

    python -m dit.export --checkpoint RUN --vae VAE --out exported
"""

from __future__ import annotations

from core.command import command, execute
from core.stage import Result, Stage, run_stage
from dit.sampling.config import ExportConfig
from dit.training.checkpoint import pinned

__all__ = ["ExportConfig", "run"]


def run(config: ExportConfig) -> Result:
    """Export a DiT to diffusers: transformer, VAE, scheduler and the pipeline that they need."""
    config = pinned(config, "checkpoint")

    def make(stage: Stage) -> Result:
        from dit.sampling.export import export

        return export(config, stage)

    return run_stage(config.stage(), make)


main = command("dit.export", ExportConfig, run)

if __name__ == "__main__":
    execute(main)
