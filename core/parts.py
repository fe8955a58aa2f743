"""The parts of a stage: which are finished, which are left, and the pass that makes them.

A stage's output is a list of parts, each a function of the stage's settings and of its index. So
they may be made anywhere, in any order, by anyone, and a stopped run continues with what is left.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

from tqdm import tqdm

from core.engines import ProcessGroup
from core.progress import progress
from core.stage import Stage

Made = TypeVar("Made")
Found = TypeVar("Found")


class Tick:
    """The progress of a pass: call it with what was done, in units of the progress bar."""

    def __init__(
        self, bar: tqdm[Any], sizes: Sequence[int | None], stage: Stage | None = None
    ) -> None:
        self._bar, self._sizes, self._stage = bar, list(sizes), stage

    def __call__(self, count: int) -> None:
        self._bar.update(count)
        if self._stage is not None:
            self._stage.count(count)

    def expect(self, index: int, size: int) -> None:
        """Say the size of a part that was not known; the total is estimated from those known."""
        self._sizes[index] = size
        self._bar.total = _total(self._sizes)


def _total(sizes: Sequence[int | None]) -> int | None:
    known = [size for size in sizes if size is not None]
    return round(sum(known) / len(known) * len(sizes)) if known else None


def make_parts(
    sizes: Sequence[int | None],
    finished: Callable[[int], Found | None],
    make: Callable[[list[int], Tick], Iterator[tuple[int, Made]]],
    write: Callable[[int, Made], Found],
    *,
    name: str,
    unit: str = "img",
    group: ProcessGroup | None = None,
    stage: Stage | None = None,
) -> list[Found]:
    """Make the parts that are left. Returns what is known of every part, in order.

    Args:
        sizes: of the parts, in units of the progress bar; None: known when it is made (see Tick).
        finished: what is known of a part that is there and complete, else None.
        make: (indices, tick) -> (index, made) of each of the indices, in any order; it calls
            `tick(count)` as it goes on.
        write: writes what was made of a part, atomically; returns what `finished` would.
        name, unit: of the progress bar.
        group: processes that share the parts; the stage is open in its main one. Each makes its
            own; all but the main one end here (DoneElsewhere).
        stage: where the units of the progress bar are images, whose ledger counts them.
    """
    group = group or ProcessGroup()
    found = [finished(index) for index in range(len(sizes))]
    group.wait()  # until all have looked: nothing is written before
    left = group.mine([index for index, known in enumerate(found) if known is None])
    done = sum(size or 0 for size, known in zip(sizes, found, strict=True) if known is not None)
    with progress(
        total=_total(sizes), initial=done, name=name, unit=unit, disable=not group.main
    ) as bar:
        for index, made in make(left, Tick(bar, sizes, stage)):
            found[index] = write(index, made)
    group.gather(stage)
    complete: list[Found] = []
    for index, known in enumerate(found):
        known = finished(index) if known is None else known  # made by another of the group
        assert known is not None, f"part {index} is not there after it was written"
        complete.append(known)
    return complete
