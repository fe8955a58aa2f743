"""Downstream pairs: super-resolution images and image-mask pairs, their layouts and palettes.

May import core, data.corpus, data.formats and data.images.
"""
