"""The latent store: every image's VAE posterior on disk, and how it is made and read.

May import core, data, dit.model, dit.training and dit.vae.
"""
