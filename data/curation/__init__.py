"""What is set aside, filtered out or compared before pruning: hold-outs, rules, leakage.

May import core and the other rooms of data.
"""
