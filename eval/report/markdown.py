"""The table as Markdown."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from eval.paper.numbers import CORPUS_NAMES
from eval.report.compare import COLUMN_NAMES, Line, Section
from eval.report.conclusion import better_by_interval
from eval.report.measured import Row
from eval.report.orderings import VERDICTS, Ordering, count, in_words
from eval.report.words import (
    difference,
    figure,
    heading,
    interval,
    our_value,
    paper_value,
    row_name,
    rows_of,
    said,
    sampler,
    unfilled,
)


def markdown(table: dict[str, Any]) -> str:
    """Markdown of eval.report.table.build.

    Beside the paper, in its layout; each cell with its budget; the orderings; what was measured,
    and in words; what is not filled, with the command that fills it.
    """
    lines = [f"# {table['title']}", "", *_head(table)]
    ours = "ours" if table["profile"] == "paper" else table["profile"]
    for section in table["sections"]:
        lines += [f"## {heading(section)}", "", *_layout(section, ours), ""]
        lines += _lines(section, ours)
        if section.absent:
            lines += [f"{section.absent} of the paper's cells here are no part of the plan.", ""]
    lines += [*_claims(table["claims"]), *_orderings(table)]
    for part in table["measured"]:
        name = CORPUS_NAMES.get(part["corpus"], part["corpus"])
        lines += [f"## Measured, {name}", "", *_measured(part["rows"], part["labels"]), ""]
        if part["conclusion"]:
            lines += [part["conclusion"], ""]
    for part in table["four_bands"]:
        lines += _four_bands(part)
    return "\n".join([*lines, *_unfilled(table), *_notes(table)]) + "\n"


def _head(table: dict[str, Any]) -> Iterator[str]:
    if table["profile"] != "paper":
        yield f"**Profile {table['profile']}.** Small models, few images: these values compare with"
        yield "each other only, never with the paper's."
        yield ""
    yield f"{table['filled']} of {table['planned']} cells filled ({table['command']})."
    yield ""
    for path, problem in table["damaged"].items():
        yield f"**Damaged record, left out:** `{path}`: {problem}"
        yield ""


def _layout(section: Section, ours: str) -> list[str]:
    """The paper's layout: a row for each family and checkpoint rule."""
    header = [f"paper / {ours}", *(COLUMN_NAMES[column] for column in section.columns)]
    body = []
    for row in rows_of(section).values():
        cells = [row.get(column) for column in section.columns]
        first = next(cell for cell in cells if cell is not None)
        body.append([row_name(first), *("" if cell is None else _pair(cell) for cell in cells)])
    return _grid(header, body)


def _pair(line: Line) -> str:
    paper = "-" if line["paper"] is None else paper_value(line)
    return f"{paper} / {our_value(line)}"


def _lines(section: Section, ours: str) -> list[str]:
    """Each filled cell with its interval and budget, column by column."""
    body = []
    for column in section.columns:
        for line in section.lines:
            if (line["task"], line["metric"]) == column and line["value"] is not None:
                checkpoint = line["checkpoint"]
                bands = line["bands"] and f"of {line['bands']}"
                if line["checkpoint_step"] is not None:
                    checkpoint += f" (step {line['checkpoint_step']:,})"
                body.append([
                    COLUMN_NAMES[column], line["label"], paper_value(line), our_value(line),
                    difference(line), interval(line), said(line["n"]),
                    said(line["training_images"]), said(line["steps"]), sampler(line),
                    said(line["weights"]), said(line["seeds"]), said(line["holdout"]), checkpoint,
                    "; ".join(filter(None, (line["measure"], bands, line["remark"]))) or "-",
                ])  # fmt: skip
    header = ["cell", "row", "paper", ours, "difference", "interval", "n", "images", "steps",
              "sampler", "weights", "seeds", "hold-out", "checkpoint", "measure"]  # fmt: skip
    return [*_grid(header, body), ""] if body else []


def _claims(claims: Sequence[dict[str, Any]]) -> list[str]:
    if not claims:
        return []
    header = ["the paper's claim", "row", "paper", "ours", "how"]
    body = []
    for claim in claims:
        ours = "-" if claim["ours"] is None else figure(claim["ours"]) + claim["mark"]
        name = f"{claim['figure']}: {claim['metric']}"
        body.append([name, claim["label"], str(claim["paper"]), ours, claim["text"]])
    return ["## What the paper says of its figures", "", *_grid(header, body), ""]


def _orderings(table: dict[str, Any]) -> list[str]:
    found: Sequence[Ordering] = table["orderings"]
    if not found:
        return []
    header = ["orderings", "column", "checkpoint", *VERDICTS]
    body = []
    for one in found:
        where = f"{one['table']}, {CORPUS_NAMES.get(one['corpus'], one['corpus'])}"
        column = COLUMN_NAMES[one["task"], one["metric"]]
        counts = [str(one["counts"][name]) for name in VERDICTS]
        body.append([where, column, one["checkpoint"], *counts])
    total = count(pair for one in found for pair in one["pairs"])
    whose = "" if table["profile"] == "paper" else f" (profile {table['profile']})"
    wrong = [
        f"- {one['table']}, {COLUMN_NAMES[one['task'], one['metric']]}, {one['checkpoint']}: "
        f"{pair['a']} and {pair['b']}"
        for one in found
        for pair in one["pairs"]
        if pair["verdict"] == "reversed"
    ]
    return [
        "## Which of the paper's orderings hold", "",
        f"Of all pairs of rows in a column{whose}: {in_words(total)}.", "",
        *_grid(header, body), "",
        *(["Reversed:", "", *wrong, ""] if wrong else []),
    ]  # fmt: skip


def _measured(rows: Sequence[Row], labels: Sequence[str]) -> list[str]:
    header = ["what", "metric", "better", *labels, "beside it"]
    body = []
    for row in rows:
        winner, scale = better_by_interval(row), row["scale"]
        times = "" if scale == 1 else f" x {scale:,.0f}"
        counts = sorted({cell["n"] for cell in row["cells"].values() if "n" in cell})
        if counts:
            times += f", n {' and '.join(map(str, counts))}"
        line = [row["what"], row["metric"] + times, row["better"]]
        for label in labels:
            cell = row["cells"].get(label)
            line.append("-" if cell is None else _measured_cell(cell, scale, label == winner))
        beside = [f"{words} {figure(value * scale)}" for words, value in row["beside"].items()]
        for pair in row.get("paired", []):
            low, high = (figure(bound * scale) for bound in pair["interval_95"])
            mean = figure(pair["mean"] * scale)
            beside.append(f"{pair['a']} - {pair['b']}, {pair['n']} seeds: {mean} [{low}, {high}]")
        body.append([*line, "; ".join(beside) or "-"])
    return _grid(header, body)


def _four_bands(part: dict[str, Any]) -> Iterator[str]:
    """What red, green and blue do not show: distances of NIR, R, G; the VAE; SR and SIS."""
    name = CORPUS_NAMES.get(part["corpus"], part["corpus"])
    yield from (f"## Four bands, {name}", "")
    yield "The paper does not say how it compares images of four bands; its columns above are of"
    yield "red, green and blue. Here: near infrared, red and green in their place."
    yield ""
    if part["rows"]:
        yield from ("Near infrared, red, green:", "", *_measured(part["rows"], part["labels"]), "")
    if part["vae"]:
        holdouts = list(part["vae"][0]["values"])
        body = [
            [row["what"] + ("" if row["scale"] == 1 else f" x {row['scale']:,.0f}"), row["better"],
             *(figure(row["values"][holdout] * row["scale"]) for holdout in holdouts)]
            for row in part["vae"]
        ]  # fmt: skip
        header = ["hold-outs after the VAE", "better", *holdouts]
        yield from (*_grid(header, body), "")
    if part["ways"]:
        body = [
            [label, *(ways.get(task, "-") for task in ("sr", "sis"))]
            for label, ways in part["ways"].items()
        ]
        yield from (*_grid(["trained on four bands, tuned on", "SR", "SIS"], body), "")


def _measured_cell(cell: dict[str, Any], scale: float, best: bool) -> str:
    text = figure(cell["value"] * scale)
    if best:
        text = f"**{text}**"
    if cell.get("interval_95"):
        low, high = (figure(bound * scale) for bound in cell["interval_95"])
        text += f" [{low}, {high}]"
    if "over_seeds" in cell:
        seeds = cell["over_seeds"]
        low, high = (figure(bound * scale) for bound in seeds["interval_95"])
        text += f"; {seeds['n']} seeds [{low}, {high}]"
    return text + (f" ({cell['remark']})" if "remark" in cell else "")


def _unfilled(table: dict[str, Any]) -> list[str]:
    """What is not there yet, why, and the command that fills it."""
    lines = []
    cells = unfilled(line for section in table["sections"] for line in section.lines)
    for found in cells.values():
        states = list(dict.fromkeys(our_value(line) for line in found))
        lines.append(f"- {found[0]['label']} ({found[0]['corpus']}): {len(found)} "
                     f"{', '.join(states)}: `{found[0]['command']}`")  # fmt: skip
    lines += [
        f"- failed: {job['id']}: {job['last_line']} (log: `{job['log']}`)"
        for job in table["failed"]
    ]
    return ["## Not filled", "", *lines, ""] if lines else []


def _notes(table: dict[str, Any]) -> list[str]:
    lines = ["## Notes", ""]
    if table["measured"]:
        lines += [
            "- Brackets: 95 % over images, and over trainings where there are several ('seeds';",
            "  their differences are taken seed by seed). Bold: better beyond the interval. 'real",
            "  ... subset': as many of the method's real training images in place of generated",
            "  ones; 'VAE': the hold-out after the VAE. Hold-outs: pool, a random part of the",
            "  corpus; balanced, equal over its scene classes; informative, what Stage I keeps.",
        ]
    held = {line["holdout"] for s in table["sections"] for line in s.lines if line["holdout"]}
    if held:
        lines += [
            f"- Generation beside the paper's: against the {' and '.join(sorted(held))} hold-out; "
            'the paper says "high-quality"',
            "  and no more.",
        ]
    measures = {
        line["measure"]
        for section in table["sections"]
        for line in section.lines
        if line["measure"] and not line["comparable"] and line["task"] != "clustering"
    }
    if measures:
        lines += [f"- {' and '.join(sorted(measures))}: not the paper's measure, so that no",
                  "  difference is given."]  # fmt: skip
    if any(("clustering", "seconds") in section.columns for section in table["sections"]):
        lines += ["- Clustering, s: k-means and assignment; what the paper timed, and on what,",
                  "  it does not say."]  # fmt: skip
    return [
        *lines,
        "- Orderings: a pair holds or is reversed where it is so beyond the interval; ties and",
        "  overlaps are undecided. Lower is better.",
        "- Paper: arXiv 2512.23239v1 (eval/paper/paper.yaml); its budgets differ between tables,",
        "  so compare orderings, not values. Every cell with its files: table.csv, table.json.",
    ]


def _grid(header: Sequence[str], body: Sequence[Sequence[str]]) -> list[str]:
    body = [[text.replace("|", r"\|").replace("\n", " ") for text in line] for line in body]
    widths = [max(map(len, column)) for column in zip(header, *body, strict=True)]
    lines = []
    for line in [header, ["-" * width for width in widths], *body]:
        padded = [text.ljust(width) for text, width in zip(line, widths, strict=True)]
        lines.append(f"| {' | '.join(padded)} |")
    return lines
