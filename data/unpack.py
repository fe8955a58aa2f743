"""Parquet copies of the downstream sets as the folders that they come in."""

from core.command import execute
from data.pairs.unpack import main

if __name__ == "__main__":
    execute(main)
