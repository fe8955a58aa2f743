"""The end of a job's log. Light to import."""

from __future__ import annotations

from pathlib import Path


def last_line(log: Path) -> str:
    """The last line of a log that says something; of progress bars what they ended with."""
    try:
        with open(log, "rb") as stream:
            stream.seek(max(0, stream.seek(0, 2) - 8192))
            text = stream.read().decode("utf-8", "replace").replace("\r", "\n")
    except OSError:
        return "no log"
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1] if lines else "an empty log"
