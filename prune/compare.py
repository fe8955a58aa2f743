"""Compare the methods on a corpus whose classes are known, without training anything."""

from core.command import execute
from prune.studies.compare import main

if __name__ == "__main__":
    execute(main)
