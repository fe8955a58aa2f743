"""The table as LaTeX (booktabs), a tabular for each of the paper's tables and corpora."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from eval.report.compare import COLUMN_NAMES, Line, Section
from eval.report.orderings import count, in_words
from eval.report.words import (
    STATES,
    bounds,
    difference,
    figure,
    heading,
    paper_value,
    row_name,
    rows_of,
    said,
    sampler,
)

_ESCAPES = {
    "\\": r"\textbackslash{}", "{": r"\{", "}": r"\}", "&": r"\&", "%": r"\%", "$": r"\$",
    "#": r"\#", "_": r"\_", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}",
    "<": r"\textless{}", ">": r"\textgreater{}", "|": r"\textbar{}",
}  # fmt: skip


def escape(text: str) -> str:
    """Text as LaTeX shows it, character by character."""
    return re.sub("|".join(map(re.escape, _ESCAPES)), lambda found: _ESCAPES[found[0]], text)


def latex(table: dict[str, Any]) -> str:
    """LaTeX of eval.report.table.build: for \\input after \\usepackage{booktabs,graphicx}.

    Of each cell the paper's value, ours with its interval, and the difference; below, the budgets.
    """
    parts = [
        f"% {escape(table['title'])}; needs \\usepackage{{booktabs,graphicx}}.",
        "% Written by eval.tables; the same numbers are in table.csv and table.json.",
    ]
    for section in table["sections"]:
        parts += [*_values(section, table), *_budgets(section)]
    return "\n".join(parts) + "\n"


def _values(section: Section, table: dict[str, Any]) -> list[str]:
    ours = "ours" if table["profile"] == "paper" else table["profile"]
    columns = section.columns
    names = [rf"\multicolumn{{3}}{{c}}{{{escape(COLUMN_NAMES[column])}}}" for column in columns]
    rules = [rf"\cmidrule(lr){{{3 * i + 2}-{3 * i + 4}}}" for i in range(len(columns))]
    heads = ["paper", escape(ours), r"$\Delta$"] * len(columns)
    body = []
    for row in rows_of(section).values():
        lines = [row.get(column) for column in columns]
        first = next(line for line in lines if line is not None)
        cells = [text for line in lines for text in _three(line)]
        body.append([escape(row_name(first)), *cells])
    caption = f"{heading(section)}: the paper's values and ours"
    if table["profile"] != "paper":
        caption += f" (profile {table['profile']}: not comparable with the paper's)"
    if found := [one for one in table["orderings"]
                 if (one["table"], one["corpus"]) == (section.table, section.corpus)]:  # fmt: skip
        counts = count(pair for one in found for pair in one["pairs"])
        caption += f". Of the paper's orderings {in_words(counts)}"
    head = [f"  & {' & '.join(names)} \\\\", f"  {' '.join(rules)}"]
    return _tabular("l" + "rrr" * len(columns), [*head, _row(["", *heads])], body, caption + ".")


def _three(line: Line | None) -> tuple[str, str, str]:
    """Paper, ours and difference of a cell."""
    if line is None:
        return "", "", ""
    paper = "--" if line["paper"] is None else escape(paper_value(line))
    if line["value"] is None:
        return paper, rf"\textit{{{escape(STATES[line['state']])}}}", "--"
    ours = escape(figure(line["value"]))
    if line["low"] is not None:
        ours += rf" {{\scriptsize {escape(bounds(line['low'], line['high']))}}}"
    apart = difference(line)
    return paper, ours, "--" if apart == "-" else f"${apart}$"


def _budgets(section: Section) -> list[str]:
    heads = ["", "task", "n", "images", "steps", "sampler", "weights", "seeds", "hold-out",
             "checkpoint", "measure"]  # fmt: skip
    body = []
    for line in section.lines:
        if line["value"] is not None and line["task"] != "clustering":
            texts = [line["label"], COLUMN_NAMES[line["task"], line["metric"]], said(line["n"]),
                     said(line["training_images"]), said(line["steps"]), sampler(line),
                     said(line["weights"]), said(line["seeds"]), said(line["holdout"]),
                     line["checkpoint"], line["measure"]]  # fmt: skip
            body.append([escape(text) for text in texts])
    if not body:
        return []
    caption = f"{heading(section)}: how our values were reached."
    return _tabular("llrrrllllll", [_row(heads)], body, caption)


def _tabular(
    columns: str, head: Sequence[str], body: Sequence[Sequence[str]], caption: str
) -> list[str]:
    return [
        "", r"\begin{table*}", r"  \centering", rf"  \caption{{{escape(caption)}}}",
        r"  \resizebox{\linewidth}{!}{%", rf"  \begin{{tabular}}{{{columns}}}", r"  \toprule",
        *head, r"  \midrule", *map(_row, body), r"  \bottomrule", r"  \end{tabular}}",
        r"\end{table*}",
    ]  # fmt: skip


def _row(cells: Sequence[str]) -> str:
    return f"  {' & '.join(cells)} \\\\"
