"""Sampling images from a trained DiT, and exporting it to diffusers.

May import core, data and all rooms of dit.
"""
