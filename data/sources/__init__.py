"""Where data sets and weights come from: the list (sources.yaml), and how they are fetched.

registry reads the list and needs no package beyond yaml. May import core.
"""
