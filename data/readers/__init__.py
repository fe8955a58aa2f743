"""Readers of corpora that are not plain folders: shards of tar, Arrow or Parquet, CSV lists.

`specs.open_spec` decides which one a specification means; `shards.ShardCorpus` is what they
have in common. This module imports nothing, so that a finished stage answers at once.
"""
