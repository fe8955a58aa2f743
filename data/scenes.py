"""Reference sets: labelled scenes (D_ref), alone or as a union (`python -m data.scenes --help`)."""

from core.command import execute
from data.reference.sets import main

if __name__ == "__main__":
    execute(main)
