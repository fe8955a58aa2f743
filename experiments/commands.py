"""A command of the plan: its words, what it reads, and the fingerprint that names its output."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from core.errors import UserError


@dataclass
class Job:
    """One command of the plan; eval.programme.plan.Job says what the fields are."""

    id: str
    stage: str
    out: Path
    target: Path
    argv: list[str]
    needs: list[str]
    cpus: int
    gpus: int
    memory_gb: float
    items: float | None
    cells: list[str] = field(default_factory=list)
    tags: list[str] = field(default_factory=list)


Inside = tuple[Job, str]
"""A file or folder inside a job's output, or a specification with {} for the output's folder."""
Flags = Mapping[str, Any]


def fingerprint(stage: str, flags: Flags) -> str:
    """Eight hex digits of a command and of all that it reads."""
    tokens = {name: _token(value) for name, value in flags.items()}
    text = json.dumps([stage, tokens], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:8]


def _token(value: Any) -> Any:
    if isinstance(value, Job):
        return value.id
    if isinstance(value, tuple):
        return [value[0].id, value[1]]
    if isinstance(value, list):
        return [_token(one) for one in value]
    return value


def text_of(place: str | Inside) -> str:
    """A place as a command takes it."""
    if isinstance(place, str):
        return place
    job, part = place
    return part.format(job.out) if "{}" in part else str(job.out / part)


def jobs_in(values: Iterable[Any]) -> Iterable[Job]:
    """The jobs whose outputs a command reads."""
    for value in values:
        if isinstance(value, Job):
            yield value
        elif isinstance(value, tuple):
            yield value[0]
        elif isinstance(value, list):
            yield from jobs_in(value)


def argv(flags: Flags) -> list[str]:
    """The words of a command line. Raises UserError for a flag that is false."""
    words: list[str] = []
    for name, value in flags.items():
        if value is True:
            words.append(f"--{name}")
            continue
        if value is False:
            raise UserError(f"{name}: false is no flag; leave it out")
        words.append(f"--{name}")
        for one in value if isinstance(value, list) else [value]:
            if isinstance(one, Job):
                words.append(str(one.out))
            elif isinstance(one, tuple):
                words.append(text_of((one[0], one[1])))
            else:
                words.append(str(one))
    return words
