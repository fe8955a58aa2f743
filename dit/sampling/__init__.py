"""Sampling images from a trained DiT, and exporting it to diffusers.

May import core, data.images, dit.model, dit.diffusion, dit.training and dit.vae.
"""
