"""A pretrained DiT that sees a condition beside its noisy latent.

May import core and dit.
"""
