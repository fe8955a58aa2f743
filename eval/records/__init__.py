"""Metrics along a training run: the record, its curves, and what makes both; what jobs cost.

May import core, data, dit, eval.judges and eval.programme.
"""
