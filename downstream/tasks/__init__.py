"""Super-resolution (SR) and semantic image synthesis (SIS): data, training, evaluation.

May import core, data, dit, downstream.config and downstream.conditioning.
"""
