"""Judge the pruning where the truth is known."""

from core.command import execute
from prune.studies.judge import main

if __name__ == "__main__":
    execute(main)
