"""Downstream pairs: super-resolution images and image-mask pairs, their layouts and palettes.

May import core, data.corpus and data.images.
"""
