"""paper | ours | difference, from the metrics files of a run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from core.atomic import write_json, write_text
from core.errors import UserError
from core.stage import Result, Stage, read_manifest
from eval.paper.numbers import METHOD_NAMES, load_experiment, paper_value
from eval.report.config import TableConfig

# The paper's metric -> ours that may be held against it: the same network, and trained.
COMPARABLE = {"FID": ("FID",), "LPIPS": ("LPIPS-alex", "LPIPS-vgg")}


def tabulate(config: TableConfig, stage: Stage) -> Result:
    """Write the table as Markdown, and the same numbers as JSON beside it."""
    stage.open()
    table = build(config)
    beside = config.out.with_suffix(".json")
    write_json(beside, table)
    write_text(config.out, render(table))
    cells = [cell for row in table["rows"] for cell in row["cells"]]
    filled = sum(cell["ours"] is not None for cell in cells)
    line = f"{filled} of {len(cells)} cells filled"
    return stage.finish({"filled": filled}, [config.out.name, beside.name], line)


def build(config: TableConfig) -> dict[str, Any]:
    """Rows x methods of {paper, ours, metric, budget, file}; `ours` is None where it was not run.

    Raises UserError for a metrics file that is damaged or of another task.
    """
    experiment = load_experiment(config.experiment)
    files = config.metrics()
    results = {cell: _read(path, cell[1]) for cell, path in files.items()}
    rows = []
    for row in experiment["rows"]:
        cells = []
        for method in config.methods:
            paper = paper_value(experiment, row, method)
            cell: dict[str, Any] = {
                "method": method,
                "paper": paper["value"] if paper else None,
                "paper_budget": {**experiment["defaults"], **paper} if paper else None,
                "ours": None,
            }
            result = results.get((method, row["task"]))
            if result is not None:
                part = result["distance" if row["metric"] == "FID" else "perceptual"]
                cell |= {
                    "ours": part["value"],
                    "metric": part["name"],
                    "comparable": part["name"] in COMPARABLE[row["metric"]],
                    "count": part.get("n_generated", part.get("pairs")),
                    "sampling": result["sampling"],
                    "training": _training(config.run, method, row["task"]),
                    "file": str(files[method, row["task"]]),
                }
                if "vae_floor" in result and row["metric"] == "FID":
                    cell["vae_floor"] = result["vae_floor"]["value"]
            cells.append(cell)
        rows.append({"label": row["label"], "paper_table": row["table"], "cells": cells})
    return {
        "experiment": config.experiment,
        "title": experiment["title"],
        "profile": config.profile,
        "methods": list(config.methods),
        "subsets": {method: _subset(config.run, method) for method in config.methods},
        "rows": rows,
    }


def _read(path: Path, task: str) -> dict[str, Any]:
    """One metrics file. Raises UserError when it is damaged or of another task."""
    try:
        result = json.loads(path.read_text(encoding="utf-8"))
        found = result["task"]
    except (ValueError, TypeError, KeyError) as error:
        raise UserError(
            f"{path}: not what eval.evaluate writes ({error}); delete it and run that again"
        ) from None
    if found != task:
        raise UserError(f"{path}: metrics of '{found}', expected '{task}'; it is misplaced")
    return result


def _training(run: Path, method: str, task: str) -> dict[str, Any]:
    folder = run / ("dit" if task == "generation" else task) / method
    params = read_manifest(folder)["params"] if (folder / "manifest.json").exists() else {}
    return {key: params[key] for key in ("model", "steps", "batch", "seed") if key in params}


def _subset(run: Path, method: str) -> dict[str, Any] | None:
    index = run / "subsets" / f"{method}.parquet"
    return {**read_manifest(index)["summary"], "file": str(index)} if index.exists() else None


def render(table: dict[str, Any]) -> str:
    """Markdown. In the mini profile `ours` stays 'not run' and the mini values stand apart."""
    mini = table["profile"] == "mini"
    names = [METHOD_NAMES.get(method, method) for method in table["methods"]]
    lines = [f"# {table['title']}", ""]
    if mini:
        lines += [
            "**Mini profile.** Small models, few images: values in the *mini* columns compare with",
            "each other only, never with the paper.",
            "",
        ]
    header = ["metric"]
    for name in names:
        header += [f"{name}, paper", f"{name}, ours", "difference"]
    if mini:
        header += [f"mini {name}" for name in names] + ["mini metric"]
    body = []
    for row in table["rows"]:
        line = [row["label"]]
        for cell in row["cells"]:
            paper, ours = cell["paper"], None if mini else cell["ours"]
            same = ours is not None and cell["comparable"]
            line += [
                "not transcribed" if paper is None else _number(paper),
                "not run" if ours is None else _number(ours) + ("" if same else " (see below)"),
                f"{ours - paper:+.4g}" if same and paper is not None else "-",
            ]
        if mini:
            line += ["not run" if c["ours"] is None else _number(c["ours"]) for c in row["cells"]]
            ran = [cell for cell in row["cells"] if cell["ours"] is not None]
            line.append("; ".join(sorted({f"{c['metric']}, n {c['count']}" for c in ran})) or "-")
        body.append(line)
    widths = [max(map(len, column)) for column in zip(header, *body, strict=True)]
    for line in [header, ["-" * width for width in widths], *body]:
        padded = [text.ljust(width) for text, width in zip(line, widths, strict=True)]
        lines.append(f"| {' | '.join(padded)} |")
    return "\n".join([*lines, "", *_notes(table)]) + "\n"


def _notes(table: dict[str, Any]) -> list[str]:
    lines = [f"- {METHOD_NAMES.get(m, m)}: {_budget(table, m)}" for m in table["methods"]]
    for row in table["rows"]:
        floors = {_number(c["vae_floor"]) for c in row["cells"] if "vae_floor" in c}
        if floors:
            lines.append(
                f"- {row['label']}: VAE reconstructions alone give {', '.join(sorted(floors))}."
            )
    if table["profile"] != "mini":
        lines += [
            f"- {row['label']}, {METHOD_NAMES.get(cell['method'], cell['method'])}: ours is "
            f"{cell['metric']}, which does not compare with the paper's."
            for row in table["rows"]
            for cell in row["cells"]
            if cell["ours"] is not None and not cell["comparable"]
        ]
    lines += [
        "- Lower is better everywhere. Paper column: arXiv 2512.23239v1 (eval/paper/paper.yaml);",
        "  its budgets differ between tables, so compare orderings, not values.",
    ]
    files = [cell["file"] for row in table["rows"] for cell in row["cells"] if "file" in cell]
    if files:
        lines.append("- Values come from: " + ", ".join(f"`{f}`" for f in dict.fromkeys(files)))
    return lines


def _budget(table: dict[str, Any], method: str) -> str:
    """Subset size, model, steps and sampler of a method."""
    subset = table["subsets"].get(method)
    parts = [f"{subset['counts']['B']:,} training images"] if subset else []
    cells = [cell for row in table["rows"] for cell in row["cells"]]
    ran = [c for c in cells if c["method"] == method and c["ours"] is not None]
    if not ran:
        return "; ".join([*parts, "not run"])
    training, sampling = ran[0]["training"], ran[0]["sampling"]
    parts.append(
        f"{training.get('model', '?')}, {training.get('steps', '?')} steps of "
        f"{training.get('batch', '?')}, {sampling.get('sampler', '?')} "
        f"{sampling.get('steps', '?')} steps, {sampling.get('weights', '?')} weights, "
        "last checkpoint"
    )
    return "; ".join(parts)


def _number(value: float) -> str:
    return f"{value:.4f}" if abs(value) < 1 else f"{value:.2f}"
