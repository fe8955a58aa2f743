"""What a selection does where the truth is known: judge, comparison, stability, encoder accuracy.

May import core, data, world and all rooms of prune.
"""
