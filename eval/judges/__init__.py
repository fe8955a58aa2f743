"""Who sees the images: feature extractors, reading what is compared, and the comparison.

May import core, data, dit, eval.distances and prune.encoders (networks are loaded in one place).
"""
