"""Metrics along a training run: the record, its curves, and what makes both.

May import core, data, dit and eval.judges.
"""
