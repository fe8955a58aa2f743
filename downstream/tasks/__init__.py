"""Super-resolution (SR) and semantic image synthesis (SIS): data, training, evaluation.

May import core, data, dit and downstream.conditioning.
"""
