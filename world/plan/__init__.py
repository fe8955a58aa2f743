"""What the world consists of, decided before any tile is drawn; and the faults of real corpora.

May import core and world.paint.
"""
