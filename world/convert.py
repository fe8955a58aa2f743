"""Write the corpus of a miniature world again as shards (`python -m world.convert --help`)."""

from core.command import execute
from world.write.convert import main

if __name__ == "__main__":
    execute(main)
