"""Settings of data.download. Light to import."""

from __future__ import annotations

from pathlib import Path

from core.settings import settings


@settings
class DownloadConfig:
    """What to fetch, and where to."""

    name: str = ""
    """Data set or weights; without a name all are listed."""
    out: Path | None = None
    """Folder. Default: where the variable of the data set points to, or else downloads/NAME."""
