"""Reads what W&B has written offline: blocks of 32 KiB as LevelDB's log has them, of protobuf."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


@dataclass
class OfflineRun:
    """A run's offline folder.

    Attributes:
        run: RunRecord: run_id, display_name, run_group, job_type, tags, project.
        history: logged values in order, with "at", W&B's own step.
        config, summary: by key.
        logged, used: artifacts (ArtifactRecord) by name.
        axes: name or pattern of a metric -> its x-axis.
    """

    folder: Path
    run: Any = None
    config: dict[str, Any] = field(default_factory=dict)
    summary: dict[str, Any] = field(default_factory=dict)
    history: list[dict[str, Any]] = field(default_factory=list)
    logged: dict[str, Any] = field(default_factory=dict)
    used: dict[str, Any] = field(default_factory=dict)
    axes: dict[str, str] = field(default_factory=dict)


def records(file: Path) -> list[Any]:
    """The records of a .wandb file, without one that is being written."""
    from wandb.proto.wandb_internal_pb2 import Record

    data, found, whole, at = file.read_bytes(), [], b"", 7  # after W&B's own header
    assert data[:4] == b":W&B"
    while at + 7 <= len(data):
        if (left := 2**15 - at % 2**15) < 7:
            at += left
            continue
        length, kind = int.from_bytes(data[at + 4 : at + 6], "little"), data[at + 6]
        if at + 7 + length > len(data):
            break
        whole += data[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):  # complete, or its last part
            found.append(Record.FromString(whole))
            whole = b""
    return found


def read_run(folder: Path) -> OfflineRun:
    """What an ended run's offline folder holds."""
    (file,) = folder.glob("run-*.wandb")
    found, until = records(file), time.monotonic() + 30
    # The machine's description may come after the exit.
    while not any(record.WhichOneof("record_type") == "exit" for record in found):
        assert time.monotonic() < until, "W&B does not finish its file"
        time.sleep(0.05)  # another process of W&B's writes it
        found = records(file)
    run = OfflineRun(folder)
    for record in found:
        match record.WhichOneof("record_type"):
            case "run":
                run.run = record.run
                run.config |= _items(record.run.config.update)
            case "config":
                run.config |= _items(record.config.update)
            case "summary":
                run.summary |= _items(record.summary.update)
            case "history":
                entry = record.history
                run.history.append({**_items(entry.item), "at": entry.step.num})
            case "artifact":
                kind = run.used if record.artifact.use_after_commit else run.logged
                kind[record.artifact.name] = record.artifact
            case "metric":
                metric = record.metric
                run.axes[metric.glob_name or metric.name] = metric.step_metric
    return run


def read_runs(root: Path) -> list[OfflineRun]:
    """All offline runs below a folder, by the times of their folders."""
    folders = sorted(root.rglob("offline-run-*"), key=lambda path: path.name)
    return [read_run(folder) for folder in folders]


def _items(items: Any) -> dict[str, Any]:
    return {"/".join(i.nested_key) or i.key: json.loads(i.value_json) for i in items}
