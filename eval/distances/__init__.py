"""Distances as functions of arrays: Frechet and kernel of two sets of features.

May import core.
"""
