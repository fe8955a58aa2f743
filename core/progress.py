"""Progress bars with rate and ETA, the same in every stage."""

from __future__ import annotations

import os
import sys
import time
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
    """A bar on stderr; in a log file (no terminal) one line every ten seconds instead. Of the
    processes of a launch the first one shows its own."""
    closed = sys.stderr is None or os.environ.get("RANK", "0") != "0"
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


class Throughput:
    """Images that a pass has done, and how fast.

    Attributes: images: done so far, to be counted up by the pass.
    """

    def __init__(self) -> None:
        self.images = 0
        self._clock = time.monotonic()

    def summary(self) -> dict[str, Any]:
        """images, seconds and images_per_second (None where none was done), for a manifest."""
        seconds = time.monotonic() - self._clock
        rate = round(self.images / seconds, 1) if self.images else None
        return {"images": self.images, "seconds": round(seconds, 3), "images_per_second": rate}

    @staticmethod
    def text(summary: dict[str, Any]) -> str:
        """' at 1,234 images/s', '' where no image was done."""
        rate = summary["images_per_second"]
        return f" at {rate:,.0f} images/s" if rate else ""
