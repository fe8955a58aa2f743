"""Settings of data.scenes. Light to import."""

from __future__ import annotations

from core.settings import place, settings


@settings
class ScenesConfig:
    """A reference."""

    reference: tuple[str, ...] = place(())
    """Reference sets: FOLDER, SET:PLACE, SET:, union3:, union5: (several together)."""
