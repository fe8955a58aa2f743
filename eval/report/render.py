"""The table as Markdown."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from eval.report.conclusion import better_by_interval
from eval.report.measured import Row, name_of


def render(table: dict[str, Any]) -> str:
    """Markdown of eval.report.table.build: measured, in words, then beside the paper.

    In the mini profile `ours` stays 'not run': values of small models never stand there.
    """
    mini = table["profile"] == "mini"
    lines = [f"# {table['title']}", ""]
    if mini:
        lines += [
            "**Mini profile.** Small models, few images: these values compare with each other",
            "only, never with the paper.",
            "",
        ]
    if table["measured"]:
        lines += [*_measured(table["measured"], table["methods"]), ""]
    if table["conclusion"]:
        lines += [table["conclusion"], ""]
    return "\n".join([*lines, *_paper(table, mini), "", *_notes(table, mini)]) + "\n"


def _measured(rows: Sequence[Row], methods: Sequence[str]) -> list[str]:
    header = ["what", "metric", "better", *map(name_of, methods), "beside it"]
    body = []
    for row in rows:
        winner, scale = better_by_interval(row), row["scale"]
        times = "" if scale == 1 else f" x {scale:,.0f}"
        counts = sorted({cell["n"] for cell in row["cells"].values() if "n" in cell})
        if counts:
            times += f", n {' and '.join(map(str, counts))}"
        line = [row["what"], row["metric"] + times, row["better"]]
        for method in methods:
            cell = row["cells"].get(method)
            if cell is None:
                line.append("not run")
                continue
            text = number(cell["value"] * scale)
            if method == winner:
                text = f"**{text}**"
            if cell.get("interval_95"):
                low, high = (number(bound * scale) for bound in cell["interval_95"])
                text += f" [{low}, {high}]"
            if "over_seeds" in cell:
                seeds = cell["over_seeds"]
                low, high = (number(bound * scale) for bound in seeds["interval_95"])
                text += f"; {seeds['n']} seeds [{low}, {high}]"
            if "remark" in cell:
                text += f" ({cell['remark']})"
            line.append(text)
        beside = [f"{words} {number(value * scale)}" for words, value in row["beside"].items()]
        for pair, difference in row.get("paired", {}).items():
            names = " - ".join(name_of(method) for method in pair.split(" - "))
            low, high = (number(bound * scale) for bound in difference["interval_95"])
            mean = number(difference["mean"] * scale)
            beside.append(f"{names}, {difference['n']} seeds: {mean} [{low}, {high}]")
        body.append([*line, "; ".join(beside) or "-"])
    return _grid(header, body)


def _paper(table: dict[str, Any], mini: bool) -> list[str]:
    header = ["beside the paper"]
    for method in table["methods"]:
        header += [f"{name_of(method)}, paper", f"{name_of(method)}, ours", "difference"]
    body = []
    for row in table["rows"]:
        line = [row["label"]]
        for cell in row["cells"]:
            paper, ours = cell["paper"], None if mini else cell["ours"]
            same = ours is not None and cell["comparable"]
            line += [
                "not in the paper" if paper is None else f"{paper:.4f}".rstrip("0"),
                "not run" if ours is None else number(ours) + ("" if same else " (see below)"),
                f"{ours - paper:+.4g}" if same and paper is not None else "-",
            ]
        body.append(line)
    return _grid(header, body)


def _grid(header: Sequence[str], body: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(header, *body, strict=True)]
    lines = []
    for line in [header, ["-" * width for width in widths], *body]:
        padded = [text.ljust(width) for text, width in zip(line, widths, strict=True)]
        lines.append(f"| {' | '.join(padded)} |")
    return lines


def _notes(table: dict[str, Any], mini: bool) -> list[str]:
    lines = [f"- {name_of(m)}: {_budget(table, m)}" for m in table["methods"]]
    if table["measured"]:
        lines += [
            "- Brackets: 95 % over images, and over trainings where there are several ('seeds';",
            "  their differences are taken seed by seed). Bold: better beyond the interval. 'real",
            "  ... subset': as many of the method's real training images in place of generated",
            "  ones; 'VAE': the hold-out after the VAE. Hold-outs: pool, a random part of the",
            "  corpus; balanced, equal over its scene classes; informative, what Stage I keeps.",
        ]
    if not mini:
        lines += [
            f"- {row['label']}, {name_of(cell['method'])}: ours is {cell['metric']}, which "
            "does not compare with the paper's."
            for row in table["rows"]
            for cell in row["cells"]
            if cell["ours"] is not None and not cell["comparable"]
        ]
    held = {c["holdout"] for row in table["rows"] for c in row["cells"] if "holdout" in c}
    if held and not mini:
        lines.append(
            f"- Ours beside the paper's generation FID: against the {' and '.join(sorted(held))} "
            'hold-out; the paper says "high-quality" and no more.'
        )
    lines += [
        "- Paper column: arXiv 2512.23239v1 (eval/paper/paper.yaml), lower is better; its budgets",
        "  differ between tables, so compare orderings, not values.",
    ]
    files = [cell["file"] for row in table["rows"] for cell in row["cells"] if "file" in cell]
    if files:
        lines.append("- Values come from: " + ", ".join(f"`{f}`" for f in dict.fromkeys(files)))
    return lines


def _budget(table: dict[str, Any], method: str) -> str:
    """Subset size, model, steps and sampler of a method, in words."""
    subset, budgets = table["subsets"].get(method), table["budgets"].get(method)
    parts = [f"{subset['counts']['B']:,} training images"] if subset else []
    if not budgets:
        return "; ".join([*parts, "not run"])
    first = next(iter(budgets.values()))
    training, sampling = first["training"], first["sampling"]
    parts.append(
        f"{training.get('model', '?')}, {training.get('steps', '?')} steps of "
        f"{training.get('batch', '?')}, {sampling.get('sampler', '?')} "
        f"{sampling.get('steps', '?')} steps, {sampling.get('weights', '?')} weights, "
        f"{sampling.get('checkpoint_rule', 'last')} checkpoint"
    )
    return "; ".join(parts)


def number(value: float) -> str:
    """Three or four figures that a person can compare."""
    digits = 4 if abs(value) < 0.1 else 3 if abs(value) < 10 else 2
    return f"{value:.{digits}f}"
