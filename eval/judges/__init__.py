"""Who sees the images: feature extractors, reading what is compared, and the comparison.

May import core, data, dit and eval.distances.
"""
