"""Rules on a score table: a new table with more rows rejected, each with the rule it fails."""

from core.command import execute
from data.curation.filter import main

if __name__ == "__main__":
    execute(main)
