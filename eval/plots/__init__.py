"""The figures of an experiment, from its plan and records: what is read, and how it is drawn.

Imports core, data, eval.distances, eval.paper, eval.programme, eval.records and eval.report; no
command.
"""
