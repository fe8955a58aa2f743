"""Progress bars with rate and ETA, the same in every stage."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from typing import Any

from tqdm import tqdm


def progress(
    iterable: Iterable[Any] | None = None,
    *,
    total: int | None = None,
    initial: int = 0,
    name: str,
    unit: str = "img",
    disable: bool = False,
) -> tqdm[Any]:
    """A bar on stderr; in a log file (no terminal) one line every ten seconds instead."""
    closed = sys.stderr is None
    terminal = not closed and sys.stderr.isatty()
    return tqdm(
        iterable,
        total=total,
        initial=initial,
        desc=name,
        unit=unit,
        disable=disable or closed,
        dynamic_ncols=terminal,
        mininterval=0.2 if terminal else 10.0,
        smoothing=0.05,
        leave=terminal,
    )
