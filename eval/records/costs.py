"""What finished jobs cost, from the ledgers in their manifests (core.cost). Light to import."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from core import cost
from core.manifest import manifest_path, read_manifest
from eval.programme.plan import Cell, Job, Plan, Run

Cost = dict[str, Any]

CLUSTERING = ("centroids", "assignments")  # of a run: the parts that Table 4 times
SUMMED = ("seconds", "cpu_seconds", "gpu_hours", "energy_kwh")


def cost_of(job: Job) -> Cost | None:
    """made["cost"] of a finished job; of a manifest without one "seconds" alone.

    None where the job is not finished, or nothing is known. Raises UserError for a damaged record.
    """
    if job.state() != "done":
        return None
    if not manifest_path(job.out).exists():  # of an output that is never finished for good
        return cost.so_far(job.out / "stage.json")
    made = read_manifest(job.out).get("made") or {}
    found = made.get("cost") or {"seconds": made.get("seconds")}
    return dict(found) if found["seconds"] is not None else None


def _of_place(plan: Plan, job: Job) -> Cost | None:
    """The job's cost; of a store that several jobs fill, its part by the images of their subsets.

    One store of latents serves all subsets of a corpus, and its manifest holds what all cost.
    """
    found = cost_of(job)
    others = [one for one in plan.jobs.values() if one.out == job.out and one.state() == "done"]
    if found is None or len(others) < 2:
        return found
    images = {one.id: _chosen(plan, one) for one in others}
    known = all(images.values())
    part = images[job.id] / sum(images.values()) if known else 1 / len(others)
    parted = {name: found[name] * part for name in (*SUMMED, "images") if found.get(name)}
    return {**found, **parted, "sessions": 1}


def _chosen(plan: Plan, job: Job) -> int:
    """Images of the subset that a job reads; 0 where that is not recorded."""
    for need in job.needs:
        if (before := plan.jobs[need]).stage == "prune.select" and before.state() == "done":
            return int(read_manifest(before.out)["summary"].get("counts", {}).get("B") or 0)
    return 0


def clustering_seconds(plan: Plan, run: Run) -> float | None:
    """Seconds of a run's clustering: k-means of the reference and assignment of the pool (the
    paper's Table 4), over all sessions. None where the run has no clustering or it is unfinished.
    """
    jobs = [plan.job(run, part) for part in CLUSTERING]
    costs = [None if job is None else cost_of(job) for job in jobs]
    found = [float(one["seconds"]) for one in costs if one is not None]
    return sum(found) if len(found) == len(CLUSTERING) else None


def summed(costs: Iterable[tuple[Cost | None, float]]) -> Cost:
    """SUMMED of several costs, each taken so many times; null where none of them is known."""
    total: Cost = dict.fromkeys(SUMMED)
    for one, times in costs:
        for name in SUMMED:
            if one is not None and (value := one.get(name)) is not None:
                total[name] = (total[name] or 0.0) + times * value
    return total


def pruning_jobs(plan: Plan, cell: Cell) -> list[Job]:
    """What the cell's subsets are made by and from, as far as commands of prune did it: scores,
    embeddings, centroids, assignments, selection."""
    found: dict[str, Job] = {}
    left = [job.id for run in cell.runs if (job := plan.job(run, "subset")) is not None]
    while left:
        job = plan.jobs[left.pop()]
        if job.id not in found:
            found[job.id] = job
            left += job.needs
    return [job for job in found.values() if job.stage.startswith("prune.")]


def costs(plan: Plan) -> dict[str, Any]:
    """What the plan's finished jobs cost.

    `stages`, a row for each kind: jobs and how many are finished, sums, rate, peaks. `cells`, a row
    for each: `own`, of jobs that no other cell has; `shared`, its equal share of the others, so
    that `total` adds up over the cells; `alone`, what it takes with nothing made before; of that
    `pruning` and `training`; clustering_seconds, the mean of its runs. `total`, of everything.

    Raises UserError for a damaged record.
    """
    known = {job.id: _of_place(plan, job) for job in plan.jobs.values()}
    states = {job.id: job.state() for job in plan.jobs.values()}

    def count(jobs: list[Job]) -> dict[str, int]:
        return {"done": sum(states[job.id] == "done" for job in jobs), "all": len(jobs)}

    stages = []
    for stage in dict.fromkeys(job.stage for job in plan.jobs.values()):
        jobs = [job for job in plan.jobs.values() if job.stage == stage]
        found = [one for job in jobs if (one := known[job.id]) is not None]
        counted = [one for one in found if one.get("images")]
        images, seconds = (sum(one[name] for one in counted) for name in ("images", "seconds"))
        peaks = {
            name: max((one[name] for one in found if one.get(name) is not None), default=None)
            for name in ("gpus", "peak_memory_gb", "peak_gpu_memory_gb")
        }
        stages.append({
            "stage": stage, "jobs": count(jobs), **summed((one, 1) for one in found),
            "images": images or None, "images_per_s": images / seconds if images else None,
            **peaks, "sessions": sum(one.get("sessions") or 1 for one in found),
        })  # fmt: skip
    cells = []
    for cell in plan.cells:
        jobs = list(plan.jobs_of(cell))
        own = [job for job in jobs if len(job.cells) == 1]
        others = [job for job in jobs if len(job.cells) > 1]
        seconds_of = [clustering_seconds(plan, run) for run in cell.runs]
        clustering = [seconds for seconds in seconds_of if seconds is not None]
        cells.append({
            "cell": cell.name, "label": cell.label, "seeds": len(cell.runs), "jobs": count(jobs),
            "own": summed((known[job.id], 1) for job in own),
            "shared": summed((known[job.id], 1 / len(job.cells)) for job in others),
            "total": summed((known[job.id], 1 / len(job.cells)) for job in jobs),
            "alone": summed((known[job.id], 1) for job in jobs),
            "pruning": summed((known[job.id], 1) for job in pruning_jobs(plan, cell)),
            "training": summed((known[job.id], 1) for job in jobs if job.stage == "dit.train"),
            "clustering_seconds": sum(clustering) / len(clustering) if clustering else None,
        })  # fmt: skip
    return {
        "experiment": plan.experiment,
        "title": plan.title,
        "profile": plan.profile,
        "jobs": count(list(plan.jobs.values())),
        "failed": [name for name, state in states.items() if state == "failed"],
        "stages": stages,
        "cells": cells,
        "total": summed((one, 1) for one in known.values()),
    }
