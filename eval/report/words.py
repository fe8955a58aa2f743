"""How the tables, in whichever form, call a line's parts."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from eval.paper.numbers import CORPUS_NAMES
from eval.report.compare import Line, Section
from eval.report.value import RULE_NAMES

STATES = {
    "missing": "not run", "failed": "failed", "running": "running", "damaged": "damaged record",
    "not planned": "not in the plan",
}  # fmt: skip


def heading(section: Section) -> str:
    """'Table 1, Git-10M'."""
    name = CORPUS_NAMES.get(section.corpus, section.corpus)
    return f"{section.table}, {name}" if section.table else name


def row_name(line: Line) -> str:
    """The family, and the checkpoint rule where that is not the last."""
    if line["checkpoint"] == RULE_NAMES["last"]:
        return str(line["label"])
    return f"{line['label']}, {line['checkpoint']}"


def paper_value(line: Line) -> str:
    """As the paper prints it."""
    if line["paper"] is None:
        return "not in the paper"
    if not isinstance(line["paper"], float):
        return str(line["paper"])
    digits = 4 if line["table"] in ("Table 2", "Table 3") else 2
    return f"{line['paper']:.{ {'LPIPS': 4, 'seconds': 1}.get(line['metric'], digits) }f}"


def our_value(line: Line) -> str:
    """The value, marked where it does not compare with the paper's; else why there is none."""
    if line["value"] is None:
        return STATES[line["state"]]
    text = figure(line["value"])
    if line["profile"] != "paper":
        return f"{text} ({line['profile']})"
    return text if line["comparable"] else f"{text} (another measure)"


def difference(line: Line) -> str:
    """Ours less the paper's; '-' where they do not compare."""
    return "-" if line["difference"] is None else f"{line['difference']:+.4g}"


def interval(line: Line) -> str:
    """Over images, and over seeds."""
    parts = [bounds(line["low"], line["high"])] if line["low"] is not None else []
    if line["seeds_low"] is not None:
        said = bounds(line["seeds_low"], line["seeds_high"])
        parts.append(f"{len(line['seeds'])} seeds {said}")
    return "; ".join(parts) or "-"


def bounds(low: float, high: float) -> str:
    """[low, high]."""
    return f"[{figure(low)}, {figure(high)}]"


def sampler(line: Line) -> str:
    """'ddim 25'."""
    return f"{line['sampler']} {line['sampling_steps']}" if line["sampler"] else "-"


def said(value: Any) -> str:
    """A value, or '-'; several with commas; counts with thousands apart."""
    if value is None or value == []:
        return "-"
    if isinstance(value, list):
        return ", ".join(map(str, value))
    return f"{value:,}" if isinstance(value, int) else str(value)


def figure(value: float) -> str:
    """Three or four figures that a person can compare; whole numbers as they are."""
    if isinstance(value, int):
        return f"{value:,}"
    digits = 4 if abs(value) < 0.1 else 3 if abs(value) < 10 else 2
    return f"{value:,.{digits}f}"


def rows_of(section: Section) -> dict[tuple[str, str], dict[tuple[str, str], Line]]:
    """(family, checkpoint rule) -> its lines by column, in the order of the table."""
    rows: dict[tuple[str, str], dict[tuple[str, str], Line]] = {}
    for line in section.lines:
        row = rows.setdefault((line["cell"], line["checkpoint"]), {})
        row[line["task"], line["metric"]] = line
    order = list(dict.fromkeys(cell for cell, _ in rows))
    return dict(sorted(rows.items(), key=lambda item: order.index(item[0][0])))


def unfilled(lines: Iterable[Line]) -> dict[str, list[Line]]:
    """Family -> its planned lines without a value."""
    found: dict[str, list[Line]] = {}
    for line in lines:
        if line["value"] is None and line["state"] != "not planned":
            found.setdefault(line["cell"], []).append(line)
    return found
