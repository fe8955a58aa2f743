"""python -m eval.pictures: what was kept and dropped, and what the trained models make."""

from core.command import execute
from eval.records.pictures import main

if __name__ == "__main__":
    execute(main)
