"""Metrics along a training run, on raw and on averaged weights.

    python -m eval.track --run RUN --vae V --corpus C --holdout H --out RUN-track --follow
"""

from __future__ import annotations

from core.command import command, execute
from core.stage import Result
from eval.records.config import TrackConfig
from eval.records.track import track

__all__ = ["TrackConfig", "run"]


def run(config: TrackConfig) -> Result:
    """Metrics along a training run, on raw and on averaged weights.

    For each checkpoint of a run of dit.train it draws samples, always from the same noise, and
    adds one line for each kind of weights to OUT/track.jsonl, with the Frechet and kernel distance
    to the hold-out; OUT/track.png shows them against the steps. The training need not have ended:
    with --follow the command waits for further checkpoints, for example on a GPU of its own.

    Run the same command again to go on: what has its line is not measured again. SIGTERM or
    SIGUSR1 stops it (exit code 75), as does Ctrl-C (130).
    """
    return track(config)


main = command("eval.track", TrackConfig, run)

if __name__ == "__main__":
    execute(main)
