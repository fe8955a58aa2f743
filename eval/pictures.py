"""What was kept and dropped, and what the trained models make.

    python -m eval.pictures git10m_85
"""

from __future__ import annotations

from core.command import command, execute
from core.stage import Result, Stage, run_stage
from eval.report.config import PicturesConfig

__all__ = ["PicturesConfig", "run"]


def run(config: PicturesConfig) -> Result:
    """Entropy histogram with kept and dropped tiles, sample grids, rows of SR and SIS images.

    Of an experiment that is not finished: what there is.
    """
    from eval.report.shown import shown, stage_of

    plan = config.plan()
    found = shown(plan)
    stage = stage_of(config, plan, found)
    if not found:
        line = "nothing to be seen yet"
        print(f"[eval.pictures] {stage.out}: {line}", flush=True)
        return Result(stage.out, message=line)

    def make(stage: Stage) -> Result:
        from eval.report.pictures import draw_pictures

        return draw_pictures(plan, found, stage)

    return run_stage(stage, make)


main = command("eval.pictures", PicturesConfig, run, positional="experiment")

if __name__ == "__main__":
    execute(main)
