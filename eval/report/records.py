"""What the jobs of a plan left for its table: metrics by family, seed, task and checkpoint rule."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from core.errors import UserError
from core.manifest import read_manifest, sha256_file, verify_file
from eval.judges.registry import check_judge
from eval.programme.plan import Cell, Job, Plan, Run
from eval.records.record import newest, read_lines
from eval.records.value import RULES, Result, value_of
from eval.report.log import last_line
from eval.report.measured import measured_rows

TASKS = ("generation", "loss", "sr", "sis")
BEST = "best-test"  # on the hold-out itself, as the paper reports; of a track, for generation


class Key(NamedTuple):
    """Names one metrics record: a family's training, its task, and which checkpoint."""

    cell: str
    seed: int
    task: str
    rule: str


class Records:
    """The records of the finished jobs, each read once; what is damaged is named and left out.

    Attributes:
        states: id of a job -> done, running, failed or missing, as it was when this was made.
        results: the metrics that are there.
        files: where each was read.
        damaged: file -> what is wrong with it.
    """

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.states = {name: job.state() for name, job in plan.jobs.items()}
        self.results: dict[Key, Result] = {}
        self.files: dict[Key, Path] = {}
        self.damaged: dict[Path, str] = {}
        for key, part, path in self._there():
            try:
                track = part == "track"
                self.results[key] = _best_of_track(path) if track else _read(path, key.task)
            except UserError as error:
                self.note(path, error)
            self.files[key] = path
        self._check_judges()

    def note(self, path: Path, error: UserError) -> None:
        """Say aloud, once, that a record is damaged."""
        if path not in self.damaged:
            self.damaged[path] = str(error)
            print(f"WARNING: DAMAGED RECORD LEFT OUT: {error}", file=sys.stderr, flush=True)

    def rules(self, cell: Cell, task: str) -> list[str]:
        """The checkpoint rules that the plan has for a task of a family, 'last' first."""
        parts = {part for run in cell.runs for part in run.jobs}
        return [rule for rule in RULES if part_of(task, rule, parts) in parts]

    def part(self, cell: Cell, task: str, rule: str) -> str:
        """The part of a run (see Run.jobs) that measures a task by a rule."""
        return part_of(task, rule, {part for run in cell.runs for part in run.jobs})

    def blocker(self, cell: Cell, part: str) -> Job | None:
        """Why a part is not there: the first job before it that failed, else the one that runs,
        else the first that is missing; None where all seeds' are done."""
        jobs: dict[str, Job] = {}
        for run in cell.runs:
            if (job := self.plan.job(run, part)) is not None:
                self._with_needs(job, jobs)
        for state in ("failed", "running", "missing"):
            for job in jobs.values():
                if self.states[job.id] == state:
                    return job
        return None

    def manifest(self, run: Run, part: str) -> dict[str, Any] | None:
        """The manifest of a finished part; None where it is not finished, or damaged."""
        job = self.plan.job(run, part)
        if job is None or self.states[job.id] != "done":
            return None
        try:
            return read_manifest(job.out)
        except UserError as error:
            self.note(job.out, error)
            return None

    def seeds(self, cell: Cell, task: str, rule: str) -> dict[int, Result]:
        """Seed -> its metrics, of those that are there."""
        keys = {run.seed: Key(cell.name, run.seed, task, rule) for run in cell.runs}
        return {seed: self.results[key] for seed, key in keys.items() if key in self.results}

    def digests(self) -> dict[str, str]:
        """What a table is made from: digests of the records, states of the jobs, last log lines."""
        found = {"/".join(map(str, key)): _digest(path) for key, path in self.files.items()}
        found |= {f"state of {name}": state for name, state in self.states.items()}
        rebuilt = (job for job in self.plan.jobs.values() if job.stage == "eval.reconstruction")
        found |= {job.id: _digest(job.out) for job in rebuilt}
        for name, job in self.plan.jobs.items():
            if self.states[name] == "failed":
                found[f"log of {name}"] = last_line(job.log)
        return found

    def _there(self) -> Iterator[tuple[Key, str, Path]]:
        for cell in self.plan.cells:
            for task in TASKS:
                for rule in self.rules(cell, task):
                    part = self.part(cell, task, rule)
                    for run in cell.runs:
                        job = self.plan.job(run, part)
                        if job is not None and self.states[job.id] == "done":
                            path = job.out / "track.jsonl" if part == "track" else job.out
                            yield Key(cell.name, run.seed, task, rule), part, path

    def _with_needs(self, job: Job, found: dict[str, Job]) -> None:
        """Add the job and all before it, those first."""
        for need in job.needs:
            if need in self.plan.jobs and need not in found:
                self._with_needs(self.plan.jobs[need], found)
        found[job.id] = job

    def _check_judges(self) -> None:
        """Raise UserError where a column was measured by different judges, or by one that chose."""
        corpus = {cell.name: cell.corpus for cell in self.plan.cells}
        choosers: dict[str, dict[str, Any]] = {}
        columns: dict[tuple[str, str, str], list[Key]] = {}
        for key, result in self.results.items():
            if "chosen_by" in result:
                choosers.setdefault(corpus[key.cell], {})[key.cell] = result["chosen_by"]
            if "extractor" in result:
                columns.setdefault((corpus[key.cell], key.task, key.rule), []).append(key)
        for (where, task, _), keys in columns.items():
            judges = {key: self.results[key]["extractor"] for key in keys}
            if len({json.dumps(judge, sort_keys=True) for judge in judges.values()}) > 1:
                places = ", ".join(str(self.files[key]) for key in keys)
                names = ", ".join(dict.fromkeys(judge["name"] for judge in judges.values()))
                raise UserError(
                    f"{where}, {task}: measured by different judges ({names}); measure them again "
                    f"with one: {places}"
                )
            # Of a subset in this column, though not of each one's own.
            allowed = any(self.results[key].get("remarks") for key in keys)
            check_judge(judges[keys[0]], choosers.get(where, {}), allow=allowed)


def part_of(task: str, rule: str, parts: Iterable[str]) -> str:
    """The part of a run that measures a task by a rule; a track has generation's best."""
    if rule == "last":
        return task
    named = f"{task}:{rule}"
    return "track" if task == "generation" and rule == BEST and named not in parts else named


def _digest(path: Path) -> str:
    return sha256_file(path) if path.is_file() else "missing"


def _read(path: Path, task: str) -> Result:
    """One metrics file. Raises UserError when it is damaged or of another task or version."""
    maker = "eval.loss" if task == "loss" else "eval.evaluate"
    try:
        result = json.loads(path.read_text(encoding="utf-8"))
        found = result["task"]
    except (OSError, ValueError, TypeError, KeyError) as error:
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
    verify_file(path)
    _require_values(path, result, task, maker)
    return dict(result)


def _require_values(path: Path, result: Mapping[str, Any], task: str, maker: str) -> None:
    """Raise UserError for what a table could not show: it is tried."""
    try:
        measured_rows({("", 0, task): dict(result)})
        if task != "loss":
            _ = result["extractor"]["name"], dict(result["sampling"])
            value_of(dict(result), task, "FID")
    except (KeyError, TypeError, ValueError, AttributeError, StopIteration) as error:
        what = f"{type(error).__name__}: {error}"
        raise UserError(
            f"{path}: not what {maker} writes ({what}); delete it and run that again"
        ) from None


def _best_of_track(path: Path) -> Result:
    """The metrics of a track's checkpoint that is nearest to the hold-out. Raises UserError."""
    if not path.exists():
        raise UserError(f"{path}: missing; delete its folder and run eval.track again")
    lines, _ = read_lines(path)
    found = []
    for line in newest(lines).values():
        distances = line.get("distances") or {}
        if not distances and line["distance"]:
            distances = {"pool": line["distance"]}  # of an earlier version
        result = {
            "task": "generation",
            "extractor": line["extractor"],
            "holdouts": {name: {"distance": one} for name, one in distances.items()},
            "sampling": line["sampling"],
            "step": line["step"],
        }
        if distances:  # else it diverged
            _require_values(path, result, "generation", "eval.track")
            found.append(result)
    if not found:
        raise UserError(f"{path}: no finite line; run eval.track again")
    return min(found, key=lambda result: value_of(result, "generation", "FID")["value"])
