"""Metrics along a training run, and pictures of what was kept and made.

May import core, data, dit and the rooms above.
"""
