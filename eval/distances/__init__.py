"""Distances as functions of arrays: Frechet and kernel of two sets of features, LPIPS of pairs.

May import core.
"""
