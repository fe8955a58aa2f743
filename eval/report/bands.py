"""Which corpora have near infrared, and how the tables call bands."""

from __future__ import annotations

from eval.programme.plan import Cell

PART = "reconstruction"
"""Part of a run (eval.programme.plan.Run) that only a corpus of four bands has."""
SHOWN = "R,G,B"
"""What the paper's columns are measured on."""
BANDS = ("red", "green", "blue", "near infrared")
WAYS = {
    "native": "four-band data", "predicted": "RGB data, near infrared predicted",
    "filled": "RGB data, near infrared filled with its mean", "split": "RGB part split off",
    "rgb": "RGB",
}  # fmt: skip


def has_four_bands(cell: Cell) -> bool:
    """Whether the cell's corpus has near infrared."""
    return any(PART in run.jobs for run in cell.runs)
