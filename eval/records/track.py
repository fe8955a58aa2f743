"""python -m eval.track: metrics along a training run, on raw and on averaged weights.

For each checkpoint of a run of dit.train it draws samples, always from the same noise, and adds
one line for each kind of weights to OUT/track.jsonl, with the Frechet and kernel distance to the
hold-out; OUT/track.png shows them against the steps. The training need not have ended: with
--follow the command waits for further checkpoints, for example on a GPU of its own.

Run the same command again to go on: what has its line is not measured again. SIGTERM or SIGUSR1
stops it (exit code 75), as does Ctrl-C (130).
"""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from core.errors import UserError
from core.settings import machine, parse, place, science, settings
from core.stage import Stage, digest_of, manifest_path, sha256_file
from data.corpus.base import keep_apart
from data.corpus.specs import open_corpus
from dit.training.checkpoint import (
    WEIGHTS_FILES,
    Damaged,
    Weights,
    checkpoints,
    fingerprint,
    read_state,
    step_of,
    verify,
)
from dit.training.processes import stop_signals
from dit.vae.autoencoder import VaeInfo, describe_vae
from eval.records.measure import Job, Measurer, Stopped, settings_of
from eval.records.record import Line, append, draw, mend, read_lines, up_to_date

if TYPE_CHECKING:
    from data.corpus.base import Corpus
    from dit.model.transformer import DiT


@settings
class TrackConfig:
    """Which run, against which images."""

    run: Path
    """Run folder of dit.train, finished or not."""
    vae: Path
    """VAE that decodes: folder in diffusers' layout or hub id; must be the one trained with."""
    corpus: str = place()
    """Corpus that the hold-out images come from, as prune.score takes it."""
    holdout: Path
    """Hold-out table (from data.holdout)."""
    out: Path
    """Folder for track.jsonl and track.png."""
    n: int = 1000
    """Images drawn for each line. Frechet distances of different counts do not compare."""
    extractor: str = "inception"
    """Feature space: inception (the distance is FID) or descriptor (FD-descriptor)."""
    sampler: Literal["ddpm", "ddim", "dpmpp"] = "ddim"
    """As in dit.sample."""
    steps: int = 50
    """Model evaluations an image."""
    seed: int = 0
    """Seed of all noise: image i starts from the same noise at every checkpoint."""
    class_label: int = -1
    """Class-conditional models: class of every image; -1 gives image i class i mod classes."""
    guidance: float = 1.0
    """Class-conditional models: classifier-free guidance scale; 1 is without."""
    guided_channels: int = 0
    """Latent channels that guidance acts on; 0 is all."""

    # These say which lines are wanted, and change none of them.
    weights: Literal["both", "ema", "raw"] = machine("both")
    """The weights' moving average, the weights themselves, or both."""
    every: int = machine(0)
    """Only checkpoints at multiples of this step; 0: all that are there."""
    follow: bool = machine(False)
    """Wait for further checkpoints until the training has ended."""
    poll: float = machine(30.0)
    """With --follow: seconds between looks at the run folder."""
    weights_folder: Path | None = None
    """Folder with Inception's weights, inception-2015-12-05.pt (default: clean-fid's place)."""
    batch: int = machine(64)
    """Images at a time through the model."""
    precision: Literal["tf32", "fp32", "bf16"] = machine("tf32")
    """Arithmetic of the DiT, as in dit.sample."""
    device: str = machine("auto")
    """Where networks run: auto, cpu, cuda, cuda:1 (machine setting)."""


def main(argv: list[str] | None = None) -> int:
    config = parse(TrackConfig, argv, prog="python -m eval.track", description=__doc__ or "")
    _check(config)
    with stop_signals() as asked:
        trained = _training(config, asked)
        if trained is None:
            return _stopped()
        info = describe_vae(config.vae)
        inputs = {"run": trained, "holdout": sha256_file(config.holdout), "vae": info.fingerprint}
        # The stage's settings and lock, but no manifest: a track is never finished for good, since
        # the next call may ask for more of its lines.
        stage = Stage(config.out, "eval.track", science(config), inputs)
        if stage.done():
            return 0
        track = _Track(config, stage, info, asked)
        code = 1
        try:
            code = track.go()
        except Stopped:
            code = _stopped()
        finally:
            track.close(code)
    return code


def _check(config: TrackConfig) -> None:
    least = {"n": 2, "steps": 1, "batch": 1, "seed": 0, "class_label": -1, "every": 0, "poll": 0}
    for name, value in least.items():
        if getattr(config, name) < value:
            flag = name.replace("_", "-")
            raise UserError(f"--{flag} {getattr(config, name)}: must be at least {value}")
    if not config.holdout.is_file():
        raise UserError(f"--holdout {config.holdout}: no such file; make it with data.holdout")
    if config.out.resolve() == config.run.resolve():
        raise UserError(
            f"--out {config.out}: is the run folder; name one of its own, for example "
            f"{config.run}-track"
        )


def _training(config: TrackConfig, asked: threading.Event) -> str | None:
    """What the run is of, as its checkpoints name it ("run" in state.json).

    Waits for the run to begin with --follow; None when asked to stop meanwhile.
    """
    manifest = manifest_path(config.run)
    begun = manifest.with_name("stage.json")
    told = False
    while True:
        for path in (manifest, begun, manifest):  # at its end begun goes as manifest comes
            try:
                found = json.loads(path.read_text(encoding="utf-8"))
            except FileNotFoundError:
                continue
            except ValueError:
                raise UserError(f"{path}: not valid JSON; train the run again") from None
            if found.get("stage") != "dit.train":
                raise UserError(f"--run {config.run}: of {found.get('stage')}, not of dit.train")
            return digest_of({"params": found["params"], "inputs": found["inputs"]})
        if not config.follow:
            raise UserError(
                f"--run {config.run}: no run of dit.train there; look at the path, or give "
                "--follow to wait for one"
            )
        if not told:
            print(f"[eval.track] waiting for {config.run} to begin", flush=True)
            told = True
        if not _waited(config.poll, asked):
            return None


def _waited(seconds: float, asked: threading.Event) -> bool:
    """Wait; False, within half a second, when asked to stop."""
    # Not asked.wait(): the signal's handler sets the event in this very thread, and would wait
    # for ever for a lock that the thread holds for a moment as it begins to wait.
    until = time.monotonic() + seconds
    while not asked.is_set() and (left := until - time.monotonic()) > 0:
        time.sleep(min(left, 0.5))
    return not asked.is_set()


def _stopped() -> int:
    print("[eval.track] stopped as asked; run the same command again to continue", flush=True)
    return os.EX_TEMPFAIL  # 75, as dit.train: run me again


class _Track:
    """One call's work; what is heavy is loaded when the first line is to be measured."""

    def __init__(
        self, config: TrackConfig, stage: Stage, info: VaeInfo, asked: threading.Event
    ) -> None:
        self.config, self.stage, self.info, self.asked = config, stage, info, asked
        self.record, self.picture = config.out / "track.jsonl", config.out / "track.png"
        self.lines, _ = read_lines(self.record)
        self.passed_over: set[tuple[str, int, str]] = set()
        self.noted: set[str] = set()  # notes on the distances, said once
        self.tools: Measurer | None = None
        self.logger: Any = None
        self.corpus: Corpus | None = None  # opened with the folder

    def go(self) -> int:
        """Measure what is missing; with --follow until the training has ended."""
        config, before, waiting = self.config, len(self.lines), False
        while True:
            # Looked at before the list is made: no checkpoint comes after the manifest.
            ended = manifest_path(config.run).exists()
            if at_work := next(self.missing(), None) is not None:
                self.open()
            for job in self.missing():
                self.measure(job)
            if self.asked.is_set():
                return _stopped()
            if ended or not config.follow:
                break
            if at_work or not waiting:
                print(f"[eval.track] waiting for checkpoints in {config.run}", flush=True)
                waiting = True
            if not _waited(config.poll, self.asked):
                return _stopped()
        if not self.lines and not self.passed_over:
            raise UserError(self._none_there())
        if self.lines and not up_to_date(self.picture, self.record):
            self.open()  # killed between the line and the picture
            self.draw()
        new = len(self.lines) - before
        done = f"{new} new lines of" if new else "nothing left to do,"
        print(f"[eval.track] {config.out}: {done} {len(self.lines)} lines", flush=True)
        return 0

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
        """Say, once, why there is no line: the training has deleted it, or it is damaged."""
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
        """Take the folder for writing; mend what a killed call left in it."""
        if self.corpus is None:
            self.corpus = open_corpus(self.config.corpus)
            keep_apart(self.config.out, self.corpus, self.config.corpus)
            self.stage.open()
            self.lines = mend(self.record)  # what another call wrote meanwhile is in it, too

    def measure(self, job: Job) -> None:
        """Add the lines of one checkpoint."""
        # All its weights at once: what is in memory the training can delete.
        models = {weights: self.load(job, weights) for weights in job.weights}
        for weights, model in models.items():
            if model is None:
                continue
            if self.tools is None:
                assert self.corpus is not None
                size = model.input_size * self.info.factor
                self.tools = Measurer(self.config, self.corpus, size, self.lines)
            line = self.tools.line(job, weights, model, self.asked)
            append(self.record, line)
            self.lines.append(line)
            print(_summary(line), flush=True)
            for note in set((line["distance"] or {}).get("notes", ())) - self.noted:
                print(f"[eval.track] {note}", flush=True)
                self.noted.add(note)
            self.draw()
            self.repeat(line)

    def load(self, job: Job, weights: Weights) -> DiT | None:
        """The model on the CPU; None when its file is gone or damaged."""
        from safetensors import SafetensorError

        from dit.sampling.sample import load_checked

        try:
            return load_checked(settings_of(self.config, job.checkpoint, weights), self.info)
        except (UserError, OSError, SafetensorError) as error:
            # Whose fault it was: the checkpoint's, or that of the settings.
            try:
                verify(job.checkpoint, only=WEIGHTS_FILES[weights])
            except Damaged as damage:
                self.pass_over(job.checkpoint, weights, damage)
                return None
            raise error

    def draw(self) -> None:
        name = self.config.run.resolve().name
        sampling = self.lines[-1]["sampling"]
        title = f"{name}: {sampling['n']:,} samples, {sampling['sampler']} {sampling['steps']}"
        draw(self.lines, self.picture, title)

    def repeat(self, line: Line) -> None:
        """The line to W&B, by the names of its distances and weights."""
        from dit.training.runlog import open_logger

        if self.logger is None:
            config = {**self.stage.params, "run": str(self.config.run)}
            self.logger = open_logger(self.config.out, config, self.record.name)
        distance, kind = line["distance"] or {}, line["weights"]
        values = {f"{kind}/seconds": line["seconds"], "samples": line["samples"]}
        for name, value in (("name", "value"), ("kernel_name", "kernel_value")):
            if distance:
                values[f"{kind}/{distance[name]}"] = distance[value]
        self.logger.log({"step": line["step"], **values, "timing": {}})

    def close(self, code: int) -> None:
        if self.logger is not None:
            self.logger.close(code)
        self.stage.close()

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
    return (
        f"{where}{distance['name']} {distance['value']:.4g}, "
        f"{distance['kernel_name']} {distance['kernel_value']:.4g} "
        f"(n {distance['n_generated']:,} vs {distance['n_reference']:,}), {line['seconds']:.1f} s"
    )
