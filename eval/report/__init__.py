"""A run beside the paper: its table, and pictures of what was kept and made.

May import core, data, dit and the other rooms of eval.
"""
