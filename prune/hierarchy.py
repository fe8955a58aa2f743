"""Hierarchical k-means of a pool: clusters, clusters of their centroids, and so on."""

from core.command import execute
from prune.cluster.hierarchy import main

if __name__ == "__main__":
    execute(main)
