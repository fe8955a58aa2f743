"""Subset indices: written, derived again, compared, exported.

May import core, data and the rooms above, methods included.
"""
