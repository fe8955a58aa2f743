"""Sampling images from a trained DiT, and exporting it to diffusers.

May import core, dit.model, dit.diffusion, dit.training and dit.vae.
"""
