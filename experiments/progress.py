"""What the terminal shows while jobs run: done in how long, failed and why, and the time left."""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path

from experiments.commands import Job
from experiments.plan import Planned

EVERY = 20.0  # seconds between looks into the logs of what runs


class Progress:
    """Follows the jobs of a plan by their notes and targets."""

    def __init__(self, planned: Planned) -> None:
        self._planned = planned
        self._left = [job for job in planned.wanted if not job.target.exists()]
        self._all = len(planned.wanted)
        self._begun: dict[str, float] = {}
        self._failed: set[str] = set()
        self._asked: set[str] = set()
        self._start = self._spoke = time.monotonic()
        self._work = sum(planned.seconds(job) or 0.0 for job in self._left)
        self._worked = 0.0

    def look(self, last: bool = False) -> None:
        """Print what has changed since the last look."""
        now = time.monotonic()
        for job in list(self._left):
            log = self._planned.log(job)
            if job.target.exists():
                self._left.remove(job)
                self._worked += self._planned.seconds(job) or 0.0
                took = f" in {now - self._begun[job.id]:.0f} s" if job.id in self._begun else ""
                done = self._all - len(self._left)
                self._say(f"[{done}/{self._all}] {job.stage} {_short(job)}{took}{self._eta(now)}")
                if made := _made(log, job.stage):
                    self._say(f"    {made}")
            elif log.with_suffix(".failed").exists() and job.id not in self._failed:
                self._failed.add(job.id)
                self._say(f"FAILED {job.stage} {_short(job)}; its log: {log}")
                for line in _tail(log, 4):
                    self._say(f"    {line}")
            elif job.id not in self._begun and log.with_suffix(".running").exists():
                self._begun[job.id] = now
                if now - self._spoke > EVERY:
                    self._spoke = now
        if now - self._spoke > EVERY and not last:
            for job in self._running():
                for line in _tail(self._planned.log(job), 1):
                    self._say(f"    {job.stage} {_short(job)}: {line[:110]}")
            self._spoke = now
        if last and self._left:
            failed = len(self._failed)
            self._say(
                f"{len(self._left)} of {self._all} stages are missing: {failed} failed, "
                f"{len(self._left) - failed} not tried (they need those, or the run was stopped)"
            )

    def stop(self) -> None:
        """Ask the jobs of this machine that run to stop, each once."""
        for job in self._running():
            try:
                host, pid = self._planned.log(job).with_suffix(".running").read_text().split()
                if host == os.uname().nodename and pid not in self._asked:
                    self._asked.add(pid)
                    os.kill(int(pid), signal.SIGTERM)
            except (OSError, ValueError):
                continue

    def _running(self) -> list[Job]:
        return [j for j in self._left if self._planned.log(j).with_suffix(".running").exists()]

    def _eta(self, now: float) -> str:
        """The time left, by what the estimated work took so far."""
        if not self._left or not self._worked:
            return ""
        seconds = (now - self._start) * max(0.0, self._work / self._worked - 1)
        return (
            f", about {seconds / 60:.0f} min left"
            if seconds >= 60
            else f", about {seconds:.0f} s left"
        )

    def _say(self, line: str) -> None:
        print(line, flush=True, file=sys.stdout)
        self._spoke = time.monotonic()


def _short(job: Job) -> str:
    return job.id.rpartition("/")[2].rpartition("-")[0]


def _made(log: Path, stage: str) -> str:
    """What the command said that it made: counts and figures."""
    said = [line for line in _tail(log, 8) if line.startswith(f"[{stage}]") and " -> " in line]
    return said[-1].partition("] ")[2].rpartition(" in ")[0] if said else ""


def _tail(log: Path, number: int) -> list[str]:
    """The last lines of a log, progress bars as they stand."""
    try:
        with log.open("rb") as stream:
            stream.seek(max(0, log.stat().st_size - 4000))
            text = stream.read().decode(errors="replace")
    except OSError:
        return []
    lines = [line.strip() for line in text.replace("\r", "\n").split("\n")]
    return [line for line in lines if line][-number:]
