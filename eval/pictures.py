"""What was kept and dropped, and what the trained models make.

    python -m eval.pictures --run RUN --corpus C --out pictures
"""

from __future__ import annotations

from core.command import command, execute
from core.stage import Result, Stage, run_stage
from eval.report.config import PicturesConfig

__all__ = ["PicturesConfig", "run"]


def run(config: PicturesConfig) -> Result:
    """Entropy histogram with kept and dropped tiles, sample grids, rows of SR and SIS images."""

    def make(stage: Stage) -> Result:
        from eval.report.pictures import draw_pictures

        return draw_pictures(config, stage)

    return run_stage(config.stage(), make)


main = command("eval.pictures", PicturesConfig, run)

if __name__ == "__main__":
    execute(main)
