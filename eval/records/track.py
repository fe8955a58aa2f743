"""Metrics along a training run: which lines are missing, measured one after the other.

Light to import, and so is a call that finds nothing left to do: what measures and draws is
imported when the first line is to be measured.
"""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from core.errors import UserError
from core.stage import Result, Stage
from data.corpus.base import keep_apart
from data.corpus.specs import open_corpus
from dit.training.checkpoint import (
    Damaged,
    Weights,
    checkpoints,
    fingerprint,
    read_state,
    step_of,
)
from dit.training.processes import RUN_AGAIN, stop_signals
from dit.training.stage import has_ended
from eval.records.config import TrackConfig
from eval.records.record import Job, Line, Stopped, append, read_lines, repair, up_to_date

if TYPE_CHECKING:
    from eval.records.measure import Measurer


def track(config: TrackConfig) -> Result:
    """Add the missing lines to OUT/track.jsonl; with --follow until the training has ended.

    The result's exit code is RUN_AGAIN when SIGTERM or SIGUSR1 stopped it.
    """
    with stop_signals() as asked:
        track: _Track | None = None
        code = 1
        try:
            announced = False
            while config.follow and config.training() is None:
                if not announced:
                    print(f"[eval.track] waiting for {config.run} to begin", flush=True)
                announced = True
                _wait(config.poll, asked)
            track = _Track(config, asked)
            track.go()
            code = 0
        except Stopped:
            line = "[eval.track] stopped as asked; run the same command again to continue"
            print(line, flush=True)
            code = RUN_AGAIN
        finally:
            if track is not None:
                track.close(code)
    lines = [] if track is None else track.lines
    return Result(config.out, {"lines": len(lines)}, exit_code=code)


def _wait(seconds: float, asked: threading.Event) -> None:
    """Wait; raises Stopped, within half a second, when asked to stop."""
    # Not asked.wait(): the signal's handler sets the event in this very thread, and would wait
    # for ever for a lock that the thread holds for a moment as it begins to wait.
    until = time.monotonic() + seconds
    while not asked.is_set() and (left := until - time.monotonic()) > 0:
        time.sleep(min(left, 0.5))
    if asked.is_set():
        raise Stopped


class _Track:
    """One call's work."""

    def __init__(self, config: TrackConfig, asked: threading.Event) -> None:
        self.config, self.asked = config, asked
        self.stage: Stage = config.stage()
        self.stage.done()  # refuses a folder of other settings; no manifest is ever there
        self.record, self.picture = config.out / "track.jsonl", config.out / "track.png"
        self.lines, _ = read_lines(self.record)
        self.passed_over: set[tuple[str, int, str]] = set()
        self.noted: set[str] = set()  # notes on the distances, printed once
        self.opened = False
        self.tools: Measurer | None = None

    def go(self) -> None:
        """Measure what is missing; with --follow until the training has ended."""
        config, before, waiting = self.config, len(self.lines), False
        while True:
            # Looked at before the list is made: no checkpoint comes after the manifest.
            ended = has_ended(config.run)
            if at_work := next(self.missing(), None) is not None:
                self.open()
            for job in self.missing():
                self.measure(job)
            if self.asked.is_set():
                raise Stopped
            if ended or not config.follow:
                break
            if at_work or not waiting:
                print(f"[eval.track] waiting for checkpoints in {config.run}", flush=True)
                waiting = True
            _wait(config.poll, self.asked)
        if not self.lines and not self.passed_over:
            raise UserError(self._none_there())
        if self.lines and not up_to_date(self.picture, self.record):
            self.open()  # killed between the line and the picture
            self.draw()
        new = len(self.lines) - before
        done = f"{new} new lines of" if new else "nothing left to do,"
        print(f"[eval.track] {config.out}: {done} {len(self.lines)} lines", flush=True)

    def missing(self) -> Iterator[Job]:
        """The checkpoints with lines still to be measured, oldest first."""
        config = self.config
        both: list[Weights] = ["ema", "raw"]
        asked = [weights for weights in both if config.weights in ("both", weights)]
        for checkpoint in checkpoints(config.run):
            if config.every and step_of(checkpoint) % config.every:
                continue
            try:
                state, name = read_state(checkpoint), fingerprint(checkpoint)
            except (Damaged, UserError) as error:
                self.pass_over(checkpoint, "state.json", error)
                continue
            if state["run"] != self.stage.inputs["run"]:
                raise UserError(
                    f"{checkpoint}: of another run than the rest of {config.run}; move it away"
                )
            there = {(line["weights"], line["checkpoint"]) for line in self.lines}
            left = [w for w in asked if (w, name) not in there]
            left = [w for w in left if _mark(checkpoint, w) not in self.passed_over]
            if left:
                yield Job(checkpoint, name, state, left)

    def pass_over(self, checkpoint: Path, what: str, error: Exception) -> None:
        """Print, once, why there is no line: the training has deleted it, or it is damaged."""
        if not checkpoint.is_dir():
            print(
                f"[eval.track] {checkpoint.name} passed over: the training has deleted it by now "
                "(dit.train --keep-every N keeps those at multiples of N for good)",
                flush=True,
            )
        elif (mark := _mark(checkpoint, what)) not in self.passed_over:
            self.passed_over.add(mark)
            line = f"WARNING: DAMAGED CHECKPOINT PASSED OVER: {error}"
            print(line, file=sys.stderr, flush=True)

    def open(self) -> None:
        """Take the folder for writing; repair what a killed call left in it."""
        if not self.opened:
            from eval.judges.images import check_holdout

            corpus = open_corpus(self.config.corpus)
            keep_apart(self.config.out, corpus, self.config.corpus)
            check_holdout(corpus, self.config.holdout)
            self.stage.open()
            self.opened = True
            self.lines = repair(self.record)  # what another call wrote meanwhile is in it, too

    def measure(self, job: Job) -> None:
        """Add the lines of one checkpoint."""
        if self.tools is None:
            from eval.records.measure import Measurer  # loads torch, for the first line only

            corpus = open_corpus(self.config.corpus)
            self.tools = Measurer(self.config, self.stage, corpus, self.lines)
        models = {}
        for weights in job.weights:  # all at once: what is in memory the training can delete
            try:
                models[weights] = self.tools.load(job, weights)
            except Damaged as damage:
                self.pass_over(job.checkpoint, weights, damage)
        for weights, model in models.items():
            line = self.tools.line(job, weights, model, self.asked)
            append(self.record, line)
            self.stage.count(self.config.n)
            self.lines.append(line)
            print(_summary(line), flush=True)
            for note in set((line["distance"] or {}).get("notes", ())) - self.noted:
                print(f"[eval.track] {note}", flush=True)
                self.noted.add(note)
            self.draw()
            self.tools.log(line)

    def draw(self) -> None:
        from eval.records import curves  # loads matplotlib, for new lines only

        name, sampling = self.config.run.resolve().name, self.lines[-1]["sampling"]
        title = f"{name}: {sampling['n']:,} samples, {sampling['sampler']} {sampling['steps']}"
        curves.draw(self.lines, self.picture, title)

    def close(self, code: int) -> None:
        if self.tools is not None:
            self.tools.close(code)
        self.stage.abandon()

    def _none_there(self) -> str:
        steps = [step_of(path) for path in checkpoints(self.config.run)]
        there = f"those there are at {', '.join(map(str, steps))}" if steps else "there are none"
        wanted = f" at multiples of --every {self.config.every}" if self.config.every else ""
        return (
            f"{self.config.run / 'checkpoints'}: no checkpoints{wanted} ({there}); dit.train "
            "--keep-every N keeps those at multiples of N"
        )


def _mark(checkpoint: Path, what: str) -> tuple[str, int, str]:
    """Names a part of a checkpoint as it is now; -1 for one that is gone."""
    try:
        return checkpoint.name, checkpoint.stat().st_mtime_ns, what
    except OSError:
        return checkpoint.name, -1, what


def _summary(line: Line) -> str:
    where = f"[eval.track] step {line['step']:,} ({line['samples']:,} samples), {line['weights']}: "
    distance = line["distance"]
    if distance is None:
        return where + "DIVERGED, the samples are not finite"
    losses = [f"loss {terms['loss']:.4f} ({name})" for name, terms in (line["loss"] or {}).items()]
    return ", ".join(
        [
            f"{where}{distance['name']} {distance['value']:.4g}",
            f"{distance['kernel_name']} {distance['kernel_value']:.4g} "
            f"(n {distance['n_generated']:,} vs {distance['n_real']:,})",
            *losses,
            f"{line['seconds']:.1f} s",
        ]
    )
