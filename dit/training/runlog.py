"""The run folder's record: config.json, env.json, stats.jsonl, repeated to W&B.

stats.jsonl is the truth: one JSON line an interval, every figure but those under "timing" a
function of the configuration and the data. W&B repeats it and may fail without harm.
"""

from __future__ import annotations

import datetime
import json
import os
import platform
import sys
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from core.atomic import write_json, write_text
from core.stage import Stage, code_version
from dit.training.tracking import open_logger

_PACKAGES = ("torch", "numpy", "accelerate", "safetensors", "diffusers")


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


class RunLog:
    """Writes the record of one training; only the main process has one.

    Args:
        out: the run folder.
        config: the resolved configuration.
        step: steps finished when this session starts; later lines of stats.jsonl are cut off,
            since this session will write them again.
        session: what else env.json should say of this session (processes, device, precision).
        stage: what trains, see `open_logger`.
    """

    def __init__(
        self,
        out: Path,
        config: Mapping[str, Any],
        step: int,
        session: Mapping[str, Any],
        stage: Stage | None = None,
    ) -> None:
        self.path = out / "stats.jsonl"
        settings = json.loads(json.dumps(dict(config), default=str))
        write_json(out / "config.json", settings)
        self._note_session(out / "env.json", step, session)
        kept = self._truncate(step)
        self.last: dict[str, Any] = kept[-1] if kept else {}
        """The last line written, by this session or an earlier one."""
        self._stream = open(self.path, "a", encoding="utf-8")
        # Where the record was lost, W&B's copies of earlier sessions are all that there is.
        earlier = None if step and not kept else kept
        self.logger = open_logger(out, settings, stage=stage, earlier=earlier)

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
