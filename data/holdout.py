"""The hold-out: real images set aside before any pruning (`python -m data.holdout --help`)."""

from core.command import execute
from data.curation.holdout import main

if __name__ == "__main__":
    execute(main)
