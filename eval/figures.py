"""The figures of an experiment, from its plan and records.

    python -m eval.figures fig3 --profile mini
"""

from __future__ import annotations

import json

from core.command import command, execute
from core.stage import Result, Stage, run_stage
from eval.plots.config import FiguresConfig
from eval.plots.factors import against_best, describe
from eval.plots.figures import draw_figures, gather, stage_of

__all__ = ["FiguresConfig", "run"]


def run(config: FiguresConfig) -> Result:
    """Draw the experiment's figures as PNG and PDF: distance against steps with the factor by which
    RS-Prune needs fewer (Figures 3 and 1c), against cost, and against the share that Stage I keeps
    (Figure 4), the ratio and K where they are swept. What has no records is named, not drawn."""
    plan = config.plan()
    data = gather(plan, config.holdout)

    def make(stage: Stage) -> Result:
        return draw_figures(plan, data, stage)

    result = run_stage(stage_of(config, plan, data), make)
    record = json.loads((result.out / "figures.json").read_text(encoding="utf-8"))
    for one in against_best(data.factors):
        print(f"[eval.figures] {describe(one)}")
    for name, reason in record["not_drawn"].items():
        print(f"[eval.figures] {name} not drawn: {reason}")
    for label in record["left_out"]:
        print(f"[eval.figures] {label} left out: measured by another judge, or on other counts")
    return result


main = command("eval.figures", FiguresConfig, run, positional="experiment")

if __name__ == "__main__":
    execute(main)
