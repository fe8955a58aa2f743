"""Spherical k-means, whitening, cosines in blocks, assignment to centroids (Eqs. 3 and 4).

config: settings. features: unit rows of embeddings, in memory or on disk. cosine: the nearest of
some directions. kmeans: the clustering. whitening: a linear map before it. centroids, assign,
hierarchy: the stages. neighbours: copies, and what is near to a query.

May import core, data and prune.encoders.
"""
