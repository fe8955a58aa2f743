"""The latent store: every image's VAE posterior on disk, and how it is made.

May import core, data, dit.vae and dit.training.
"""
