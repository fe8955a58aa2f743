"""Training a DiT on latents: the settings of dit.train, class labels, the latents' source.

May import core, data, dit.model, dit.diffusion, dit.training, dit.vae and dit.latents.
"""
