"""Feature extractors, and distances measured with them on images.

May import core, data, dit and eval.distances.
"""
