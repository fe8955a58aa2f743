"""Painters: one tile of a scene type, a pure function of scene, seed and index.

May import core.
"""
