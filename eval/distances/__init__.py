"""Distances between two sets of features, as pure functions of arrays.

May import core.
"""
