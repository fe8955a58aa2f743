"""The Diffusion Transformer, its moving average, and checkpoints in the published format.

May import core.
"""
