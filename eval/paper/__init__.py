"""The paper's numbers as data, and tables of theirs beside ours.

May import core and eval.records.
"""
