"""The autoencoder in front of the DiT: loading one, feeding it images, and training one.

May import core, data, dit.model and dit.training.
"""
