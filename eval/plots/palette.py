"""Colours, markers and lines of methods and ratios, the same in every figure and page."""

from __future__ import annotations

from collections.abc import Iterable

# Okabe and Ito's colours, told apart with any colour vision; where they repeat, the marker differs.
_METHODS = {
    "rsprune": ("#0072B2", "o"),
    "random": ("#E69F00", "s"),
    "full": ("#6B6B6B", "D"),
    "entropy": ("#009E73", "^"),
    "moderate": ("#CC79A7", "v"),
    "cluster-nearest": ("#D55E00", "P"),
    "dinov2": ("#56B4E9", "X"),
    "a2mae": ("#8C6D1F", "<"),
    "full-set": ("#CC79A7", ">"),
    "entropy-set": ("#009E73", "p"),
    "semdedup": ("#D55E00", "h"),
    "hierarchical": ("#56B4E9", "d"),
    "random-survivors": ("#8C6D1F", "^"),
}
_OTHER = ("#6B6B6B", "*")
_STYLES = ("-", "--", ":", "-.", (0, (5, 1, 1, 1, 1, 1)))


def colour(method: str) -> str:
    """A method's colour, as '#rrggbb'."""
    return _METHODS.get(method, _OTHER)[0]


def marker(method: str) -> str:
    """A method's marker, as Matplotlib names it."""
    return _METHODS.get(method, _OTHER)[1]


def ratio_style(ratio: float, ratios: Iterable[float]) -> str | tuple[int, tuple[int, ...]]:
    """The line of a pruning ratio, among all that a figure has: the highest is solid."""
    order = sorted({one for one in ratios if one}, reverse=True)
    return _STYLES[order.index(ratio) % len(_STYLES)] if ratio in order else "-"
