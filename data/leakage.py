"""What two sets have in common that should share nothing (`python -m data.leakage --help`)."""

from core.command import execute
from data.curation.leakage import main

if __name__ == "__main__":
    execute(main)
