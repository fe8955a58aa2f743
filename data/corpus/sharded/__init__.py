"""Shards that hold many images: tars, Arrow and Parquet files, and how `datasets` keeps them.

May import core, data.images and data.corpus.base, folder and sidecars.
"""
