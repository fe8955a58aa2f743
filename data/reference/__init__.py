"""Reference sets (D_ref): labelled scenes in class folders or tables, alone or as a union.

May import core, data.corpus and data.sources.
"""
