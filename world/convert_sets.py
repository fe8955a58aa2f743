"""Write the world's reference, SR and SIS sets in the other forms they are held in."""

from core.command import execute
from world.write.convert_sets import main

if __name__ == "__main__":
    execute(main)
