"""The local dashboard: what it shows of a plan and its records, and the HTML page of it.

Imports core, eval.judges (names of folders), eval.paper, eval.plots, eval.programme, eval.records
and eval.report; no command.
"""
