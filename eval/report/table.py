"""The tables of an experiment, from its plan and the records of its jobs."""

from __future__ import annotations

import csv
import dataclasses
import io
from typing import Any

from core.atomic import write_json, write_text
from core.errors import UserError
from core.stage import Result, Stage, digest_of, require_folder, sha256_file
from eval.paper.numbers import PAPER, budget_defaults
from eval.programme.plan import Plan
from eval.report.claims import claims
from eval.report.compare import FIELDS, sections
from eval.report.conclusion import conclusion
from eval.report.config import TablesConfig
from eval.report.four_bands import four_bands
from eval.report.latex import latex
from eval.report.log import last_line
from eval.report.markdown import markdown
from eval.report.measured import measured_rows
from eval.report.orderings import count, orderings
from eval.report.records import TASKS, Records
from eval.report.seeds import merge_seeds


def stage_of(config: TablesConfig, plan: Plan, records: Records) -> Stage:
    """The table is made again whenever a record, a job's state, the plan or the paper's differ."""
    out = config.out or plan.folder
    require_folder(out)
    inputs = {
        "plan": sha256_file(plan.file),
        "records": digest_of(records.digests()),
        "paper.yaml": sha256_file(PAPER),
    }
    params = {"experiment": plan.experiment, "profile": plan.profile}
    return Stage(out / "table.md", "eval.tables", params, inputs, replace=True)


def tabulate(plan: Plan, records: Records, stage: Stage) -> Result:
    """Write table.md, table.tex, table.csv (a line for each cell and checkpoint rule), table.json.

    Raises UserError before anything is written where rows were measured by different judges, or by
    one that chose, and where several families stand for one of the paper's cells.
    """
    table = build(plan, records)
    stage.open()
    folder = stage.manifest.parent
    in_json = {**table, "sections": [dataclasses.asdict(section) for section in table["sections"]]}
    write_json(folder / "table.json", in_json)
    write_text(folder / "table.csv", _csv(table))
    write_text(folder / "table.tex", latex(table))
    write_text(folder / "table.md", markdown(table))
    counts = count(pair for one in table["orderings"] for pair in one["pairs"])
    summary = {name: table[name] for name in ("filled", "planned")} | {"orderings": counts}
    summary["damaged"] = len(table["damaged"])
    names = [f"table.{suffix}" for suffix in ("md", "tex", "csv", "json")]
    line = f"{table['filled']} of {table['planned']} cells filled"
    return stage.finish(summary, names, line)


def build(plan: Plan, records: Records) -> dict[str, Any]:
    """All that the table says, in whichever form.

    `sections` (eval.report.compare), `orderings`, `claims` of figures; `measured`, for each corpus
    the rows of eval.report.measured and the `conclusion` in words; `four_bands`, for each corpus
    that has near infrared, eval.report.four_bands; `failed` jobs and `damaged`
    records; `filled` of `planned` cells.
    """
    found = sections(plan, records)
    lines = [line for section in found for line in section.lines]
    planned = [line for line in lines if line["state"] != "not planned"]
    mark = "" if plan.profile == "paper" else f" ({plan.profile})"
    return {
        "experiment": plan.experiment,
        "title": plan.title,
        "profile": plan.profile,
        "command": plan.command,
        "paper_defaults": budget_defaults(),
        "planned": len(planned),
        "filled": sum(line["value"] is not None for line in planned),
        "sections": found,
        "orderings": orderings(found),
        "claims": [{**claim, "mark": mark} for claim in _claims(plan, records)],
        "measured": _measured(plan, records),
        "four_bands": four_bands(plan, records),
        "failed": [
            {"id": name, "log": str(job.log), "last_line": last_line(job.log),
             "command": plan.command, "cells": list(job.cells)}
            for name, job in plan.jobs.items() if records.states[name] == "failed"
        ],
        "damaged": {str(path): problem for path, problem in records.damaged.items()},
    }  # fmt: skip


def _claims(plan: Plan, records: Records) -> list[dict[str, Any]]:
    try:
        return claims(plan)
    except (UserError, KeyError, TypeError) as error:
        if not records.damaged:  # which names the track
            records.note(plan.file, UserError(f"the tracks of {plan.experiment}: {error}"))
        return []


def _measured(plan: Plan, records: Records) -> list[dict[str, Any]]:
    """For each corpus what was measured of the last checkpoints, with floors, and in words."""
    measured = []
    for corpus in dict.fromkeys(cell.corpus for cell in plan.cells):
        cells = [cell for cell in plan.cells if cell.corpus == corpus]
        labels = [cell.label for cell in cells]
        results = {
            (cell.label if labels.count(cell.label) == 1 else cell.name, seed, task): result
            for cell in cells
            for task in TASKS
            for seed, result in records.seeds(cell, task, "last").items()
        }
        rows = merge_seeds(measured_rows(results))
        if rows:
            there = list(dict.fromkeys(label for label, _, _ in results))
            said = conclusion(rows, plan.profile != "paper")
            measured.append({"corpus": corpus, "labels": there, "rows": rows, "conclusion": said})
    return measured


def _csv(table: dict[str, Any]) -> str:
    """A line for each cell and checkpoint rule; lists with spaces between."""
    stream = io.StringIO()
    writer = csv.DictWriter(stream, FIELDS, extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    for section in table["sections"]:
        for line in section.lines:
            flat = {k: " ".join(map(str, v)) if isinstance(v, list) else v for k, v in line.items()}
            writer.writerow(flat)
    return stream.getvalue()
