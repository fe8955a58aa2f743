"""Artifacts of finished jobs, and which of them a job was made from.

An artifact's files, or references with the manifest that has their SHA-256, give its digest; the
same job gives an artifact of the same name and digest wherever it is built. That is how lineage
works without a network: whoever uses an artifact builds it again, and W&B, which keeps artifacts
of one name and digest once, finds the one that its maker logged.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from core.manifest import manifest_path, read_manifest
from eval.programme.plan import Job, Plan
from eval.publishing.config import PublishConfig

TYPES = {
    "data.holdout": "holdout",
    "prune.score": "scores",
    "prune.embed": "embeddings",
    "prune.centroids": "centroids",
    "prune.hierarchy": "centroids",
    "prune.assign": "assignments",
    "prune.select": "subset",
    "dit.train_vae": "vae",
    "dit.train": "checkpoint",
    "downstream.train": "checkpoint",
    "downstream.train_segmenter": "segmenter",
    "eval.evaluate": "metrics",
    "eval.loss": "metrics",
    "eval.track": "metrics",
}
"""Stage -> what W&B calls its output. What other stages wrote (latents, images) is passed through:
who used it used what it was made from."""
_LISTED = 100  # files whose digests stand in the artifact's metadata too


def sources(plan: Plan, job: Job) -> list[Job]:
    """The jobs whose artifacts a job was made from, in the order of the plan.

    Through stages that leave none, the nearest of each type: a store of latents that holds what
    other subsets have brought does not make a training depend on these.
    """
    found: dict[str, str] = {}  # id -> type
    ahead, seen = list(job.needs), set(job.needs)
    while ahead:
        needs = [plan.jobs[name] for name in ahead if name in plan.jobs]
        nearer = set(found.values())
        found |= {
            need.id: kind for need in needs
            if (kind := TYPES.get(need.stage, "")) and kind not in nearer
        }  # fmt: skip
        behind = (name for need in needs if need.stage not in TYPES for name in need.needs)
        ahead = [name for name in dict.fromkeys(behind) if name not in seen]
        seen |= set(ahead)
    return [other for other in plan.jobs.values() if other.id in found]


def artifact_of(job: Job, config: PublishConfig) -> Any:
    """The artifact of a finished job. Raises UserError and OSError for a damaged record."""
    if not manifest_path(job.out).exists():  # a track
        return build(job.id, TYPES[job.stage], [job.out / "track.jsonl"], job.out)
    manifest, base = read_manifest(job.out), manifest_path(job.out).parent
    kind, files = TYPES[job.stage], manifest["files"]
    size = sum(entry["bytes"] for entry in files.values())
    how = "files" if size <= config.upload_mb * 1e6 else "reference"
    if kind == "checkpoint" and config.checkpoints != "auto":
        how = config.checkpoints
    listed = {name: files[name] for name in list(files)[:_LISTED]}
    about = {"stage": job.stage, "fingerprint": manifest["fingerprint"], "kept": how,
             "bytes": size, "files": listed, "out": str(job.out)}  # fmt: skip
    paths = [] if how == "none" else [base / name for name in files]
    return build(job.id, kind, paths, base, how == "reference", manifest_path(job.out), about)


def build(
    name: str,
    kind: str,
    paths: Iterable[Path],
    base: Path,
    references: bool = False,
    manifest: Path | None = None,
    metadata: dict[str, Any] | None = None,
) -> Any:
    """An artifact of those files that are there, by their names below `base`.

    With `references` they stay where they are; the `manifest`, which is added as a file whatever
    else is, has their sizes and digests. No file is copied: wandb sync reads them in their place.
    """
    import wandb

    made = wandb.Artifact(artifact_name(name), kind, metadata=metadata)
    if manifest is not None:
        made.add_file(str(manifest), "manifest.json", policy="immutable", skip_cache=True)
    for path in paths:
        inside = path.relative_to(base).as_posix()
        if not path.is_file():
            continue
        if references:
            made.add_reference(path.resolve().as_uri(), inside, checksum=False)
        else:
            made.add_file(str(path), inside, policy="immutable", skip_cache=True)
    return made


def artifact_name(name: str) -> str:
    """A job's id in the letters that W&B allows, 128 of them at most."""
    return re.sub(r"[^A-Za-z0-9_.-]+", "-", name)[-128:]


def use_artifact(run: Any, artifact: Any) -> None:
    """The run used it.

    wandb refuses use_artifact offline, for want of a server that knows names. What it does online
    with an artifact that was built here, to have it created if it is lacking (without the run as
    its maker) and then used, it can put down offline too; wandb sync does it.
    """
    if run.offline:
        run._log_artifact(artifact, is_user_created=True, use_after_commit=True)
    else:
        run.use_artifact(artifact)
