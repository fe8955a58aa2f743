"""Large rasters and images, cut in chips, and the scale from their values to 8 bits.

May import core, data.images, data.corpus.base and data.corpus.sharded.
"""
