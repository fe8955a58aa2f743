"""All jobs of an experiment: what they are, share, cost and need; plan.json says so to readers."""

from __future__ import annotations

import os
import shlex
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from core.atomic import write_json
from core.errors import UserError
from core.manifest import read_manifest
from core.parallel import available_cpus
from experiments.commands import Job, text_of
from experiments.grid import Experiment
from experiments.profiles import Profile
from experiments.river import ON_GPU, River

FORMAT = 1  # of plan.json, as eval.programme.plan reads it
_DISK_GB = {  # what a stage leaves for an item (latents: mean and deviation, both flips, fp16)
    "prune.embed": 2.1e-6, "dit.encode": 3.3e-5, "dit.sample": 1.2e-4,
    "downstream.evaluate": 3.6e-4,
}  # fmt: skip
_VAE_GB = {"paper": 4.0}  # three exports, and a checkpoint with Adam and the discriminator
_CHECKPOINT_GB = {
    "DiT-XL/2": 10.8,
    "DiT-L/2": 7.3,
    "DiT-B/2": 2.1,
    "DiT-S/2": 0.53,
}  # weights, EMA, Adam
SHARED = "shared"


@dataclass(frozen=True)
class Planned:
    """An experiment with its jobs in the order in which they can be made.

    Attributes:
        jobs: of all cells.
        chosen: names of the cells that are to be made, of all of them by default.
        cells, corpora: as plan.json has them.
    """

    experiment: Experiment
    profile: Profile
    folder: Path
    jobs: list[Job]
    cells: list[dict[str, Any]]
    corpora: dict[str, str]
    chosen: frozenset[str]

    @property
    def wanted(self) -> list[Job]:
        """The jobs of the chosen cells."""
        return [job for job in self.jobs if not self.chosen.isdisjoint(job.cells)]

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
        if job.stage == "dit.train_vae":
            return _VAE_GB.get(self.profile.name, 0.05)
        return _DISK_GB.get(job.stage, 0.0) * (job.items or 0.0)

    def damaged(self) -> list[Job]:
        """Finished jobs of which a file is missing, or no longer as long as it was written."""
        found = []
        for job in self.wanted:
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


def plan(
    experiment: Experiment, profile: Profile, runs: Path, chosen: Experiment | None = None
) -> Planned:
    """The jobs of an experiment's cells, each once, and which cells ask for it.

    `chosen` is what `grid.only` leaves of it: what is to be made now.
    """
    root = runs / profile.name
    river = River(profile, root)
    line = command(experiment, profile)
    cells = []
    # Seed by seed, so that what is finished of an interrupted comparison is balanced.
    made_of = {
        (cell.name, seed): river.run(cell, seed)
        for seed in profile.settings["seeds"]
        for cell in experiment.cells
    }
    for cell in experiment.cells:
        runs_of = [(seed, made_of[cell.name, seed]) for seed in profile.settings["seeds"]]
        for seed, made in runs_of:
            tags = [
                f"corpus:{cell.corpus}", f"method:{cell.method}", f"ratio:{cell.ratio:g}",
                f"seed:{seed}", f"profile:{profile.name}",
            ]  # fmt: skip
            for job in _with_needs(river, made.values()):
                if cell.name not in job.cells:
                    job.cells.append(cell.name)
                job.tags = tags if not job.tags else [tag for tag in job.tags if tag in tags]
        cells.append({
            "name": cell.name, "label": cell.subset, "corpus": cell.corpus, "method": cell.method,
            "ratio": cell.ratio, "keep": cell.keep, "reference": cell.reference,
            "clusters": cell.clusters,
            "reduce": cell.dimension, "steps": river.steps(cell), "paper": cell.paper,
            "command": f"{line} --only {cell.name}",
            "tasks": list(cell.tasks),
            "runs": [
                {"seed": seed, "jobs": {part: job.id for part, job in made.items()}}
                for seed, made in runs_of
            ],
        })  # fmt: skip
    _share_stores(river)
    corpora = {cell.corpus: text_of(river.corpus(cell.corpus)) for cell in experiment.cells}
    wanted = frozenset(cell.name for cell in (chosen or experiment).cells)
    jobs = _ordered(river)
    _share_cores(jobs, len(wanted) * len(profile.settings["seeds"]))
    return Planned(experiment, profile, root / experiment.name, jobs, cells, corpora, wanted)


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
        "profile": profile.name, "kind": experiment.kind,
        "paper_tables": list(experiment.paper_tables),
        "folder": str(planned.folder), "holdout": profile.settings["holdout"],
        "corpora": planned.corpora,
        "command": command(experiment, profile), "settings": profile.settings,
        "root": str(Path.cwd()),
        "cells": planned.cells, "jobs": jobs,
    })  # fmt: skip


def command(experiment: Experiment, profile: Profile) -> str:
    """The line that makes the experiment again, with what the environment changes."""
    words = [f"PROFILE={profile.name}"]
    words += [f"{name}={shlex.quote(value)}" for name, value in sorted(profile.changed.items())]
    return f"{' '.join(words)} bash experiments/{experiment.name}.sh"


def describe(planned: Planned, commands: bool = True) -> str:
    """What would be made: the plain commands in order, what is shared, and what to expect."""
    lines = [planned.experiment.title, command(planned.experiment, planned.profile), ""]
    for job in planned.wanted if commands else []:
        state = "done already" if job.target.exists() else _resources(planned, job)
        lines += [f"# {job.id}: {state}", " ".join(map(_quoted, job.argv))]
    lines += ["", *summary(planned)]
    return "\n".join(lines)


def summary(planned: Planned) -> list[str]:
    """Counts, sharing, GPU-hours, disk."""
    jobs = planned.wanted
    left = [job for job in jobs if not job.target.exists()]
    shared = [job for job in jobs if len(job.cells) > 1]
    uses = sum(max(1, len(job.cells)) for job in jobs)
    lines = [
        f"{len(planned.chosen)} cells, {len(jobs)} stages; without sharing it would be {uses}: "
        f"{len(shared)} of them serve several cells",
        f"{len(jobs) - len(left)} are there already, {len(left)} to make",
    ]
    rows: list[tuple[str, int, int, float, float, float, bool]] = []
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
        lines.append(
            f"{'stage':<28}{'to make':>8}{'shared':>8}{'GPU-h':>10}{'core-h':>10}{'GB':>10}"
        )
        for stage, count, shared_here, gpu, cpu, disk, unknown in rows:
            note = " and what depends on the number of images" if unknown else ""
            lines.append(
                f"{stage:<28}{count:>8}{shared_here:>8}{gpu:>10.2f}{cpu:>10.2f}{disk:>10.1f}{note}"
            )
        jobs_left, shared_left = len(left), sum(len(job.cells) > 1 for job in left)
        gpu = sum(row[3] for row in rows)
        cpu, disk = sum(row[4] for row in rows), sum(row[5] for row in rows)
        total = f"{'total':<28}{jobs_left:>8}{shared_left:>8}{gpu:>10.2f}{cpu:>10.2f}{disk:>10.1f}"
        lines.append(total)
        lines.append("Hours are estimates (experiments/profiles.yaml, costs), not measurements.")
    return lines


def _resources(planned: Planned, job: Job) -> str:
    gpu, cpu = planned.hours(job)
    hours = (
        "time not known beforehand"
        if gpu is None or cpu is None
        else (f"about {gpu / max(1, job.gpus) + cpu:.2f} h")
    )
    return f"{job.gpus} GPUs, {job.cpus} cores, {job.memory_gb:g} GB, {hours}"


def _quoted(word: str) -> str:
    return word if word.startswith("$") else shlex.quote(word)


def _share_stores(river: River) -> None:
    """An image that several subsets hold is encoded once: together no more than the corpus."""
    for store in {job.out for job in river.jobs.values() if job.stage == "dit.encode"}:
        jobs = [job for job in river.jobs.values() if job.out == store and job.cells]
        total = sum(job.items or 0.0 for job in jobs)
        corpus = store.name.rpartition("-")[0]
        if (images := river.images(corpus)) is not None and total > images:
            for job in jobs:
                job.items = (job.items or 0.0) * images / total


def _share_cores(jobs: list[Job], trainings: int) -> None:
    """Of a machine without GPUs, the cores that are left where few trainings go side by side."""
    cores = max(1, available_cpus() // max(2, trainings))
    for job in jobs:
        if not job.gpus and job.stage in ON_GPU:
            job.cpus = max(job.cpus, cores)


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
