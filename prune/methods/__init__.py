"""Selection methods: RS-Prune, its variants (Eqs. 5 and 6) and the baselines.

`catalogue` names them all; `base` is what a method is, `allocation` is Eq. 6. May import core,
data, prune.stage1 and prune.cluster.
"""
