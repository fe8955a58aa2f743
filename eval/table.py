"""python -m eval.table: paper | ours | difference, from the metrics files of a run."""

from core.command import execute
from eval.paper.table import main

if __name__ == "__main__":
    execute(main)
