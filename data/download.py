"""Fetch a data set or weights (`bash scripts/download.sh NAME`), or say what to do by hand."""

from core.command import execute
from data.sources.download import main

if __name__ == "__main__":
    execute(main)
