"""All jobs of an experiment: what they are, share, cost and need; and plan.json, which says so to readers."""

from __future__ import annotations

import os
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from core.atomic import write_json
from core.errors import UserError
from core.manifest import read_manifest
from experiments.grid import Experiment
from experiments.profiles import Profile
from experiments.river import Job, River

FORMAT = 1  # of plan.json, as eval.programme.plan reads it
_DISK_GB = { # what a stage leaves: for an item, as measured (latents: mean and deviation, both flips, fp16)
    "prune.embed": 2.1e-6, "dit.encode": 3.3e-5, "dit.sample": 1.2e-4, "downstream.evaluate": 3.6e-4,
}  # fmt: skip
_CHECKPOINT_GB = {"DiT-XL/2": 10.8, "DiT-L/2": 7.3, "DiT-B/2": 2.1, "DiT-S/2": 0.53}  # weights, EMA, Adam
SHARED = "shared"


@dataclass(frozen=True)
class Planned:
    """An experiment with its jobs in the order in which they can be made."""

    experiment: Experiment
    profile: Profile
    folder: Path
    jobs: list[Job]
    cells: list[dict[str, Any]]
    corpora: dict[str, str]

    @property
    def file(self) -> Path:
        """plan.json."""
        return self.folder / "plan.json"

    def log(self, job: Job) -> Path:
        """Where the job's output goes."""
        return self.folder.parent / "logs" / f"{job.id}.log"

    def seconds(self, job: Job) -> float | None:
        """Estimated seconds of one core, or of one GPU; None where the number of images is open."""
        costs = self.profile.costs
        about = costs.get(job.stage, costs["other"])
        if "per_item" in about and job.items is None:
            return None
        return about.get("seconds", 0.0) + about.get("per_item", 0.0) * (job.items or 0.0)

    def hours(self, job: Job) -> tuple[float | None, float | None]:
        """(GPU-hours, CPU-hours) to expect."""
        seconds = self.seconds(job)
        if seconds is None:
            return None, None
        return (seconds / 3600, 0.0) if job.gpus else (0.0, seconds / 3600)

    def disk(self, job: Job) -> float:
        """GB that the job is expected to leave."""
        if job.stage in ("dit.train", "downstream.train"):
            settings, machine = self.profile.settings, self.profile.machine[job.stage]
            kept = machine.get("keep-every")
            steps = settings["steps" if job.stage == "dit.train" else "tune_steps"]
            number = 2 + (steps // kept if kept else 0)
            return _CHECKPOINT_GB.get(settings["model"], 0.02) * number
        return _DISK_GB.get(job.stage, 0.0) * (job.items or 0.0)

    def damaged(self) -> list[Job]:
        """Finished jobs of which a file is missing, or no longer as long as it was written."""
        found = []
        for job in self.jobs:
            if job.target.suffix != ".json" or not job.target.exists():
                continue
            try:
                files = read_manifest(job.out)["files"]
            except UserError:
                continue  # the command itself says what is wrong with it
            base = job.target.parent
            if any(
                not (base / name).exists() or (base / name).stat().st_size != entry["bytes"]
                for name, entry in files.items()
            ):
                found.append(job)
        return found


def plan(experiment: Experiment, profile: Profile, runs: Path) -> Planned:
    """The jobs of an experiment's cells, each once, and which cells ask for it."""
    root = runs / profile.name
    river = River(profile, root)
    cells = []
    for cell in experiment.cells:
        runs_of = [(seed, river.run(cell, seed)) for seed in profile.settings["seeds"]]
        for seed, made in runs_of:
            tags = [cell.corpus, cell.method, f"ratio={cell.ratio:g}", f"seed={seed}", profile.name]
            for job in _with_needs(river, made.values()):
                if cell.name not in job.cells:
                    job.cells.append(cell.name)
                job.tags = tags if not job.tags else [tag for tag in job.tags if tag in tags]
        cells.append({
            "name": cell.name, "label": cell.subset, "corpus": cell.corpus, "method": cell.method,
            "ratio": cell.ratio, "keep": cell.keep, "reference": cell.reference, "clusters": cell.clusters,
            "reduce": cell.dimension, "steps": river.steps(cell), "paper": cell.paper,
            "command": f"PROFILE={profile.name} bash experiments/{experiment.name}.sh --only {cell.name}",
            "tasks": list(cell.tasks),
            "runs": [
                {"seed": seed, "jobs": {part: job.id for part, job in made.items()}}
                for seed, made in runs_of
            ],
        })  # fmt: skip
    corpora = {cell.corpus: _text(river.corpus(cell.corpus)) for cell in experiment.cells}
    return Planned(
        experiment, profile, root / experiment.name, _ordered(river), cells, corpora
    )


def write(planned: Planned) -> None:
    """plan.json, as eval.programme.plan reads it."""
    experiment, profile = planned.experiment, planned.profile
    jobs = []
    for job in planned.jobs:
        gpu_hours, cpu_hours = planned.hours(job)
        jobs.append({
            "id": job.id, "stage": job.stage, "out": str(job.out), "target": str(job.target),
            "needs": job.needs, "argv": job.argv, "log": str(planned.log(job)), "cells": job.cells,
            "tags": job.tags, "gpus": job.gpus, "cpus": job.cpus, "memory_gb": job.memory_gb,
            "gpu_hours": gpu_hours, "cpu_hours": cpu_hours, "disk_gb": planned.disk(job),
        })  # fmt: skip
    planned.folder.mkdir(parents=True, exist_ok=True)
    write_json(planned.file, {
        "format": FORMAT, "experiment": experiment.name, "title": experiment.title,
        "profile": profile.name, "kind": experiment.kind, "paper_tables": list(experiment.paper_tables),
        "folder": str(planned.folder), "holdout": profile.settings["holdout"], "corpora": planned.corpora,
        "command": command(planned), "settings": profile.settings, "root": str(Path.cwd()),
        "cells": planned.cells, "jobs": jobs,
    })  # fmt: skip


def command(planned: Planned) -> str:
    """The line that makes the experiment again, with what the environment changes."""
    words = [f"PROFILE={planned.profile.name}"]
    words += [f"{name}='{value}'" for name, value in sorted(planned.profile.changed.items())]
    return f"{' '.join(words)} bash experiments/{planned.experiment.name}.sh"


def describe(planned: Planned, commands: bool = True) -> str:
    """What would be made: the plain commands in order, what is shared, and what to expect."""
    lines = [planned.experiment.title, command(planned), ""]
    for job in planned.jobs if commands else []:
        state = "done already" if job.target.exists() else _resources(planned, job)
        lines += [f"# {job.id}: {state}", " ".join(map(_quoted, job.argv))]
    lines += ["", *summary(planned)]
    return "\n".join(lines)


def summary(planned: Planned) -> list[str]:
    """Counts, sharing, GPU-hours, disk."""
    jobs, left = planned.jobs, [job for job in planned.jobs if not job.target.exists()]
    shared = [job for job in jobs if len(job.cells) > 1]
    uses = sum(max(1, len(job.cells)) for job in jobs)
    lines = [
        f"{len(planned.cells)} cells, {len(jobs)} stages; without sharing it would be {uses}: "
        f"{len(shared)} of them serve several cells",
        f"{len(jobs) - len(left)} are there already, {len(left)} to make",
    ]
    rows = []
    for stage, count in Counter(job.stage for job in left).items():
        of = [job for job in left if job.stage == stage]
        known = [planned.hours(job) for job in of]
        gpu = sum(g or 0 for g, _ in known)
        cpu = sum(c or 0 for _, c in known)
        disk = sum(map(planned.disk, of))
        shared_here = sum(len(job.cells) > 1 for job in of)
        unknown = any(g is None for g, _ in known)
        rows.append((stage, count, shared_here, gpu, cpu, disk, unknown))
    if rows:
        lines.append(f"{'stage':<28}{'to make':>8}{'shared':>8}{'GPU-h':>10}{'core-h':>10}{'GB':>10}")
        for stage, count, shared_here, gpu, cpu, disk, unknown in rows:
            note = " and what depends on the number of images" if unknown else ""
            lines.append(
                f"{stage:<28}{count:>8}{shared_here:>8}{gpu:>10.1f}{cpu:>10.1f}{disk:>10.1f}{note}"
            )
        total = [sum(row[n] for row in rows) for n in (1, 2, 3, 4, 5)]
        lines.append(
            f"{'total':<28}{total[0]:>8}{total[1]:>8}{total[2]:>10.1f}{total[3]:>10.1f}{total[4]:>10.1f}"
        )
        lines.append("Hours are estimates (experiments/profiles.yaml, costs), not measurements.")
    return lines


def _resources(planned: Planned, job: Job) -> str:
    gpu, cpu = planned.hours(job)
    hours = "time not known beforehand" if gpu is None or cpu is None else (
        f"about {gpu / max(1, job.gpus) + cpu:.2f} h"
    )
    return f"{job.gpus} GPUs, {job.cpus} cores, {job.memory_gb:g} GB, {hours}"


def _quoted(word: str) -> str:
    import shlex

    return word if word.startswith("$") else shlex.quote(word)


def _text(place: Any) -> str:
    return place if isinstance(place, str) else str(place[0].out / place[1])


def _with_needs(river: River, jobs: Any) -> list[Job]:
    found: dict[str, Job] = {}
    waiting = list(jobs)
    while waiting:
        job = waiting.pop()
        if job.id not in found:
            found[job.id] = job
            waiting += [river.jobs[name] for name in job.needs]
    return list(found.values())


def _ordered(river: River) -> list[Job]:
    """The jobs, each after those that it needs, in the order of the cells."""
    done: dict[str, Job] = {}

    def add(job: Job) -> None:
        if job.id not in done:
            for name in job.needs:
                add(river.jobs[name])
            done[job.id] = job

    for job in river.jobs.values():
        if job.cells:
            add(job)
    return list(done.values())


def absolute(path: Path) -> str:
    """A path that does not depend on where the engine runs."""
    return os.path.abspath(path)  # noqa: PTH100 (without following links)
