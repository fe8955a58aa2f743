"""The files that stages hand on: tables of parts, the score table, embeddings, the subset index.

May import core.
"""
