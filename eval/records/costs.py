"""What finished jobs cost, from the ledgers in their manifests. Light to import."""

from __future__ import annotations

from typing import Any

from core.manifest import manifest_path, read_manifest
from eval.programme.plan import Job, Plan, Run

CLUSTERING = ("centroids", "assignments")  # of a run: the parts that Table 4 times


def cost_of(job: Job) -> dict[str, Any] | None:
    """made["cost"] of a finished job (see core.cost); of a manifest without one "seconds" alone.

    None where the job is not finished, or its output has no manifest.
    Raises UserError for a damaged manifest.
    """
    if job.state() != "done" or not manifest_path(job.out).exists():
        return None
    made = read_manifest(job.out).get("made") or {}
    found = made.get("cost") or {"seconds": made.get("seconds")}
    return dict(found) if found["seconds"] is not None else None


def clustering_seconds(plan: Plan, run: Run) -> float | None:
    """Seconds of a run's clustering: k-means of the reference and assignment of the pool (the
    paper's Table 4), over all sessions. None where the run has no clustering or it is unfinished.
    """
    jobs = [plan.job(run, part) for part in CLUSTERING]
    costs = [None if job is None else cost_of(job) for job in jobs]
    found = [float(cost["seconds"]) for cost in costs if cost is not None]
    return sum(found) if len(found) == len(CLUSTERING) else None
