"""Settings of data.unpack. Light to import."""

from __future__ import annotations

import functools
from pathlib import Path

from core.errors import UserError
from core.settings import science, settings
from core.stage import Stage, digest_of, require_folder


@settings
class UnpackConfig:
    """What to unpack, and where to."""

    parquet: Path
    """Folder of the Parquet files (anywhere below it)."""
    out: Path
    """Output folder: the set as it comes in folders."""

    @functools.cached_property
    def files(self) -> list[Path]:
        """The Parquet files, in order, listed once. Raises UserError when there are none."""
        found = sorted(p for p in self.parquet.rglob("*.parquet") if "/." not in p.as_posix())
        if not found:
            raise UserError(f"{self.parquet}: no Parquet files in it")
        return found

    def stage(self) -> Stage:
        """What the command makes of what."""
        require_folder(self.out)
        files = [[path.name, path.stat().st_size] for path in self.files]
        return Stage(self.out, "data.unpack", science(self), {"parquet": digest_of(files)})
