"""What is set aside, filtered out or compared before pruning: hold-outs, rules, leakage.

May import core, data.formats, data.pairs and data.reference.
"""
