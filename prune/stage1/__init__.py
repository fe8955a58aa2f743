"""Stage I: the grey-level entropy of every image, and the share of highest entropy.

May import core and data.
"""
