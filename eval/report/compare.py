"""The paper's cells beside ours: sections, one for each of its tables and corpora, of lines.

A line is one cell of a family by one checkpoint rule: what the paper has, what we have, how far
both are apart, and at which budget. It is flat, as a line of table.csv.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Iterator, Sequence
from typing import Any

from core.errors import UserError
from eval.paper.numbers import Cell as PaperCell
from eval.paper.numbers import amount, paper_cell, paper_cells
from eval.programme.plan import Cell, Plan
from eval.records.costs import clustering_seconds
from eval.records.value import RULE_NAMES, value_of
from eval.report.bands import SHOWN, has_four_bands
from eval.report.records import Key, Records
from eval.report.seeds import mean_of

Line = dict[str, Any]
Column = tuple[str, str]
"""(task, metric)."""
FIGURES = {"fig1c": "Figure 1c", "fig3": "Figure 3", "fig4": "Figure 4"}
CLUSTERING = ("sample_size", "cluster_numbers", "feature_dimension", "seconds")
COLUMNS: tuple[Column, ...] = (
    *(("clustering", metric) for metric in CLUSTERING),
    ("generation", "FID"), ("sr", "FID"), ("sr", "LPIPS"), ("sis", "FID"), ("sis", "LPIPS"),
)  # fmt: skip
COLUMN_NAMES = {
    ("generation", "FID"): "Generation, FID",
    ("sr", "FID"): "SR, FID", ("sr", "LPIPS"): "SR, LPIPS",
    ("sis", "FID"): "SIS, FID", ("sis", "LPIPS"): "SIS, LPIPS",
    ("clustering", "sample_size"): "Images clustered",
    ("clustering", "cluster_numbers"): "Clusters K",
    ("clustering", "feature_dimension"): "Feature dimension",
    ("clustering", "seconds"): "Clustering, s",
}  # fmt: skip
# Which of a run's trainings has the steps of a task.
TRAINED = {"generation": "train", "sr": "sr-train", "sis": "sis-train"}
FIELDS = (
    "table", "corpus", "cell", "label", "method", "ratio", "task", "metric", "checkpoint",
    "bands", "profile", "state", "paper", "ours", "difference", "value", "measure", "comparable",
    "low", "high", "seeds_low", "seeds_high", "seeds", "n", "holdout", "training_images", "model",
    "steps", "batch", "sampler", "sampling_steps", "weights", "checkpoint_step", "judge",
    "paper_steps", "paper_checkpoint", "paper_remark", "remark", "command", "files",
)  # fmt: skip
"""Of a line, in the order of table.csv."""


@dataclasses.dataclass(frozen=True)
class Section:
    """One of the paper's tables on one corpus.

    Attributes:
        table: 'Table 1' and so on; '' where no table of the paper is meant.
        columns: those with a value of the paper's or a task of ours.
        lines: in the order of the rows, each of them column by column.
        absent: the paper's cells here that are no part of the plan.
    """

    table: str
    corpus: str
    columns: tuple[Column, ...]
    lines: tuple[Line, ...]
    absent: int


def sections(plan: Plan, records: Records) -> list[Section]:
    """The sections of an experiment.

    A family without a place in any of its tables stands in the first of its corpus, as a further
    row.

    Raises UserError where several families claim one cell of the paper, or one fits several.
    """
    figure = FIGURES.get(plan.experiment)
    tables = plan.paper_tables or ((figure,) if figure else ())
    placed: dict[str, set[str]] = {}  # family -> its tables
    cells = {table: paper_cells(table) for table in tables}
    for table in tables:
        for family in _claims(table, cells[table], plan.cells):
            placed.setdefault(family, set()).add(table)
    found: list[Section] = []
    further = {cell.name for cell in plan.cells} - set(placed)
    for table in tables or ("",):
        for corpus in dict.fromkeys(cell.corpus for cell in plan.cells):
            here = [cell for cell in plan.cells if cell.corpus == corpus]
            rows = [c for c in here if table in placed.get(c.name, ())]
            extra = [c for c in here if c.name in further]
            if table and not rows and any(c.name in placed for c in here):
                continue  # another table of the experiment has this corpus
            rows = [c for c in here if c in rows or c in extra]
            further -= {c.name for c in extra}
            if rows:
                paper = [cell for cell in cells.get(table, ()) if cell.get("corpus") == corpus]
                before = {line["cell"] for section in found for line in section.lines}
                found.append(_section(table, corpus, rows, paper, records, before))
    return found


def _claims(
    table: str, cells: Sequence[PaperCell], families: Sequence[Cell]
) -> dict[str, list[PaperCell]]:
    """Family -> the paper's cells that it fills. Raises UserError for duplicates."""
    owner: dict[int, Cell] = {}
    claimed: dict[str, list[PaperCell]] = {}
    for family in families:
        for task, metric in COLUMNS:
            cell = paper_cell(cells, family.paper, task, metric)
            if cell is None:
                continue
            other = owner.setdefault(id(cell), family)
            if other is not family:
                raise UserError(
                    f"{other.name} and {family.name}: both stand for one cell of {table} "
                    f"({cell['corpus']}, {cell['method']}, {task}, {metric}); give one of them no "
                    "`paper` key, or more of its fields, in the grid"
                )
            claimed.setdefault(family.name, []).append(cell)
    return claimed


def _section(
    table: str,
    corpus: str,
    rows: Sequence[Cell],
    paper: Sequence[PaperCell],
    records: Records,
    before: Collection[str],
) -> Section:
    """`before`: families that an earlier section has; here, only what the paper has of them."""
    lines: list[Line] = []
    used = 0
    for family in rows:
        budget = _training(family, records)
        for task, metric in COLUMNS:
            theirs = paper_cell(paper, family.paper, task, metric)
            used += theirs is not None
            planned = task in family.tasks
            if theirs is not None or (planned and family.name not in before):
                rules = (records.rules(family, task) if planned else []) or ["last"]
                lines += [
                    _line(table, family, (task, metric), rule, theirs, records, budget)
                    for rule in rules
                ]
    there = {(line["task"], line["metric"]) for line in lines}
    columns = tuple(column for column in COLUMNS if column in there)
    countable = [cell for cell in paper if (cell.get("task"), cell["metric"]) in COLUMNS]
    return Section(table, corpus, columns, tuple(lines), len(countable) - used)


def _line(
    table: str,
    family: Cell,
    column: Column,
    rule: str,
    theirs: PaperCell | None,
    records: Records,
    budget: dict[str, Any],
) -> Line:
    (task, metric), plan = column, records.plan
    line: Line = dict.fromkeys(FIELDS)
    line |= {
        "table": table, "corpus": family.corpus, "cell": family.name, "label": family.label,
        "method": family.method, "ratio": family.ratio, "task": task, "metric": metric,
        "checkpoint": RULE_NAMES.get(rule, rule), "profile": plan.profile,
        "command": family.command, "state": "missing", "files": [], "seeds": [],
    }  # fmt: skip
    if has_four_bands(family) and task != "clustering":
        line["bands"] = SHOWN
    if theirs is not None:
        line |= {
            "paper": theirs["value"], "paper_steps": theirs.get("steps"),
            "paper_checkpoint": theirs.get("checkpoint"), "paper_remark": theirs.get("remark"),
        }  # fmt: skip
    by_seed = dict(_values(line, family, column, rule, records))
    if not by_seed:
        return line | _why_not(family, task, rule, records)
    merged = mean_of(by_seed)
    line["values"] = {seed: cell["value"] for seed, cell in by_seed.items()}
    line |= {name: merged[name] for name in ("value", "measure", "comparable", "n", "holdout")}
    line["state"], line["seeds"] = "done", list(by_seed)
    line["low"], line["high"] = merged.get("interval_95") or (None, None)
    if "over_seeds" in merged:
        line["seeds_low"], line["seeds_high"] = merged["over_seeds"]["interval_95"]
    line |= budget | _training_of_task(family, task, records)
    if plan.profile == "paper":
        line["ours"] = line["value"]
        theirs_as_number = amount(line["paper"])
        if line["comparable"] and theirs_as_number is not None:
            line["difference"] = line["value"] - theirs_as_number
    if task != "clustering":
        missing = [str(run.seed) for run in family.runs if run.seed not in by_seed]
        said = f"without seed {', '.join(missing)}" if missing else None
        line["remark"] = "; ".join(filter(None, (line["remark"], said))) or None
    return line


def _values(
    line: Line, family: Cell, column: Column, rule: str, records: Records
) -> Iterator[tuple[int, dict[str, Any]]]:
    """(seed, value) of each training; how they were sampled is written into the line."""
    task, metric = column
    if task == "clustering":
        yield from _clustering(family, metric, records)
        return
    for seed, result in records.seeds(family, task, rule).items():
        sampling = result["sampling"]
        line |= {
            "sampler": sampling.get("sampler"), "sampling_steps": sampling.get("steps"),
            "weights": sampling.get("weights"), "judge": result["extractor"]["name"],
            "checkpoint_step": result.get("step"),
        }  # fmt: skip
        if result.get("remarks"):
            line["remark"] = "the judge chose this subset"
        line["files"].append(str(records.files[Key(family.name, seed, task, rule)]))
        yield seed, value_of(result, task, metric)


def _clustering(
    family: Cell, metric: str, records: Records
) -> Iterator[tuple[int, dict[str, Any]]]:
    """What Table 4 says of a clustering. All seeds share it, so that the first one is enough."""
    for run in family.runs[:1]:
        manifest = records.manifest(run, "centroids")
        if manifest is None:
            return
        summary = manifest["summary"]
        value = {
            "sample_size": summary.get("rows"),
            "cluster_numbers": summary.get("clusters"),
            "feature_dimension": summary.get("dim"),
        }.get(metric)
        if metric == "seconds":
            value = clustering_seconds(records.plan, run)
        if value is not None:
            yield run.seed, {
                "measure": metric.replace("_", " "), "value": value, "interval_95": None, "n": None,
                # Which hardware, and what was timed, the paper does not say.
                "comparable": metric != "seconds", "holdout": None,
            }  # fmt: skip


def _why_not(family: Cell, task: str, rule: str, records: Records) -> dict[str, Any]:
    """`state` and `remark` of a line without a value."""
    if task not in family.tasks:
        return {"state": "not planned"}
    parts = [p for p in ("assignments", "centroids") if p in family.runs[0].jobs]
    part = (parts or ["centroids"])[0] if task == "clustering" else records.part(family, task, rule)
    if (job := records.blocker(family, part)) is not None:
        return {"state": records.states[job.id], "remark": f"{job.stage} ({job.id})"}
    files = [records.files.get(Key(family.name, run.seed, task, rule)) for run in family.runs]
    damaged = [str(path) for path in files if path in records.damaged]
    return {"state": "damaged" if damaged else "missing", "files": damaged}


def _training(family: Cell, records: Records) -> dict[str, Any]:
    """training_images, model, steps and batch of a family's pretraining."""
    for run in family.runs:
        subset, train = (records.manifest(run, part) for part in ("subset", "train"))
        if train is not None:
            counts = (subset or {"summary": {}})["summary"].get("counts", {})
            params = train["params"]
            found = {name: params.get(name) for name in ("model", "steps", "batch")}
            return {"training_images": counts.get("B"), **found}
    return {}


def _training_of_task(family: Cell, task: str, records: Records) -> dict[str, Any]:
    """steps and batch of the training that a task's images come from."""
    if task in ("sr", "sis"):
        for run in family.runs:
            if (manifest := records.manifest(run, TRAINED[task])) is not None:
                return {name: manifest["params"].get(name) for name in ("steps", "batch")}
    return {}
