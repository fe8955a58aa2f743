"""The paper's numbers as data, each with its budget.

May import core.
"""
