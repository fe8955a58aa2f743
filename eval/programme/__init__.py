"""What an experiment is made of: its cells, their trainings, and the jobs that make them.

The plan (plan.json, written by experiments/) is all that the tables, figures, costs, dashboards and
W&B know of the grid. May import core.
"""
