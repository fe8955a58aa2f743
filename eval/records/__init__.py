"""Metrics along a training run: the record, its curves, and what makes both.

May import core, data, dit, eval.config and eval.judges.
"""
