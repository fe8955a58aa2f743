"""The paper's numbers as data (numbers), and a run beside them: its table and its pictures.

`numbers` may import core; the others also data, eval.config, eval.judges and eval.records.
"""
