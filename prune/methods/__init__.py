"""Selection methods: RS-Prune, its variants (Eqs. 5 and 6) and the baselines.

May import core, data, prune.stage1 and prune.cluster.
"""
