"""The parts of a stage: which are finished, which are left, and the pass that makes them.

A stage's output is a row of parts, each a function of the stage's settings and of its number. So
they may be made anywhere, in any order, by anyone, and a stopped run goes on with what is left.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

from core.engines import ProcessGroup
from core.progress import progress

Made = TypeVar("Made")
Found = TypeVar("Found")


def make_parts(
    sizes: Sequence[int],
    finished: Callable[[int], Found | None],
    make: Callable[[list[int], Callable[[int], object]], Iterator[tuple[int, Made]]],
    write: Callable[[int, Made], Found],
    *,
    name: str,
    unit: str = "img",
    group: ProcessGroup | None = None,
) -> list[Found]:
    """Make the parts that are left. Returns what is known of every part, in order.

    Args:
        sizes: of the parts, in units of the progress bar.
        finished: what is known of a part that is there and complete, else None.
        make: (numbers, tick) -> (number, made) of each of the numbers, in any order; it calls
            `tick(count)` as it goes on.
        write: writes what was made of a part, atomically; returns what `finished` would.
        name, unit: of the progress bar.
        group: processes that share the parts; the stage is open in its main one. Each makes its
            own; all but the main one end here (DoneElsewhere).
    """
    group = group or ProcessGroup()
    found = [finished(number) for number in range(len(sizes))]
    group.wait()  # until all have looked: nothing is written before
    left = group.mine([number for number, known in enumerate(found) if known is None])
    done = sum(size for size, known in zip(sizes, found, strict=True) if known is not None)
    with progress(
        total=sum(sizes), initial=done, name=name, unit=unit, disable=not group.main
    ) as bar:
        for number, made in make(left, bar.update):
            found[number] = write(number, made)
    group.gather()
    complete: list[Found] = []
    for number, known in enumerate(found):
        known = finished(number) if known is None else known  # made by another of the group
        assert known is not None, f"part {number} is not there after it was written"
        complete.append(known)
    return complete
