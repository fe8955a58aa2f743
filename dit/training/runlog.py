"""The run folder's record: config.json, env.json, stats.jsonl, repeated to W&B.

stats.jsonl is the truth: one JSON line an interval, every figure but those under "timing" a
function of the configuration and the data. W&B repeats it and may fail without harm.
"""

from __future__ import annotations

import datetime
import json
import netrc
import os
import platform
import secrets
import shutil
import sys
import time
from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from core.atomic import write_json, write_text
from core.errors import UserError
from core.stage import code_version

_PACKAGES = ("torch", "numpy", "accelerate", "safetensors", "diffusers")
_PROJECT = "rs-prune"


def environment() -> dict[str, Any]:
    """Versions, hardware and code revision of this process."""
    versions = {}
    for name in _PACKAGES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            versions[name] = "not installed"
    gpus = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    return {
        "code": code_version(),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "host": platform.node(),
        "cpus": os.cpu_count(),
        "gpus": gpus,
        "cuda": torch.version.cuda if gpus else None,
        "packages": versions,
    }


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
    """

    def __init__(
        self,
        out: Path,
        config: dict[str, Any],
        mode: str,
        record: str = "stats.jsonl",
        name: str | None = None,
        earlier: Sequence[dict[str, Any]] = (),
    ) -> None:
        self._run: Any = None
        self._record = record
        try:
            import wandb

            self._wandb = wandb
            identifier = _wandb_id(out)
            older = _offline_folders(out, identifier)
            while any(time.strftime("-%Y%m%d_%H%M%S-") in path.name for path in older):
                time.sleep(0.05)  # W&B would write over the folder of a session of this second
            self._run = wandb.init(
                project=os.environ.get("WANDB_PROJECT", _PROJECT),
                name=os.environ.get("WANDB_NAME") or name or out.name,
                id=identifier,
                resume="allow" if mode == "online" else None,
                mode=mode,  # type: ignore[arg-type]
                dir=str(out),
                config=config,
                settings=wandb.Settings(
                    console="off",
                    silent=True,
                    save_code=False,
                    disable_git=True,
                    init_timeout=30.0,
                ),
            )
        except Exception as error:  # whatever it is, the run goes on
            self._fail(error)
        self._catch_up(out, earlier)
        if earlier and self._run is not None:
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
        flat = {name: value for name, value in line.items() if name != "timing"}
        flat |= {f"timing/{name}": value for name, value in line["timing"].items()}
        self._try(lambda run: run.log(flat, step=line["step"]))

    def image(self, path: Path, step: int) -> None:
        self._try(lambda run: run.log({"samples": self._wandb.Image(str(path))}, step=step))

    def close(self, code: int) -> None:
        self._try(lambda run: run.finish(exit_code=code))

    def _try(self, action: Any) -> None:
        if self._run is not None:
            try:
                action(self._run)
            except Exception as error:
                self._fail(error)

    def _fail(self, error: Exception) -> None:
        self._run = None
        message = f"W&B failed and is off for this run ({error}); {self._record} goes on"
        print(message, file=sys.stderr)


def _wandb_id(out: Path) -> str:
    """The run's W&B id, made once, so that a resumed run continues the same one."""
    path = out / "wandb.json"
    try:
        return str(json.loads(path.read_text())["id"])
    except (OSError, ValueError, KeyError):
        name = secrets.token_hex(4)
        write_json(path, {"id": name})
        return name


def _offline_folders(out: Path, identifier: str) -> list[Path]:
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
    try:
        return "online" if netrc.netrc().authenticators("api.wandb.ai") else "offline"
    except (OSError, netrc.NetrcParseError):
        return "offline"


def open_logger(
    out: Path,
    config: dict[str, Any],
    record: str = "stats.jsonl",
    name: str | None = None,
    earlier: Sequence[dict[str, Any]] = (),
) -> Logger:
    """W&B's copy of the file `record` of the folder `out`, or none where WANDB_MODE says so.

    `name` is W&B's for the run where WANDB_NAME gives none, the folder's by default; `earlier` are
    the lines, as `log` takes them, that other sessions have logged. Raises UserError as
    `wandb_mode` does.
    """
    mode = wandb_mode()
    if mode == "disabled":
        return Logger()
    return WandbLogger(out, config, mode, record, name, earlier)


class RunLog:
    """Writes the record of one training; only the main process has one.

    Args:
        out: the run folder.
        config: the resolved configuration.
        step: steps finished when this session starts; later lines of stats.jsonl are cut off,
            since this session will write them again.
        session: what else env.json should say of this session (processes, device, precision).
        name: see `open_logger`.
    """

    def __init__(
        self,
        out: Path,
        config: Mapping[str, Any],
        step: int,
        session: Mapping[str, Any],
        name: str | None = None,
    ) -> None:
        self.path = out / "stats.jsonl"
        settings = json.loads(json.dumps(dict(config), default=str))
        write_json(out / "config.json", settings)
        self._note_session(out / "env.json", step, session)
        kept = self._truncate(step)
        self.last: dict[str, Any] = kept[-1] if kept else {}
        """The last line written, by this session or an earlier one."""
        self._stream = open(self.path, "a", encoding="utf-8")
        self.logger = open_logger(out, settings, name=name, earlier=kept)

    def write(self, line: dict[str, Any]) -> None:
        """Append one line; it is on disk when this returns."""
        self.last = line
        self._stream.write(json.dumps(line, allow_nan=False) + "\n")
        self._stream.flush()
        os.fsync(self._stream.fileno())
        self.logger.log(line)

    def close(self, code: int) -> None:
        self._stream.close()
        self.logger.close(code)

    def _truncate(self, step: int) -> list[dict[str, Any]]:
        try:
            text = self.path.read_text(encoding="utf-8", errors="replace")
        except FileNotFoundError:
            if step:
                print(f"WARNING: {self.path}: gone; it goes on from step {step:,}", file=sys.stderr)
            return []
        kept: list[dict[str, Any]] = []
        raw: list[str] = []
        lines = text.split("\n")
        for number, line in enumerate(lines, start=1):
            try:
                entry = json.loads(line)
                later = entry["step"] > step
            except (ValueError, TypeError, KeyError):
                if number < len(lines):  # not a killed run's last line, truncated
                    print(
                        f"WARNING: {self.path}: line {number} is damaged and left out",
                        file=sys.stderr,
                        flush=True,
                    )
                continue
            if later:
                break
            kept.append(entry)
            raw.append(line + "\n")
        write_text(self.path, "".join(raw))
        return kept

    @staticmethod
    def _note_session(path: Path, step: int, session: Mapping[str, Any]) -> None:
        try:
            sessions = json.loads(path.read_text())["sessions"]
        except (OSError, ValueError, KeyError, TypeError):
            sessions = []
        now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
        sessions.append({"started": now, "from_step": step, **session, **environment()})
        write_json(path, {"sessions": sessions})
