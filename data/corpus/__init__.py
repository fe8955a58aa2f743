"""Corpora: named images in shards, and a reader for each form they are held in.

May import core and data.images.
"""
