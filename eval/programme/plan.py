"""Reading a plan: which records belong to which cell, and how far each job is.

experiments/ writes RUNS/PROFILE/EXPERIMENT/plan.json; nothing here knows how it is executed. Paths
in a plan are relative to its `root` (where the commands run). Light to import.
"""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Iterator
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Literal, TypeVar

from core.errors import UserError

State = Literal["done", "running", "failed", "missing"]
FORMAT = 1
T = TypeVar("T")


@dataclass(frozen=True)
class Job:
    """One command, whose finished output several cells may share.

    Attributes:
        id: its name in the plan, with a fingerprint of the command and of all before it.
        stage: the command's module, for example 'dit.train'.
        out: folder or file that it writes.
        target: the file whose presence means done (a manifest, or a note of the runner).
        needs: ids of the jobs whose outputs it reads.
        argv: the plain command, from 'python' on.
        log: its output; beside it LOG.running ('HOST PID') and LOG.failed (exit code) while so.
        cells: names of the cells that it belongs to; of a shared job several.
        gpus, cpus, memory_gb: what it is given.
        gpu_hours, cpu_hours: estimates at this profile; None where nothing is known.
        disk_gb: estimated size of what it leaves.
    """

    id: str
    stage: str
    out: Path
    target: Path
    needs: tuple[str, ...]
    argv: tuple[str, ...]
    log: Path
    cells: tuple[str, ...] = ()
    gpus: int = 0
    cpus: int = 1
    memory_gb: float = 0.0
    gpu_hours: float | None = None
    cpu_hours: float | None = None
    disk_gb: float | None = None

    def state(self) -> State:
        """Done, running, failed or missing, from what lies on the disk."""
        if self.target.exists():
            return "done"
        if _alive(self.log.with_suffix(".running")):
            return "running"
        return "failed" if self.log.with_suffix(".failed").exists() else "missing"


@dataclass(frozen=True)
class Run:
    """One training of a cell, by its seed: the ids of the jobs that end in each record.

    Attributes:
        seed: of the training (and of draws, where the method draws).
        jobs: what the job is to the cell -> its id: subset, train, samples, generation (metrics),
            loss, track, sr-train, sr-images, sr (metrics), sis-train, sis-images, sis (metrics),
            centroids, assignments, embeddings; more by checkpoint: 'sr:best-test' and so on.
    """

    seed: int
    jobs: dict[str, str]


@dataclass(frozen=True)
class Cell:
    """A cell family: a corpus, a method and its settings, with all tasks.

    Attributes:
        name: as on the command line, for example 'git10m/rsprune-70-D30'.
        label: the row of the table.
        paper: fields that this family's cells have in eval/paper/paper.yaml, e.g. corpus, method,
            ratio, subset, reference; None where the paper has none.
        command: what fills the cell.
        steps: of the training.
        tasks: of generation, loss, track, sr, sis, clustering: what is measured.
    """

    name: str
    label: str
    corpus: str
    method: str
    ratio: float
    keep: float
    reference: str
    clusters: int
    reduce: int
    steps: int
    paper: dict[str, Any] | None
    command: str
    tasks: tuple[str, ...]
    runs: tuple[Run, ...]


@dataclass(frozen=True)
class Plan:
    """An experiment with all its cells and jobs."""

    experiment: str
    title: str
    profile: str
    kind: Literal["table", "figure"]
    paper_tables: tuple[str, ...]
    folder: Path
    """Where the table, figures and the dashboard of the experiment go."""
    command: str
    holdout: int
    """Images in each hold-out, and samples drawn."""
    corpora: dict[str, str]
    """Corpus name -> its specification, as prune.score takes it."""
    cells: tuple[Cell, ...]
    jobs: dict[str, Job]
    file: Path = field(default=Path("plan.json"))

    def job(self, run: Run, part: str) -> Job | None:
        """The job that is `part` of a run (see Run), or None where it has none."""
        return self.jobs[run.jobs[part]] if part in run.jobs else None

    def record(self, run: Run, part: str) -> Path | None:
        """The output of that job if it is finished, else None."""
        job = self.job(run, part)
        return job.out if job is not None and job.state() == "done" else None

    def jobs_of(self, cell: Cell) -> Iterator[Job]:
        """All jobs that the cell needs, shared ones too, in the order of the plan."""
        return (job for job in self.jobs.values() if cell.name in job.cells)


def plan_file(experiment: str, profile: str, runs: Path = Path("runs")) -> Path:
    """Where the plan of an experiment is."""
    return runs / profile / experiment / "plan.json"


def read_plan(path: Path) -> Plan:
    """The plan in a file. Raises UserError where it is missing, damaged or of another version."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        if found["format"] != FORMAT:
            raise UserError(f"{path}: of another version; run the experiment's script again")
        jobs = {job["id"]: _make(Job, job, ("out", "target", "log")) for job in found["jobs"]}
        cells = tuple(
            _make(Cell, {**cell, "runs": tuple(_make(Run, run) for run in cell["runs"])})
            for cell in found["cells"]
        )
        return _make(Plan, {**found, "cells": cells, "jobs": jobs, "file": path}, ("folder",))
    except FileNotFoundError:
        raise UserError(
            f"{path}: no such plan; bash experiments/{path.parent.name}.sh --dry-run writes it "
            f"(with PROFILE={path.parent.parent.name})"
        ) from None
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"{path}: not a plan ({error}); run the experiment's script again"
        ) from None


def _make(kind: type[T], found: dict[str, Any], paths: tuple[str, ...] = ()) -> T:
    names = {f.name for f in fields(kind)}  # type: ignore[arg-type]
    values = {
        name: Path(value) if name in paths else tuple(value) if isinstance(value, list) else value
        for name, value in found.items()
        if name in names
    }
    return kind(**values)


def _alive(note: Path) -> bool:
    """Whether the process in 'HOST PID' runs; of another host's it is taken that it does."""
    try:
        host, pid = note.read_text().split()
        if host != platform.node():
            return True
        os.kill(int(pid), 0)
    except (OSError, ValueError):
        return False
    return True
