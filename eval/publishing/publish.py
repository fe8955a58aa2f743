"""Publishing an experiment: a W&B run for each finished job, told once."""

from __future__ import annotations

import dataclasses
import fcntl
import hashlib
import json
import os
import shutil
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from core.atomic import write_json
from core.errors import UserError
from core.manifest import manifest_path, read_manifest, sha256_file
from core.stage import Result, digest_of
from dit.training.tracking import (
    PROJECT,
    Place,
    WandbLogger,
    clean_tags,
    known_id,
    offline_folders,
    open_run,
    section_of,
)
from eval.programme.plan import Job, Plan
from eval.publishing.artifacts import TYPES, artifact_of, build, sources, use_artifact
from eval.publishing.config import PublishConfig
from eval.publishing.contents import METRICS, Contents, contents_of, contents_of_folder
from eval.records.record import as_logged, read_lines

FORMAT = 1  # of what is published: another one is published again
LIVE = {
    "dit.train": ("", "stats.jsonl"),
    "downstream.train": ("", "stats.jsonl"),
    "downstream.train_segmenter": ("", "stats.jsonl"),
    "dit.train_vae": ("training", "stats.jsonl"),
    "eval.track": ("", "track.jsonl"),
}
"""Stages that log while they run: folder of the record below the output, and the record."""
_SHOWN = ("dit.sample", "downstream.evaluate")  # pictures, and no artifact
_TABLES = ("*.md", "*.tex", "*.csv", "*.json", "figures/*", "pictures/*")
_DAMAGED = (UserError, OSError, ValueError, KeyError, TypeError)  # of records
_NOT_TABLES = ("plan.json", "manifest.json", "stage.json")


class Failed(Exception):
    """W&B failed; what it said."""


class Publisher:
    """Tells W&B of one experiment.

    Args:
        plan: of the experiment.
        config: the command's settings.
        mode: online or offline.
    """

    def __init__(self, plan: Plan, config: PublishConfig, mode: str) -> None:
        self.plan, self.config, self.mode = plan, config, mode
        self.project = os.environ.get("WANDB_PROJECT") or PROJECT
        self.shared = plan.file.parent.parent  # of all experiments of this profile
        self.notes_file = self.shared / "wandb.json"
        self.notes = _read_notes(self.notes_file)
        self.told = self.kept = 0

    def publish(self) -> Result:
        """Everything that is finished and was not published yet. Raises UserError for a file of
        notes that is damaged."""
        begun = time.monotonic()
        try:
            for job in self.plan.jobs.values():
                if (job.stage in TYPES or job.stage in _SHOWN) and job.state() == "done":
                    self._once(job.id, partial(self._job, job))
            self._once(f"{self.plan.profile}/{self.plan.experiment}", self._experiment)
        except Failed as failure:
            print(
                f"[eval.publish] W&B failed ({failure}); the records are complete without it, and "
                "the same command goes on with what is lacking",
                file=sys.stderr,
            )
        message = f"{self.told:,} runs told, {self.kept:,} were there"
        seconds, where = time.monotonic() - begun, self._where()
        print(f"[eval.publish] {message}, in {seconds:.1f} s -> {where}", flush=True)
        counts = {"told": self.told, "kept": self.kept}
        return Result(self.plan.folder, counts, message, reused=not self.told)

    def _where(self) -> str:
        if self.mode == "online":
            return f"W&B project {self.project}"
        return f"{self.plan.folder / 'wandb'} (offline; scripts/wandb_sync.sh sends it)"

    def _once(self, name: str, work: Callable[[], _Work | None]) -> None:
        """Do what `work` says unless it is noted as done with the same content."""
        try:
            todo = work()
        except _DAMAGED as error:
            print(f"[eval.publish] {name}: left out ({error})", file=sys.stderr)
            return
        if todo is None:
            return
        known = self.notes["runs"].get(name) or {}
        experiments = sorted({*known.get("experiments", ()), self.plan.experiment})
        digest = digest_of([FORMAT, todo.content, experiments, self.project])
        if known.get("digest") == digest and self._there(known):
            self.kept += 1
            return
        group = known.get("group") or self.plan.experiment
        tags = clean_tags([*todo.tags, f"profile:{self.plan.profile}", *experiments])
        place = Place(name, group, todo.job_type, tags)
        try:
            record = todo.read()
        except _DAMAGED as error:
            print(f"[eval.publish] {name}: left out ({error})", file=sys.stderr)
            return
        try:
            identifier, folder = todo.tell(place, record)
        except Exception as error:  # wandb raises what it likes, and must not end the run
            raise Failed(f"{name}: {error}") from error
        self.told += 1
        self.notes["runs"][name] = {
            "id": identifier, "digest": digest, "group": group, "experiments": experiments,
            "mode": self.mode, "folder": str(folder),
        }  # fmt: skip
        write_json(self.notes_file, self.notes)

    def _there(self, known: dict[str, Any]) -> bool:
        """Whether what was published is still to be had, in this mode."""
        if known["mode"] == "online":
            return True
        folders = offline_folders(Path(known["folder"]), known["id"])
        synced = any(path for folder in folders for path in folder.glob("*.synced"))
        return synced or (self.mode == "offline" and bool(folders))

    def _job(self, job: Job) -> _Work:
        """How a finished job is told."""
        content: list[Any] = [job.id, job.stage, *self._settings()]
        if manifest_path(job.out).exists():
            content.append(read_manifest(job.out)["fingerprint"])
        else:
            content.append(sha256_file(job.out / LIVE[job.stage][1]))
        used = [need for need in sources(self.plan, job) if need.state() == "done"]
        content.append([need.id for need in used])

        def read() -> _Record:
            lines, config = _lines_of(job), _settings_of(job)
            artifacts = [artifact_of(need, self.config) for need in used]
            made = artifact_of(job, self.config) if job.stage in TYPES else None
            return _Record(contents_of(job), artifacts, made, config, lines)

        tell = self._tell if job.stage not in LIVE else partial(self._tell_live, job)
        return _Work(content, tags_of(self.plan, job), job.stage, read, tell)

    def _experiment(self) -> _Work | None:
        """How the experiment's own tables and pictures are told; None where there are none."""
        folder = self.plan.folder
        files = [path for pattern in _TABLES for path in sorted(folder.glob(pattern))]
        files = [
            path for path in files
            if path.is_file() and path.name not in _NOT_TABLES and path.name[0] != "."  # locks
            and not path.name.endswith((".manifest.json", ".stage.json"))
        ]  # fmt: skip
        if not files:
            return None
        states = [job.state() for job in self.plan.jobs.values()]
        counts = {state: states.count(state) for state in ("done", "running", "failed", "missing")}
        measured = [
            job for job in self.plan.jobs.values()
            if job.stage in METRICS and job.state() == "done"
        ]  # fmt: skip
        content = [
            "experiment", *self._settings(), counts, [job.id for job in measured],
            {str(path): sha256_file(path) for path in files},
        ]  # fmt: skip
        name = f"{self.plan.experiment}-{self.plan.profile}-table"

        def read() -> _Record:
            shown = contents_of_folder(folder)
            shown.values |= {f"jobs/{state}": count for state, count in counts.items()}
            about = {"experiment": self.plan.experiment, "title": self.plan.title,
                     "command": self.plan.command, "cells": len(self.plan.cells)}  # fmt: skip
            artifacts = [artifact_of(job, self.config) for job in measured]
            return _Record(shown, artifacts, build(name, "table", files, folder), about)

        return _Work(content, (), "eval.tables", read, self._tell)

    def _settings(self) -> list[Any]:
        return [self.config.checkpoints, self.config.upload_mb]

    def _tell(self, place: Place, record: _Record) -> tuple[str, Path]:
        """A run of its own; offline the only folder of its id."""
        identifier, folder = run_id(place.name), self.plan.folder
        known = self.notes["runs"].get(place.name) or {"folder": str(folder)}
        older = {*offline_folders(Path(known["folder"]), identifier)}
        older |= {*offline_folders(folder, identifier)}
        while any(time.strftime("-%Y%m%d_%H%M%S-") in path.name for path in older):
            time.sleep(0.05)  # W&B would write over the folder of this second
        config = {**place.settings(), **record.config}
        run = open_run(place, identifier, self.mode, folder, config, live=False)
        try:
            record.fill(run)
        except BaseException:
            run.finish(exit_code=1)
            raise
        run.finish(exit_code=0)
        for path in older:
            shutil.rmtree(path, ignore_errors=True)
        return identifier, folder

    def _tell_live(self, job: Job, place: Place, record: _Record) -> tuple[str, Path]:
        """The run that logged while it ran, whole once more offline, gone on with online."""
        inside, file = LIVE[job.stage]
        folder, section = job.out / inside, section_of(job.stage, record.config)
        logger = WandbLogger(
            folder, record.config, self.mode, file, place, section, record.lines,
            run_id(job.id), live=False,
        )  # fmt: skip
        logger.act(record.fill)
        logger.close(0)
        if logger.failure is not None:
            raise logger.failure
        return known_id(folder) or run_id(job.id), folder


@dataclasses.dataclass(frozen=True)
class _Record:
    """What is told of a run: what it shows, the artifacts that it used and made, its settings,
    and, of one that logs while it runs, its lines."""

    shown: Contents
    used: list[Any]
    made: Any
    config: dict[str, Any]
    lines: list[dict[str, Any]] = dataclasses.field(default_factory=list)

    def fill(self, run: Any) -> None:
        for artifact in self.used:
            use_artifact(run, artifact)
        _show(run, self.shown)
        if self.made is not None:
            run.log_artifact(self.made)


@dataclasses.dataclass(frozen=True)
class _Work:
    """A run that may have to be told: its content (JSON-able), tags, job type, and how.

    `read` gives its record; `tell` returns the run's id and the folder that has its offline files.
    """

    content: list[Any]
    tags: tuple[str, ...]
    job_type: str
    read: Callable[[], _Record]
    tell: Callable[[Place, _Record], tuple[str, Path]]


def run_id(name: str) -> str:
    """W&B's id of a job's run: 16 hex digits of the SHA-256 of the job's id."""
    return hashlib.sha256(name.encode()).hexdigest()[:16]


def tags_of(plan: Plan, job: Job) -> tuple[str, ...]:
    """Corpus, method, ratio and seed of a job; of a shared one those that its runs agree on."""
    agreed: list[str] | None = None
    for cell in plan.cells:
        if cell.name not in job.cells:
            continue
        own = [run for run in cell.runs if job.id in run.jobs.values()]
        for run in own or cell.runs:
            tags = [f"corpus:{cell.corpus}", f"method:{cell.method}",
                    f"ratio:{cell.ratio:g}", f"seed:{run.seed}"]  # fmt: skip
            agreed = tags if agreed is None else [tag for tag in agreed if tag in tags]
    return tuple(agreed or ())


def _show(run: Any, shown: Contents) -> None:
    """Log the contents of a job."""
    import wandb

    logged: dict[str, Any] = {}
    for name, (counts, edges) in shown.histograms.items():
        logged[name] = wandb.Histogram(np_histogram=(counts, edges))
    for name, (columns, rows) in shown.tables.items():
        logged[name] = wandb.Table(columns=columns, data=rows, allow_mixed_types=True)
    for name, paths in shown.pictures.items():
        logged[name] = [wandb.Image(str(path), caption=path.stem) for path in paths]
    if logged:
        run.log(logged)
    run.summary.update(shown.values)


def _lines_of(job: Job) -> list[dict[str, Any]]:
    """What a stage has logged while it ran, as it logged it; nothing of others."""
    if job.stage not in LIVE:
        return []
    inside, file = LIVE[job.stage]
    path = job.out / inside / file
    if job.stage == "eval.track":
        return [as_logged(line) for line in read_lines(path)[0]]
    text = path.read_text(encoding="utf-8")
    return [json.loads(line) for line in text.splitlines() if line.strip()]


def _settings_of(job: Job) -> dict[str, Any]:
    """A job's settings, and where its output is."""
    config = job.out / LIVE.get(job.stage, ("",))[0] / "config.json"
    if job.stage == "eval.track":
        found = json.loads((job.out / "stage.json").read_text(encoding="utf-8"))["params"]
    elif job.stage in LIVE and config.exists():
        found = json.loads(config.read_text(encoding="utf-8"))
    else:
        found = read_manifest(job.out)["params"]
    return {**found, "out": str(job.out)}


def _read_notes(path: Path) -> dict[str, Any]:
    try:
        notes = json.loads(path.read_text(encoding="utf-8"))
        return {"runs": dict(notes["runs"]), "dashboards": dict(notes["dashboards"])}
    except FileNotFoundError:
        return {"runs": {}, "dashboards": {}}
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"{path}: damaged ({error}); delete it, and everything is published again"
        ) from None


class Lock:
    """One publisher of a profile at a time: experiments share runs."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / ".wandb.lock"

    def __enter__(self) -> None:
        self._file = open(self._path, "w")
        fcntl.flock(self._file, fcntl.LOCK_EX)

    def __exit__(self, *_: object) -> None:
        self._file.close()
