"""python -m eval.track: metrics along a training run, on raw and on averaged weights."""

from core.command import execute
from eval.records.track import main

if __name__ == "__main__":
    execute(main)
