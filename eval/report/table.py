"""The table of a run: what it measured, and paper | ours | difference, from its metrics files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from core.atomic import write_json, write_text
from core.errors import UserError
from core.stage import Result, Stage, read_manifest
from eval.judges.registry import check_judge
from eval.paper.numbers import load_experiment, paper_value
from eval.report.conclusion import conclusion
from eval.report.config import TableConfig, run_name
from eval.report.measured import measured_rows
from eval.report.render import render
from eval.report.seeds import merge_seeds

# The paper's metric -> ours that may be held against it: the same network, and trained.
COMPARABLE = {"FID": ("FID",), "LPIPS": ("LPIPS-alex", "LPIPS-vgg")}


def tabulate(config: TableConfig, stage: Stage) -> Result:
    """Write the table as Markdown, and the same numbers as JSON beside it."""
    stage.open()
    table = build(config)
    beside = config.out.with_suffix(".json")
    write_json(beside, table)
    write_text(config.out, render(table))
    cells = [row["cells"].get(method) for row in table["measured"] for method in config.methods]
    filled = sum(cell is not None for cell in cells)
    line = f"{filled} of {len(cells)} cells filled"
    return stage.finish({"filled": filled}, [config.out.name, beside.name], line)


def build(config: TableConfig) -> dict[str, Any]:
    """`measured`, the rows of eval.report.measured; `rows`, the paper's cells beside ours; and the
    `conclusion` in words. `ours` is None where it was not run.

    Raises UserError for a metrics file that is damaged, of another task or of an earlier version,
    and for values of one row that are not of one metric.
    """
    experiment = load_experiment(config.experiment)
    files = config.metrics()
    results = {cell: _read(path, cell[1]) for cell, path in files.items()}
    _check_judges(results, files)
    trainings = tuple(run_name(m, seed) for m in config.methods for seed in config.seeds)
    measured = merge_seeds(measured_rows(results, trainings), config.methods, config.seeds)
    mini = config.profile == "mini"
    return {
        "experiment": config.experiment,
        "title": experiment["title"],
        "profile": config.profile,
        "methods": list(config.methods),
        "subsets": {method: _subset(config.run, method) for method in config.methods},
        "budgets": {method: _budget(config.run, results, method) for method in config.methods},
        "measured": measured,
        "conclusion": conclusion(measured, mini),
        "rows": [
            {
                "label": row["label"],
                "paper_table": row["table"],
                "cells": [
                    _against_paper(experiment, row, method, results, files)
                    for method in config.methods
                ],
            }
            for row in experiment["rows"]
        ],
    }


def _against_paper(
    experiment: dict[str, Any],
    row: dict[str, Any],
    method: str,
    results: dict[tuple[str, str], dict[str, Any]],
    files: dict[tuple[str, str], Path],
) -> dict[str, Any]:
    """One cell: the paper's value with its budget, and ours with its own."""
    paper = paper_value(experiment, row, method)
    cell: dict[str, Any] = {
        "method": method,
        "paper": paper["value"] if paper else None,
        "paper_budget": {**experiment["defaults"], **paper} if paper else None,
        "ours": None,
    }
    result = results.get((method, row["task"]))
    if result is None:
        return cell
    if row["metric"] == "LPIPS":
        part = result["perceptual"]
    elif row["task"] == "generation":  # the paper's hold-out is "high-quality": the nearest kind
        held = result["holdouts"]
        name = "informative" if "informative" in held else next(iter(held))
        part = held[name]["distance"]
        cell["holdout"] = name
    else:
        part = result["distance"]
    return cell | {
        "ours": part["value"],
        "interval_95": part.get("interval_95"),
        "metric": part["name"],
        "comparable": part["name"] in COMPARABLE[row["metric"]],
        "count": part.get("n_generated", part.get("pairs")),
        "sampling": result["sampling"],
        "file": str(files[method, row["task"]]),
    }


def _read(path: Path, task: str) -> dict[str, Any]:
    """One metrics file. Raises UserError when it is damaged or of another task or version."""
    maker = "eval.loss" if task == "loss" else "eval.evaluate"
    try:
        result = json.loads(path.read_text(encoding="utf-8"))
        found = result["task"]
    except (ValueError, TypeError, KeyError) as error:
        raise UserError(
            f"{path}: not what {maker} writes ({error}); delete it and run that again"
        ) from None
    if found != task:
        raise UserError(f"{path}: metrics of '{found}', expected '{task}'; it is misplaced")
    needed = {"generation": ["holdouts"], "loss": ["ema", "raw"]}.get(task, ["perceptual"])
    if not set(needed) & set(result):
        raise UserError(
            f"{path}: of an earlier version (no '{needed[0]}'); delete it and run {maker} again"
        )
    return result


def _check_judges(
    results: dict[tuple[str, str], dict[str, Any]], files: dict[tuple[str, str], Path]
) -> None:
    """Raise UserError where methods were measured by different judges, or by one that chose."""
    choosers = {m: r["chosen_by"] for (m, _), r in results.items() if "chosen_by" in r}
    for task in ("generation", "sr", "sis"):
        judges = {m: r["extractor"] for (m, t), r in results.items() if t == task}
        if len({json.dumps(judge, sort_keys=True) for judge in judges.values()}) > 1:
            places = ", ".join(str(files[method, task]) for method in judges)
            names = ", ".join(judge["name"] for judge in judges.values())
            raise UserError(
                f"{places}: measured by different judges ({names}); measure them again with one"
            )
        for judge in judges.values():  # of a subset in this table, though not of its own
            allowed = any(results[m, task].get("remarks") for m in judges)
            check_judge(judge, choosers, allow=allowed)


def _subset(run: Path, method: str) -> dict[str, Any] | None:
    index = run / "subsets" / f"{method}.parquet"
    return {**read_manifest(index)["summary"], "file": str(index)} if index.exists() else None


def _budget(
    run: Path, results: dict[tuple[str, str], dict[str, Any]], method: str
) -> dict[str, Any]:
    """Training and sampling of each task of a method, as far as the run has them."""
    budget: dict[str, Any] = {}
    for (of, task), result in results.items():
        if of != method or task == "loss":
            continue
        folder = run / ("dit" if task == "generation" else task) / method
        params = read_manifest(folder)["params"] if (folder / "manifest.json").exists() else {}
        trained = {key: params[key] for key in ("model", "steps", "batch", "seed") if key in params}
        budget[task] = {"training": trained, "sampling": result["sampling"]}
    return budget
