"""Stage II's assignment: the nearest reference prototype of each image (Eq. 4)."""

from core.command import execute
from prune.cluster.assign import main

if __name__ == "__main__":
    execute(main)
