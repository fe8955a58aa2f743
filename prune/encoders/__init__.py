"""Encoders f(x) behind one interface (Eq. 2), and the pass that embeds images.

May import core, data and prune.stage1.
"""
