"""Look at subset indices."""

from core.command import execute
from prune.subsets.inspect import main

if __name__ == "__main__":
    execute(main)
