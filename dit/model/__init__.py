"""The Diffusion Transformer, its moving average, its device, and the published format.

May import core.
"""
