"""The diffusion transformer: model, diffusion, VAEs, latent store, trainer and sampler."""
