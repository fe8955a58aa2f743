"""Prototypes: spherical k-means of the reference set's embeddings, or of the corpus's own."""

from core.command import execute
from prune.cluster.centroids import main

if __name__ == "__main__":
    execute(main)
