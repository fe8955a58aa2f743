"""What W&B gets that does not log while it runs: pruning, metrics, tables, pictures, artifacts.

    python -m eval.publish table1 --profile mini
"""

from __future__ import annotations

from core.command import command, execute
from core.stage import Result
from eval.publishing.config import PublishConfig

__all__ = ["PublishConfig", "run"]


def run(config: PublishConfig) -> Result:
    """What W&B gets that does not log while it runs: pruning, metrics, tables, pictures, artifacts.

    From the plan and the records alone, after a run or while it goes on: a run for each finished
    stage of pruning, sampling and measuring; the trainings, which log as they go, whole once more;
    and subset indices, checkpoints, metrics and tables as artifacts with their lineage. What was
    published is noted in RUNS/PROFILE/wandb.json, so that the same command again adds what is new.
    Without a key it writes W&B's offline files: scripts/wandb_sync.sh sends them.
    """
    from dit.training.tracking import wandb_mode
    from eval.programme.plan import plan_file, read_plan

    mode = wandb_mode()
    plan = read_plan(plan_file(config.experiment, config.profile, config.runs))
    if mode == "disabled":
        print("[eval.publish] W&B is off (WANDB_MODE, WANDB_DISABLED): nothing is published")
        return Result(plan.folder, reused=True)
    from eval.publishing.publish import Lock, Publisher

    with Lock(plan.file.parent.parent):
        publisher = Publisher(plan, config, mode)
        result = publisher.publish()
        if config.dashboard:
            from eval.publishing.dashboard import save_dashboard

            save_dashboard(publisher)
    return result


main = command("eval.publish", PublishConfig, run, positional="experiment")

if __name__ == "__main__":
    execute(main)
