"""`python -m world.build --out DIR`: write the miniature world to disk."""

from core.command import execute
from world.write.command import main

if __name__ == "__main__":
    execute(main)
