"""How the studies report: figures as JSON, tables as Markdown, both beside the stages' outputs."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from core.atomic import write_json, write_text


def table(columns: Sequence[str], rows: Iterable[Sequence[object]], text: int = 1) -> list[str]:
    """A table as lines of Markdown, its first `text` columns to the left, the others right."""
    marks = ["---" if i < text else "---:" for i in range(len(columns))]
    return [
        f"| {' | '.join(columns)} |",
        f"|{'|'.join(marks)}|",
        *(f"| {' | '.join(map(str, row))} |" for row in rows),
    ]


def write_report(config: Any, name: str, result: Mapping[str, Any], text: str) -> None:
    """Write OUT/name.json (with the settings) and OUT/name.md, and print the latter."""
    values = {
        field.name: getattr(config, field.name)
        for field in dataclasses.fields(config)
        if field.name != "out" and "machine" not in field.metadata
    }
    settings = {key: _plain(value) for key, value in values.items() if value is not None}
    write_json(config.out / f"{name}.json", {"settings": settings, **result})
    write_text(config.out / f"{name}.md", text)
    print("\n" + text)


def _plain(value: Any) -> Any:
    if isinstance(value, tuple):
        return [_plain(item) for item in value]
    return str(value) if isinstance(value, Path) else value
