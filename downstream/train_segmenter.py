"""Train a segmenter on real image-mask pairs, to judge whether SIS images show their masks.

    python -m downstream.train_segmenter --data ROOT --out OUT
"""

from __future__ import annotations

from core.command import command, execute
from core.stage import Result, Stage, run_stage
from downstream.tasks.config import SegmenterConfig

__all__ = ["SegmenterConfig", "run"]


def run(config: SegmenterConfig) -> Result:
    """Train a segmenter on real image-mask pairs, to judge whether SIS images show their masks.

    Trained on crops of the train split; its mIoU and accuracy on the real images of val are in the
    manifest. For downstream.evaluate --segmenter OUT; palette, --image-size and --tile-size must
    be those of the SIS model. It takes minutes on a GPU: a stopped training begins anew.
    """

    def make(stage: Stage) -> Result:
        from downstream.tasks.segmenter import train_segmenter

        return train_segmenter(config, stage)

    return run_stage(config.stage(), make)


main = command("downstream.train_segmenter", SegmenterConfig, run)

if __name__ == "__main__":
    execute(main)
