"""What the dashboard shows, as plain data: progress, states, curves, costs, settings, files."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from core.errors import UserError
from core.manifest import manifest_path, read_record
from eval.pages.charts import Line, thinned
from eval.paper.numbers import CORPUS_NAMES
from eval.plots.palette import colour
from eval.plots.read import Curve, labels, tracked
from eval.programme.plan import Cell, Job, Plan, Run, State
from eval.records.costs import cost_of

STATES: tuple[State, ...] = ("done", "running", "failed", "missing")
LOG_LINES = 12
INFRARED = "infrared"  # folder of the samples in colour infrared, below theirs
_DASHES = ("", "6 3", "2 3", "8 3 2 3")
_LISTED = (".md", ".tex", ".csv", ".json", ".png", ".pdf", ".jpg", ".svg")
_ORDER = {
    part: number
    for number, part in enumerate((
        "scores", "reference", "holdout", "embeddings", "centroids", "assignments", "subset",
        "encode", "reconstruction", "train", "samples", "generation", "loss", "track",
        "sr-train", "sr-images", "sr", "sis-train", "sis-images", "sis",
    ))
}  # fmt: skip
"""Of the columns, as the work goes; what is not named comes last."""
_SETTINGS = ("model", "steps", "batch", "learning_rate", "ema_decay", "seed")


def states_of(plan: Plan) -> dict[str, State]:
    """Each job's state, looked at once so that all of the page agrees."""
    return {name: job.state() for name, job in plan.jobs.items()}


def progress(plan: Plan, states: dict[str, State]) -> dict[str, Any]:
    """Counts of states, hours spent, and the estimate of what is left.

    gpu_hours and seconds are of what is recorded; `unknown` counts what is left without estimate.
    """
    costs = spent(plan.jobs[name] for name, state in states.items() if state == "done")
    left = [plan.jobs[name] for name, state in states.items() if state != "done"]
    return {
        "total": len(states),
        "counts": {state: list(states.values()).count(state) for state in STATES},
        "gpu_hours": sum(cost.get("gpu_hours") or 0.0 for cost in costs),
        "seconds": sum(cost.get("seconds") or 0.0 for cost in costs),
        "gpu_hours_left": sum(job.gpu_hours or 0.0 for job in left),
        "cpu_hours_left": sum(job.cpu_hours or 0.0 for job in left),
        "unknown": sum(job.gpu_hours is None and job.cpu_hours is None for job in left),
    }


def grid(plan: Plan, states: dict[str, State]) -> dict[str, Any]:
    """Cells by parts: the state of each job, with the seeds that it is of."""
    names = labels(plan.cells)
    found = dict.fromkeys(part for cell in plan.cells for run in cell.runs for part in run.jobs)
    parts = sorted(found, key=lambda part: _ORDER.get(part.partition(":")[0], len(_ORDER)))
    rows = []
    for cell in plan.cells:
        fields = []
        for part in parts:
            seeds: dict[str, list[int]] = {}
            for run in cell.runs:
                if part in run.jobs:
                    seeds.setdefault(run.jobs[part], []).append(run.seed)
            fields.append([
                {"state": states[job], "job": job, "seeds": ", ".join(map(str, of))}
                for job, of in seeds.items()
            ])  # fmt: skip
        label = f"{names[cell.name]}, {CORPUS_NAMES.get(cell.corpus, cell.corpus)}"
        rows.append({"label": label, "name": cell.name, "fields": fields})
    return {"parts": parts, "rows": rows}


def failures(plan: Plan, states: dict[str, State]) -> list[dict[str, Any]]:
    """Failed jobs, with the end of their logs and the commands to try them again."""
    cells = {cell.name: cell for cell in plan.cells}
    return [
        {
            "id": name,
            "log": str(job.log),
            "lines": tail(job.log, LOG_LINES),
            "again": cells[job.cells[0]].command if len(job.cells) == 1 else plan.command,
            "command": " ".join(job.argv),
            "cells": [cells[cell].label for cell in job.cells if cell in cells],
        }
        for name, job in plan.jobs.items()
        if states[name] == "failed"
    ]


def tail(path: Path, count: int) -> list[str]:
    """The last lines of a file, of its last 8 kB; none of one that is not there."""
    try:
        with open(path, "rb") as stream:
            stream.seek(max(0, os.fstat(stream.fileno()).st_size - 8192))
            return stream.read().decode(errors="replace").splitlines()[-count:]
    except OSError:
        return []


def charts(plan: Plan) -> list[dict[str, Any]]:
    """Training loss against samples seen, and tracked distances against steps, by corpus."""
    names = labels(plan.cells)
    found = []
    for corpus in dict.fromkeys(cell.corpus for cell in plan.cells):
        cells = [cell for cell in plan.cells if cell.corpus == corpus]
        styles = _styles(cells)
        lines = [
            Line(
                names[cell.name] + (f", seed {run.seed}" if len(cell.runs) > 1 else ""),
                *styles[cell.name],
                thinned(list(_losses(plan, run))),
            )
            for cell in cells
            for run in cell.runs
        ]
        title = f"{CORPUS_NAMES.get(corpus, corpus)}: training loss"
        found.append(_chart(title, "samples seen", "loss", lines, log_y=True))
    curves = list(tracked(plan))
    for measure, corpus in dict.fromkeys((c.measure, c.cell.corpus) for c in curves):
        mine = [c for c in curves if c.measure == measure and c.cell.corpus == corpus]
        styles = _styles([curve.cell for curve in mine])
        lines = [line for curve in mine for line in _tracked(curve, names, styles)]
        title = f"{CORPUS_NAMES.get(corpus, corpus)}: {measure.words()}, {measure.detail()}"
        found.append(_chart(title, "training steps", measure.words(), lines))
    return [chart for chart in found if chart["lines"]]


def _chart(title: str, x: str, y: str, lines: list[Line], log_y: bool = False) -> dict[str, Any]:
    there = [line for line in lines if line.points]
    return {"title": title, "x": x, "y": y, "lines": there, "log_y": log_y}


def _tracked(
    curve: Curve, names: dict[str, str], styles: dict[str, tuple[str, str]]
) -> Iterator[Line]:
    for seed, points in curve.points.items():
        name = names[curve.cell.name] + (f", seed {seed}" if len(curve.cell.runs) > 1 else "")
        yield Line(name, *styles[curve.cell.name], [(p.step, p.value) for p in points])


def _styles(cells: list[Cell]) -> dict[str, tuple[str, str]]:
    """Cell -> colour of its method, and the dashes that tell cells of one method apart."""
    seen: dict[str, int] = {}
    styles = {}
    for cell in {cell.name: cell for cell in cells}.values():
        number = seen.setdefault(cell.method, 0)
        styles[cell.name] = colour(cell.method), _DASHES[number % len(_DASHES)]
        seen[cell.method] += 1
    return styles


def _losses(plan: Plan, run: Run) -> Iterator[tuple[float, float]]:
    """Samples seen and loss of a training, also of one that is still at it."""
    job = plan.job(run, "train")
    try:
        text = (job.out / "stats.jsonl").read_text(encoding="utf-8") if job else ""
    except OSError:
        return
    for row in text.splitlines():
        try:
            line = json.loads(row)
            yield float(line["samples"]), float(line["loss"])
        except (ValueError, KeyError, TypeError):  # cut off by a kill; the training repairs it
            continue


def costs(plan: Plan, states: dict[str, State]) -> list[dict[str, Any]]:
    """What each stage took so far, over its jobs; None where nothing is recorded."""
    rows = []
    for stage in dict.fromkeys(job.stage for job in plan.jobs.values()):
        jobs = [job for job in plan.jobs.values() if job.stage == stage]
        done = [job for job in jobs if states[job.id] == "done"]
        found = spent(done)
        left = [job for job in jobs if states[job.id] != "done"]
        seconds, images = _sum(found, "seconds"), _sum(found, "images")
        rows.append({
            "stage": stage, "done": len(done), "total": len(jobs),
            "shared": sum(len(job.cells) > 1 for job in jobs),
            "seconds": seconds, "gpu_hours": _sum(found, "gpu_hours"), "images": images,
            "images_per_s": images / seconds if images and seconds else None,
            "memory": _most(found, "peak_memory_gb"),
            "gpu_memory": _most(found, "peak_gpu_memory_gb"), "energy": _sum(found, "energy_kwh"),
            "gpu_hours_left": sum(job.gpu_hours or 0.0 for job in left) or None,
        })  # fmt: skip
    return rows


def columns(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The columns of `costs` beside time, and whether any row has a value there."""
    titles = {
        "gpu_hours": ("GPU-hours", 2), "images": ("images", 0), "images_per_s": ("images/s", 1),
        "memory": ("peak memory, GB", 1), "gpu_memory": ("peak GPU memory, GB", 1),
        "energy": ("energy, kWh", 3), "gpu_hours_left": ("GPU-hours left (estimate)", 1),
    }  # fmt: skip
    return [
        {"key": key, "title": title, "places": places,
         "known": any(row[key] for row in rows)}
        for key, (title, places) in titles.items()
    ]  # fmt: skip


def spent(jobs: Iterable[Job]) -> list[dict[str, Any]]:
    """The costs of finished jobs; of those that write one place (a store of latents) once."""
    places = {job.out: job for job in jobs}
    found = []
    for job in places.values():
        with contextlib.suppress(UserError):  # damaged: whoever needs it will say so
            found.append(cost_of(job))
    return [cost for cost in found if cost is not None]


def _known(found: list[dict[str, Any]], name: str) -> list[float]:
    return [cost[name] for cost in found if cost.get(name) is not None]


def _sum(found: list[dict[str, Any]], name: str) -> float | None:
    values = _known(found, name)
    return sum(values) if values else None


def _most(found: list[dict[str, Any]], name: str) -> float | None:
    return max(_known(found, name), default=None)


def settings(plan: Plan) -> list[dict[str, Any]]:
    """Each cell's settings, what its training ran with, and the digests of its finished parts."""
    names = labels(plan.cells)
    rows = []
    for cell in plan.cells:
        trained: dict[str, Any] = {}
        digests = []
        for run in cell.runs:
            for part in run.jobs:
                path = plan.record(run, part)
                manifest = _manifest(path) if path is not None else {}
                if part == "train":
                    params = manifest.get("params", {})
                    trained = trained or {k: params[k] for k in _SETTINGS if k in params}
                if digest := manifest.get("fingerprint"):
                    digests.append({"part": part, "seed": run.seed, "digest": digest,
                                    "out": str(path)})  # fmt: skip
        chosen = {
            "corpus": cell.corpus, "method": cell.method, "ratio": cell.ratio,
            "kept by Stage I": cell.keep, "reference": cell.reference, "clusters": cell.clusters,
            "reduced to": cell.reduce, "steps": cell.steps, "measured": ", ".join(cell.tasks),
            "seeds": ", ".join(str(run.seed) for run in cell.runs),
        }  # fmt: skip
        shown = {k: v for k, v in (chosen | trained).items() if v or k == "ratio"}
        label = f"{names[cell.name]}, {CORPUS_NAMES.get(cell.corpus, cell.corpus)}"
        rows.append({"label": label, "name": cell.name, "command": cell.command,
                     "settings": shown, "digests": digests})  # fmt: skip
    return rows


def _manifest(out: Path) -> dict[str, Any]:
    try:
        return read_record(manifest_path(out))
    except (OSError, UserError):
        return {}


def links(folder: Path) -> dict[str, list[str]]:
    """Other pages in the experiment's folder, and its other files, as relative links."""
    found = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*"))
    mine = [name for name in found if name.count("/") < 2 and not Path(name).name.startswith(".")]
    pages = [name for name in mine if name.endswith(".html") and name != "dashboard.html"]
    files = [n for n in mine if n.endswith(_LISTED) and not n.endswith("manifest.json")]
    return {"pages": pages, "files": files}


def image_jobs(plan: Plan) -> list[tuple[Cell, str, Path, Job]]:
    """(cell, what, folder, job) of the finished pictures, of each cell's first seed.

    What: samples, sr, sis; of samples of four bands also infrared, which lie below them.
    """
    found = []
    for part in ("samples", "sr-images", "sis-images"):
        for cell in plan.cells:
            job = plan.job(cell.runs[0], part) if cell.runs else None
            if job is not None and job.state() == "done":
                found.append((cell, part.removesuffix("-images"), job.out, job))
                if part == "samples" and (job.out / INFRARED).is_dir():
                    found.append((cell, INFRARED, job.out / INFRARED, job))
    return found
