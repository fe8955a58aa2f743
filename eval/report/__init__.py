"""A run beside the paper: its table, and pictures of what was kept and made.

May import core, data, dit, eval.config and the other rooms of eval.
"""
