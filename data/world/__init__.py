"""The miniature world: a small, seeded, procedural remote-sensing corpus with known truth.

`python -m data.world --out DIR` writes it to disk in the formats of real data sets. From code:

    from data.world.scenes import SCENES          # the scene types
    from data.world.tiles import render           # one tile: RGB, near infrared, land cover

This module imports nothing, so that a finished stage answers at once.
"""
