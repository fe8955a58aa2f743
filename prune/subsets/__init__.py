"""Subset indices: written, derived again, compared, exported.

`config` is light and may import core and prune.methods.catalogue; the others may import core, data
and the rooms above, methods included.
"""
