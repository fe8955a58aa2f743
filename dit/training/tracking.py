"""What W&B gets of a run while it goes: its place in the project, its curves, its pictures.

One layout for everything in the project: group = experiment, job_type = stage, tags = corpus,
method, ratio, seed and whatever else the caller names; every curve is over `samples_seen`, images
that the training has been shown, so that runs of other batches compare. WANDB_RUN_GROUP,
WANDB_JOB_TYPE, WANDB_TAGS and WANDB_NAME say it from outside. Light to import: no torch, no wandb.
"""

from __future__ import annotations

import json
import netrc
import os
import secrets
import shutil
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from core.atomic import write_json
from core.errors import UserError
from core.stage import Stage

PROJECT = "rs-prune"
SEEN = "samples_seen"
"""The x-axis of every curve: steps times images in a batch."""
ID_FILE = "wandb.json"
"""Beside the record that W&B repeats: the run's id there."""
_SECTIONS = {
    "dit.train": "generation",
    "dit.train_vae": "vae",
    "downstream.train_segmenter": "segmenter",
    "eval.track": "track",
}
"""Stage -> what the names of its curves begin with; of a fine-tuning it is the task. W&B draws
names that are equal as one curve, and has a section for each beginning."""


@dataclass(frozen=True)
class Place:
    """Where a run is in the project.

    Attributes:
        name: shown for the run.
        group: the experiment; None: in none.
        job_type: the stage, for example 'dit.train'.
        tags: 'corpus:git10m', 'method:rsprune', 'ratio:0.7', 'seed:0', ...; those of the form
            'key:value' are settings of the run too, by which W&B groups and filters.
    """

    name: str
    group: str | None = None
    job_type: str | None = None
    tags: tuple[str, ...] = ()

    def settings(self) -> dict[str, Any]:
        """What the tags say, by key: a number where it is one, a list where a key has several."""
        found: dict[str, list[Any]] = {}
        for tag in self.tags:
            key, colon, value = tag.partition(":")
            if colon and key and value:
                found.setdefault(key, []).append(_number(value))
        return {key: values[0] if len(values) == 1 else values for key, values in found.items()}

    def init(self) -> dict[str, Any]:
        """As wandb.init takes it."""
        return {
            "project": os.environ.get("WANDB_PROJECT") or PROJECT,
            "name": self.name,
            "group": self.group,
            "job_type": self.job_type,
            "tags": list(self.tags),
        }


def place_of(out: Path, stage: str | None) -> Place:
    """Where a run of `stage` in the folder `out` is, by W&B's variables or else by its path."""
    group = os.environ.get("WANDB_RUN_GROUP") or None
    tags = [tag.strip() for tag in os.environ.get("WANDB_TAGS", "").split(",")]
    return Place(
        name=os.environ.get("WANDB_NAME") or name_of(out),
        group=group,
        job_type=os.environ.get("WANDB_JOB_TYPE") or stage,
        tags=clean_tags([*tags, *([group] if group else [])]),
    )


def name_of(out: Path) -> str:
    """A run's name by its folder, 'mine/sr/rsprune' of runs/mine/sr/rsprune.

    The last part alone is that of several runs; so at most three are taken.
    """
    parts = out.absolute().parts[-3:]
    return "/".join(part for part in parts if part not in ("runs", os.sep))


def clean_tags(tags: Iterable[str]) -> tuple[str, ...]:
    """Each once, in order, none empty; of 64 characters at most, which is W&B's bound."""
    return tuple(dict.fromkeys(tag[:64] for tag in tags if tag))


def _number(text: str) -> Any:
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            pass
    return text


class Logger:
    """Where each line of stats.jsonl is repeated; this one repeats nothing (W&B is off)."""

    def log(self, line: dict[str, Any]) -> None:
        pass

    def image(self, path: Path, step: int) -> None:
        pass

    def close(self, code: int) -> None:
        pass


class WandbLogger(Logger):
    """A W&B run below the run folder; its first failure is reported and ends it.

    A session begins by logging what W&B lacks of the lines before it. Offline that is all of them:
    W&B cannot go on with an offline run, and of two folders with one id the second would replace
    the first when both are synced. So the newest folder holds the whole run, and older ones go.

    Args:
        out: the folder of the record; W&B's own goes below it.
        config: the run's settings; "batch" says how many images a step sees.
        mode: online or offline.
        record: the file that is repeated, for messages.
        place: where the run is in the project.
        section: what the names of its values begin with.
        earlier: lines of sessions before; None: not known, so that what they wrote stays.
        identifier: the run's id where the folder has none yet.
        live: whether this is the process that makes the record, see open_run.
    """

    def __init__(
        self,
        out: Path,
        config: Mapping[str, Any],
        mode: str,
        record: str = "stats.jsonl",
        place: Place | None = None,
        section: str = "",
        earlier: Sequence[dict[str, Any]] | None = None,
        identifier: str | None = None,
        live: bool = True,
    ) -> None:
        self._run: Any = None
        self._record = record
        self.failure: Exception | None = None
        self._section, self._batch = section, config.get("batch")
        place = place or place_of(out, None)
        try:
            import wandb

            self._wandb = wandb
            identifier = _wandb_id(out, identifier)
            older = offline_folders(out, identifier)
            while any(time.strftime("-%Y%m%d_%H%M%S-") in path.name for path in older):
                time.sleep(0.05)  # W&B would write over the folder of a session of this second
            settings = {**place.settings(), **config}
            self._run = open_run(place, identifier, mode, out, settings, live)
            self._run.define_metric(SEEN)
            self._run.define_metric("*", step_metric=SEEN)
        except Exception as error:  # whatever it is, the run goes on
            self._fail(error)
        self._catch_up(out, earlier or ())
        if earlier is not None and self._run is not None:
            for folder in older:
                shutil.rmtree(folder, ignore_errors=True)

    def _catch_up(self, out: Path, earlier: Sequence[dict[str, Any]]) -> None:
        """Log what W&B lacks of the lines, and of the pictures, of earlier sessions."""
        known = int(getattr(self._run, "step", 0) or 0)  # where an online run goes on
        lines = sorted(earlier, key=lambda line: line["step"])
        pictures = sorted((out / "samples").glob("step-*.png")) if lines else []
        shown = {int(path.stem.removeprefix("step-")): path for path in pictures}
        for place, line in enumerate(lines):
            until = lines[place + 1]["step"] if place + 1 < len(lines) else line["step"] + 1
            if line["step"] >= known:
                self.log(line)
                for step in sorted(step for step in shown if line["step"] <= step < until):
                    self.image(shown[step], step)

    def log(self, line: dict[str, Any]) -> None:
        flat = {name: value for name, value in line.items() if name not in ("timing", "samples")}
        flat |= {f"timing/{name}": value for name, value in line.get("timing", {}).items()}
        self._values(flat, line["step"], line.get("samples"))

    def image(self, path: Path, step: int) -> None:
        self.act(lambda _: self._values({"samples": self._wandb.Image(str(path))}, step))

    def close(self, code: int) -> None:
        self.act(lambda run: run.finish(exit_code=code))

    def act(self, action: Callable[[Any], Any]) -> None:
        """Do something with W&B's run, if there still is one."""
        if self._run is not None:
            try:
                action(self._run)
            except Exception as error:
                self._fail(error)

    def _values(self, values: Mapping[str, Any], step: int, seen: int | None = None) -> None:
        start = f"{self._section}/" if self._section else ""
        named = {name if name == "step" else start + name: v for name, v in values.items()}
        if seen is None and self._batch:
            seen = step * self._batch
        if seen is not None:
            named[SEEN] = seen
        self.act(lambda run: run.log(named, step=step))

    def _fail(self, error: Exception) -> None:
        self._run, self.failure = None, error
        message = f"W&B failed and is off for this run ({error}); {self._record} goes on"
        print(message, file=sys.stderr)


def open_run(
    place: Place, identifier: str, mode: str, folder: Path, config: Any, live: bool = True
) -> Any:
    """W&B's run of this id, new or, online, gone on with.

    With `live` it watches the machine and lists the packages: of what is told afterwards they would
    be those of another process, and listing them takes ten times as long as all the rest.
    """
    import wandb

    return wandb.init(
        **place.init(),
        id=identifier,
        resume="allow" if mode == "online" else None,
        mode=mode,  # type: ignore[arg-type]
        dir=str(folder),
        config=config,
        reinit="create_new",
        settings=wandb.Settings(
            console="off",
            silent=True,
            save_code=False,
            disable_git=True,
            init_timeout=30.0,
            x_disable_stats=not live,
            x_save_requirements=live,
        ),
    )


def _wandb_id(out: Path, given: str | None) -> str:
    """The run's W&B id, made once, so that a resumed run continues the same one."""
    if (known := known_id(out)) is not None:
        return known
    name = given or secrets.token_hex(4)
    write_json(out / ID_FILE, {"id": name})
    return name


def known_id(out: Path) -> str | None:
    """The W&B id of the run whose record is in `out`, or None where it has none."""
    try:
        return str(json.loads((out / ID_FILE).read_text())["id"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def offline_folders(out: Path, identifier: str) -> list[Path]:
    """What offline sessions of the run have written."""
    return sorted((out / "wandb").glob(f"offline-run-*-{identifier}"))


_MODES = {"dryrun": "offline", "run": "online"} | {
    mode: mode for mode in ("online", "offline", "disabled")
}
"""What WANDB_MODE may be, W&B's former spellings included."""


def wandb_mode() -> str:
    """WANDB_MODE; else online when an API key is at hand, offline when not.

    WANDB_DISABLED switches W&B off, as other trainers take it. Raises UserError for a mode that
    W&B does not know: online, a misspelt 'offline' would wait for a network.
    """
    if os.environ.get("WANDB_DISABLED", "").strip().lower() in ("1", "true", "yes", "on"):
        return "disabled"
    if given := os.environ.get("WANDB_MODE", "").strip():
        if given.lower() not in _MODES:
            raise UserError(f"WANDB_MODE={given}: expected one of {', '.join(sorted(_MODES))}")
        return _MODES[given.lower()]
    if os.environ.get("WANDB_API_KEY"):
        return "online"
    host = urlsplit(os.environ.get("WANDB_BASE_URL", "")).hostname
    try:
        return "online" if netrc.netrc().authenticators(host or "api.wandb.ai") else "offline"
    except (OSError, netrc.NetrcParseError):
        return "offline"


def section_of(stage: str, config: Mapping[str, Any]) -> str:
    """What the names of a stage's curves begin with: generation, sr, sis, vae, ..."""
    return _SECTIONS.get(stage) or str(config.get("task") or "")


def open_logger(
    out: Path,
    config: Mapping[str, Any],
    record: str = "stats.jsonl",
    stage: Stage | None = None,
    earlier: Sequence[dict[str, Any]] | None = None,
) -> Logger:
    """W&B's copy of the file `record` of the folder `out`, or none where WANDB_MODE says so.

    `stage` is what makes the record (W&B's job type, and the run's name by its folder); `earlier`
    are the lines, as `log` takes them, that other sessions have logged: see WandbLogger. Raises
    UserError as `wandb_mode` does.
    """
    mode = wandb_mode()
    if mode == "disabled":
        return Logger()
    place = place_of(stage.out if stage else out, stage.name if stage else None)
    section = section_of(stage.name, config) if stage else ""
    return WandbLogger(out, config, mode, record, place, section, earlier)
