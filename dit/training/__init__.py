"""The training loop: order and noise, precision, EMA, measures, checkpoints, the run's record.

May import core, dit.model and dit.diffusion.
"""
