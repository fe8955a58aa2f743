"""Spherical k-means, whitening, cosines in blocks, assignment to centroids (Eqs. 3 and 4).

May import core, data and prune.encoders.
"""
