"""The autoencoder in front of the DiT: loading one, and training one.

May import core, data, dit.latents and dit.training.
"""
