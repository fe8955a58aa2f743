"""The diffusion transformer: model, diffusion, VAEs, latent store, trainer and sampler.

The commands are at the top; each room imports those before it alone: model, diffusion, training,
vae, latents, then pretraining and sampling.
"""
