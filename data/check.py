"""What of the data is here (`bash scripts/check_data.sh`): found, missing, odd."""

from core.command import execute
from data.sources.check import main

if __name__ == "__main__":
    execute(main)
