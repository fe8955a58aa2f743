"""A stability card: how much of a subset stays when a choice that the paper leaves open changes."""

from core.command import execute
from prune.studies.stability import main

if __name__ == "__main__":
    execute(main)
