"""Stage I: one pass over the corpus, one row an image (`python -m prune.score --help`)."""

from core.command import execute
from prune.stage1.score import main

if __name__ == "__main__":
    execute(main)
