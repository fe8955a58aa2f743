"""Stages: a stage is done when its manifest is there.

A stage writes one folder (or one file with its manifest beside it). `stage.json` records what
is being made from the first moment, so that the same command continues a stopped run and a
command with other parameters is refused, naming them. `manifest.json` is written last, so its
presence means done; its `fingerprint` is what later stages record as their input.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import platform
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from core import cost
from core.atomic import remove_stale, write_json
from core.errors import UserError
from core.manifest import (
    FILES,
    FORMAT,
    Fingerprint,
    code_version,
    digest_of,
    fingerprint,
    manifest_path,
    present_names,
    read_manifest,
    read_record,
    sha256_file,
    verify_files,
)

__all__ = [  # with what a stage's settings and readers need of its manifest
    "DoneElsewhere",
    "Result",
    "Stage",
    "code_version",
    "digest_of",
    "discard_damaged",
    "fingerprint",
    "manifest_path",
    "present_names",
    "read_manifest",
    "read_record",
    "require_folder",
    "run_stage",
    "sha256_file",
]


class DoneElsewhere(SystemExit):
    """Another process finishes the stage, or has done so: nothing is left to do (exit code 0)."""

    def __init__(self) -> None:
        super().__init__(0)


@dataclass(frozen=True)
class Result:
    """What a stage's `run(config)` returns.

    Attributes:
        out: the folder or file that the stage wrote.
        summary: its counts and figures, as they stand in its manifest.
        message: one line on what was made; empty when it was there already.
        reused: whether it was there already, so that nothing was done.
        exit_code: of the command: 0, or what the stage has to say by it.
    """

    out: Path
    summary: dict[str, Any] = field(default_factory=dict)
    message: str = ""
    reused: bool = False
    exit_code: int = 0


def run_stage(stage: Stage, make: Callable[[Stage], Result]) -> Result:
    """The result of a stage: what is there already, or else what `make` makes of it.

    `make` opens the stage, writes its output and returns what `stage.finish` returns.
    """
    if stage.done():
        return stage.result()
    try:
        return make(stage)
    except DoneElsewhere:
        if not stage.manifest.exists():  # one of several processes whose first one finishes
            raise
        return stage.result()
    finally:
        stage.abandon()


def require_folder(out: Path) -> None:
    """Refuse an --out that is a file, or is named as one. Raises UserError."""
    if out.is_file() or (out.suffix in FILES and not out.is_dir()):
        raise UserError(f"--out {out}: name a folder, not a file")


class Stage:
    """One stage's output: its parameters and inputs, its lock, and its manifest.

    Args:
        out: folder, or file with a suffix, that the stage writes.
        name: the command, for example 'prune.score'.
        params: JSON-able parameters that change the meaning of the output (see settings.science).
        inputs: name -> fingerprint string of each input (see `fingerprint`, `sha256_file`).
        replace: make the output again when its parameters or inputs differ, instead of refusing;
            for renderings (tables, pictures) that cost nothing and that nothing depends on.
        hints: name of an input -> what to add to the message where it differs, of the recorded one.
    """

    def __init__(
        self,
        out: Path | str,
        name: str,
        params: Mapping[str, Any],
        inputs: Mapping[str, str],
        *,
        replace: bool = False,
        hints: Mapping[str, Callable[[Any], str]] | None = None,
    ) -> None:
        self.out = Path(out)
        self._hints = hints or {}
        try:
            str(out).encode()
        except UnicodeEncodeError:  # Parquet files could not be written there
            raise UserError(f"--out {out}: a name that is not UTF-8; choose another") from None
        self.name = name
        # Through JSON once, so that tuples and paths compare as they will be read back.
        self.params: dict[str, Any] = json.loads(json.dumps(dict(params), default=str))
        self.inputs = dict(inputs)
        self.manifest = manifest_path(self.out)
        self.started = self.manifest.with_name(self.manifest.name.replace("manifest", "stage"))
        self._replace = replace
        self._lock: Any = None
        self._ledger: cost.Ledger | None = None
        self._clock = time.monotonic()

    def done(self) -> bool:
        """True when the manifest is there, matches, and every file it names is complete.

        Raises UserError when the output was made, or begun, with other parameters or inputs
        (unless `replace`).
        """
        for made in (self.manifest, self.started) if self._replace else ():
            with contextlib.suppress(FileNotFoundError):
                try:
                    outdated = bool(self._differing(read_record(made)))
                except UserError:  # not as it was written
                    outdated = True
                if outdated:
                    made.unlink()
        if self.manifest.exists():
            manifest = read_manifest(self.out)
            self._compare(manifest, self.manifest)
            damaged = self._damaged(manifest)
            if not damaged:
                print(f"[{self.name}] {self.out}: already done, nothing left to do", flush=True)
                return True
            print(f"[{self.name}] {damaged[0]}: missing or truncated; making it again", flush=True)
            return False
        if self.started.exists() and not self._empty():
            self._compare(self._begun(), self.started)
        return False

    def open(self) -> None:
        """Take the stage's lock, clear what a killed run left, record what is being made.

        Waits while another process writes the same output: after a kill of a script, the stage
        that it had started may still be running. Raises DoneElsewhere when that one finished it,
        and UserError when it began it with other parameters or inputs, when the place cannot be
        written, when a file is there that is no stage's, or when an input that is a finished stage
        no longer has the bytes that were written.
        """
        folder = self.manifest.parent
        self._refuse_foreign()
        inputs = [one for one in self.inputs.values() if isinstance(one, Fingerprint)]
        verify_files(out for one in inputs for out in one.outs)
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._lock = open(self.started.with_name(f".{self.started.stem}.lock"), "w")
        except OSError as error:
            raise UserError(
                f"{self.out}: cannot be written ({error.filename}: {error.strerror}); "
                "choose another --out"
            ) from None
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            print(f"[{self.name}] {self.out}: another process is writing it; waiting", flush=True)
            fcntl.flock(self._lock, fcntl.LOCK_EX)
            if self.manifest.exists() and self.done():
                self.close()
                raise DoneElsewhere from None
        remove_stale(folder)
        if self.started.exists() and not self._empty():
            self._compare(self._begun(), self.started)
        else:
            write_json(self.started, self._describe())
        self._clock = time.monotonic()
        self.keep_ledger()

    def join(self) -> None:
        """Beside a process that has opened the stage. Raises UserError where inputs differ."""
        if self.manifest.exists() and not self.started.exists():
            raise DoneElsewhere
        self._compare(self._begun(), self.started)
        self.keep_ledger()

    def keep_ledger(self) -> None:
        """From here on this process's costs are the stage's (see core.cost). Opening and joining
        do so; for another process of a launch that does neither."""
        self._end_ledger()
        rank = int(os.environ.get("RANK", "0"))
        before = self._cost_in(path := cost.file_of(self.started, rank))
        if rank == 0 and self.manifest.exists():  # of an output that grows, or is mended
            made = read_record(self.manifest).get("made") or {}
            known = [one for one in (before, made.get("cost")) if one]
            before = max(known, key=lambda one: one["seconds"], default=None)
        self._ledger = cost.Ledger(path, self._describe(), before)

    def count(self, images: int) -> None:
        """So many images were done: for the ledger's images and images per second."""
        if self._ledger is not None:
            self._ledger.images += images

    def result(self) -> Result:
        """What was made before. Raises UserError unless the stage is finished."""
        return Result(self.out, read_manifest(self.out)["summary"], reused=True)

    def finish(
        self,
        summary: Mapping[str, Any],
        outputs: Iterable[Path | str],
        line: str,
        unchanged: Mapping[str, Any] | None = None,
    ) -> Result:
        """Write the manifest and print the one-line summary.

        Args:
            summary: JSON-able counts and figures; timings belong under the key 'timing', which
                stays out of the fingerprint.
            outputs: files written, relative to the output folder (or absolute).
            line: what was done, without name, seconds and place, which are added.
            unchanged: of an output that grows, the manifest's entries of the files that were
                there before: they are not read again.
        """
        seconds = time.monotonic() - self._clock
        base = self.manifest.parent
        files = {}
        for output in outputs:
            path = base / output
            name = str(path.relative_to(base))
            files[name] = (unchanged or {}).get(name) or {
                "bytes": path.stat().st_size,
                "sha256": sha256_file(path),
            }
        spent = self._ledger and cost.total(self._ledger, self.started, self._cost_in)
        what = self._describe()
        made_of = {**what, "files": {name: entry["sha256"] for name, entry in files.items()}}
        write_json(
            self.manifest,
            {
                "format": FORMAT,
                "fingerprint": digest_of(made_of),
                **what,
                "summary": dict(summary),
                "files": files,
                "made": {
                    "seconds": round(seconds, 3),
                    "code": code_version(),
                    "python": platform.python_version(),
                    **({"cost": spent} if spent else {}),
                },
            },
        )
        self._end_ledger()
        for path in cost.files(self.started):
            path.unlink(missing_ok=True)
        self.started.unlink(missing_ok=True)
        self.close()
        print(f"[{self.name}] {line} in {seconds:.1f} s -> {self.out}", flush=True)
        return Result(self.out, dict(summary), line)

    def abandon(self) -> None:
        """Let go; of a command that failed before it wrote anything no record stays, but for its
        costs if it was long at work."""
        if self._lock is not None and self._empty():
            self.started.unlink(missing_ok=True)
            if not cost.files(self.started):
                self._end_ledger()
        self.close()

    def close(self) -> None:
        """Let go of the lock (also let go of when the process ends, however it ends)."""
        self._end_ledger(save=True)
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    def _end_ledger(self, save: bool = False) -> None:
        if self._ledger is not None:
            if save:
                self._ledger.save()
            self._ledger.end()
            self._ledger = None

    def _cost_in(self, path: Path) -> cost.Cost | None:
        """What a ledger says; None where it is not of this stage as it is now."""
        found = cost.read(path)
        try:
            self._compare(found, path)
        except UserError:
            return None
        return found["cost"]

    def _refuse_foreign(self) -> None:
        """Refuse to write over a file that has no manifest: another stage's part, or the user's."""
        known = self._replace or self.manifest.exists() or self.started.exists()
        if self.manifest.parent != self.out and self.out.exists() and not known:
            raise UserError(
                f"{self.out}: is there already, and not made by this command; "
                "choose another --out, or delete it"
            )

    def _empty(self) -> bool:
        """True when a stage that was begun has written nothing yet, so that nothing binds it."""
        if self.manifest.parent != self.out:
            return not self.out.exists()
        known = (self.started.name, ".stage.lock", ".cost")
        return all(path.name.startswith(known) for path in self.out.iterdir())

    def _begun(self) -> dict[str, Any]:
        """What was begun. Raises UserError when stage.json is not as it was written."""
        try:
            return read_record(self.started)
        except UserError:
            raise UserError(
                f"{self.started}: unreadable, so the settings of what lies in {self.out} cannot be "
                "known; delete both to begin again"
            ) from None

    def _describe(self) -> dict[str, Any]:
        return {"stage": self.name, "params": self.params, "inputs": self.inputs}

    def _differing(self, found: Mapping[str, Any]) -> list[str]:
        differing = []
        if found.get("stage") != self.name:
            differing.append(f"stage: {found.get('stage')} there, {self.name} now")
        for kind in ("params", "inputs"):
            there, now = found.get(kind), getattr(self, kind)
            there = there if isinstance(there, dict) else {}
            differing += [
                f"{key}: {_short(there.get(key))} there, {_short(now.get(key))} now"
                + (self._hints[key](there.get(key)) if key in self._hints else "")
                for key in sorted(set(there) | set(now))
                if there.get(key) != now.get(key)
            ]
        return differing

    def _compare(self, found: Mapping[str, Any], where: Path) -> None:
        differing = self._differing(found)
        if differing:
            raise UserError(
                f"{self.out} was made with other settings ({where}):\n  "
                + "\n  ".join(differing)
                + f"\nchoose another --out, or delete {self.out} to make it again"
            )

    def _damaged(self, manifest: Mapping[str, Any]) -> list[Path]:
        """Files that are missing, or no longer as long as they were written."""
        files = {self.manifest.parent / name: entry for name, entry in manifest["files"].items()}
        return [
            path
            for path, entry in files.items()
            if not path.exists() or path.stat().st_size != entry["bytes"]
        ]


def discard_damaged(stage: Stage) -> None:
    """Of a finished folder, delete the files that are no longer as long as they were written.

    For a stage that continues from the files that are there: these would pass for made.
    """
    if stage.manifest.exists():
        for path in stage._damaged(read_manifest(stage.out)):
            path.unlink(missing_ok=True)


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
