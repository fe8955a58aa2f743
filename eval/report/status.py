"""How far an experiment is: its jobs and cells by state, what failed, what is left. Light."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Mapping

from eval.programme.plan import Job, Plan, State
from eval.report.log import last_line

STATES: tuple[State, ...] = ("done", "running", "failed", "missing")


def status(plan: Plan) -> str:
    """Text: a line for each cell, totals, failed jobs with how to try again, and what is left.

    A cell is done when all its jobs are, failed when one of them did, running when one runs. Hours
    are the plan's estimates; a running job counts as all left.
    """
    states = {name: job.state() for name, job in plan.jobs.items()}
    rows, cells = [], []
    for cell in plan.cells:
        jobs = [states[job.id] for job in plan.jobs_of(cell)]
        cells.append(_of_cell(jobs))
        rows.append([cell.name, cells[-1], *(str(jobs.count(state)) for state in STATES)])
    rows.append(["all jobs", "", *(str([*states.values()].count(state)) for state in STATES)])
    counts = [f"{cells.count(state)} {state}" for state in STATES]
    lines = [
        f"{plan.title}, profile {plan.profile}: {plan.file}", "",
        *_columns([["cell", "state", *STATES], *rows]), "",
        f"Cells: {', '.join(counts)}, of {len(cells)}.",
    ]  # fmt: skip
    for name, job in plan.jobs.items():
        if states[name] == "failed":
            lines += ["", f"failed: {name}", f"  last line: {last_line(job.log)}",
                      f"  log: {job.log}", f"  try again: {_again(plan, job)}",
                      f"  alone: {shlex.join(job.argv)}"]  # fmt: skip
    left = {name: job for name, job in plan.jobs.items() if states[name] != "done"}
    lines += ["", _left(left), *([f"{plan.command} continues."] if left else [])]
    return "\n".join(lines)


def _of_cell(jobs: Iterable[State]) -> State:
    there = set(jobs)
    order: tuple[State, ...] = ("failed", "running", "missing")
    return next((state for state in order if state in there), "done")


def _again(plan: Plan, job: Job) -> str:
    """The command that fills the job's cell, or all of the experiment where it is shared."""
    cells = [cell for cell in plan.cells if cell.name in job.cells]
    return cells[0].command if len(cells) == 1 else plan.command


def _left(left: Mapping[str, Job]) -> str:
    """The estimated hours of what is not done, as far as the plan knows them."""
    if not left:
        return "Nothing is left to do."
    gpu = sum(job.gpu_hours or 0.0 for job in left.values())
    cpu = sum(job.cpu_hours or 0.0 for job in left.values() if not job.gpus)
    hours = {name: _hours(job) for name, job in left.items()}
    ends: dict[str, float] = {}
    for name in left:
        _end(name, left, hours, ends)
    text = (
        f"Left, estimated: {gpu:,.3g} GPU-hours, {cpu:,.3g} CPU-hours in {len(left)} jobs; "
        f"{sum(hours.values()):,.3g} hours one after another, at least {max(ends.values()):,.3g} "
        "side by side."
    )
    unknown = sum(job.gpu_hours is None and job.cpu_hours is None for job in left.values())
    return text + (f" Of {unknown} jobs nothing is known." if unknown else "")


def _hours(job: Job) -> float:
    """Estimated wall time: a job with GPUs takes its GPU-hours over their number."""
    if job.gpus:
        return (job.gpu_hours or 0.0) / job.gpus
    return (job.cpu_hours or 0.0) / max(1, job.cpus)


def _end(
    name: str, jobs: Mapping[str, Job], hours: Mapping[str, float], ends: dict[str, float]
) -> float:
    """When a job ends, if each begins as soon as those that it needs have ended."""
    if name not in ends:
        before = [need for need in jobs[name].needs if need in jobs]
        ends[name] = max((_end(one, jobs, hours, ends) for one in before), default=0.0)
        ends[name] += hours[name]
    return ends[name]


def _columns(rows: list[list[str]]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = []
    for row in rows:
        cells = [
            text.rjust(width) if i > 1 else text.ljust(width)
            for i, (text, width) in enumerate(zip(row, widths, strict=True))
        ]
        lines.append("  ".join(cells))
    return lines
