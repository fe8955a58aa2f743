"""The world on disk, in the formats of real data sets.

May import core, data, world.paint and world.plan.
"""
