"""Embed what Stage I keeps, or a reference set (`python -m prune.embed --help`)."""

from core.command import execute
from prune.encoders.embed import main

if __name__ == "__main__":
    execute(main)
