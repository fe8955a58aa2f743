"""Which of the paper's orderings hold: every pair of rows of a column, in ours as in the paper?"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from typing import Any

from eval.paper.numbers import amount
from eval.report.compare import Line, Section
from eval.report.seeds import paired_difference

ORDERED = ("FID", "LPIPS", "seconds")  # the metrics that say which row is better: lower is
VERDICTS = ("holds", "reversed", "undecided", "not run", "tied in the paper")

Ordering = dict[str, Any]


def orderings(sections: Sequence[Section]) -> list[Ordering]:
    """For each column and checkpoint rule: its pairs with their verdicts, and the counts of those.

    'holds' and 'reversed' are beyond the interval: over seeds, from the differences seed by seed,
    where both rows have several; else their intervals lie apart. 'undecided' are ties and
    overlaps. Pairs that are equal in the paper are not ordered by it.
    """
    found = []
    for section in sections:
        columns: dict[tuple[str, str, str], list[Line]] = {}
        for line in section.lines:
            known = amount(line["paper"]) is not None and line["state"] != "not planned"
            if known and line["metric"] in ORDERED:
                key = (line["task"], line["metric"], line["checkpoint"])
                columns.setdefault(key, []).append(line)
        for (task, metric, checkpoint), lines in columns.items():
            pairs = [
                {"a": a["label"], "b": b["label"], "verdict": verdict(a, b)}
                for a, b in itertools.combinations(lines, 2)
            ]
            if pairs:
                found.append({
                    "table": section.table, "corpus": section.corpus, "task": task,
                    "metric": metric, "checkpoint": checkpoint, "counts": count(pairs),
                    "pairs": pairs,
                })  # fmt: skip
    return found


def verdict(a: Line, b: Line) -> str:
    """One of VERDICTS for two lines of a column."""
    theirs = amount(a["paper"]), amount(b["paper"])
    assert theirs[0] is not None and theirs[1] is not None
    if theirs[0] == theirs[1]:
        return "tied in the paper"
    if a["value"] is None or b["value"] is None:
        return "not run"
    sign = _sign(a, b)
    if sign == 0:
        return "undecided"
    return "holds" if (sign < 0) == (theirs[0] < theirs[1]) else "reversed"


def _sign(a: Line, b: Line) -> int:
    """-1 where a is lower beyond the interval, 1 where b is, 0 where neither."""
    difference = paired_difference(a["values"], b["values"])
    if difference is not None:
        low, high = difference["interval_95"]
        return int(low > 0) - int(high < 0)
    if a["metric"] == "seconds":  # measured once: no interval, and nothing drawn at random
        return int(a["value"] > b["value"]) - int(a["value"] < b["value"])
    bounds = [_bounds(a), _bounds(b)]
    if None in bounds[0] or None in bounds[1]:
        return 0
    return int(bounds[0][0] > bounds[1][1]) - int(bounds[0][1] < bounds[1][0])


def _bounds(line: Line) -> tuple[Any, Any]:
    """Its interval over seeds where there are several, else over images."""
    seeds = line["seeds_low"], line["seeds_high"]
    return (line["low"], line["high"]) if None in seeds else seeds


def count(pairs: Iterable[dict[str, Any]]) -> dict[str, int]:
    """How many pairs have each verdict."""
    said = [pair["verdict"] for pair in pairs]
    return {name: said.count(name) for name in VERDICTS}


def in_words(counts: dict[str, int]) -> str:
    """'12 of 21 hold, 3 are reversed, 6 undecided'."""
    total = sum(counts.values()) - counts["tied in the paper"]
    text = f"{counts['holds']} of {total} hold"
    if counts["reversed"]:
        text += f", {counts['reversed']} {'is' if counts['reversed'] == 1 else 'are'} reversed"
    for name in ("undecided", "not run", "tied in the paper"):
        if counts[name]:
            text += f", {counts[name]} {name}"
    return text
