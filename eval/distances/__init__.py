"""Distances as pure functions of features: Frechet, kernel, sliced Wasserstein; shares; intervals.

`measure` gives all of two sets. May import core.
"""
