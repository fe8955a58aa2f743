"""Studies of the metrics themselves.

May import core, data and the rooms distances and judges.
"""
