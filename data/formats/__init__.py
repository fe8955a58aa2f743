"""The files that stages hand on: score table, embeddings, subset index.

May import core.
"""
