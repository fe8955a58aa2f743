"""What a selection does where the truth is known: judge, comparison, stability, encoder accuracy.

Each study has its settings in `config` (light to import), runs the stages through `pipeline` and
writes its figures and its Markdown through `report`. May import core, data, world and all rooms of
prune.
"""
