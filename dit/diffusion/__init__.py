"""Gaussian diffusion as DiT trains it, and its samplers.

May import core.
"""
