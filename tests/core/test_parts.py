"""The pass over the parts of a stage: what is there stays, what is left is made, in any order."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from core import parts
from core.parts import Tick, make_parts


@pytest.mark.parametrize("known", [True, False])
def test_parts_that_are_left_are_made_and_the_total_is_estimated(known, monkeypatch):
    done = {1: 30}
    totals = []

    class Bar:
        total, n = None, 0

        def update(self, count: int) -> None:
            self.n += count
            totals.append(self.total)

        def __enter__(self):
            return self

        def __exit__(self, *_):
            pass

    def bar(*, total, initial, **_):
        Bar.total, Bar.n = total, initial
        return Bar()

    monkeypatch.setattr(parts, "progress", bar)

    def make(left: list[int], tick: Tick) -> Iterator[tuple[int, str]]:
        assert left == [0, 2]
        for index in reversed(left):
            tick.expect(index, 10 * (index + 1))
            tick(10 * (index + 1))
            yield index, "made"

    def write(index: int, made: str) -> int:
        done[index] = 10 * (index + 1)
        return done[index]

    sizes = [10, 30, 30] if known else [None, 30, None]
    assert make_parts(sizes, done.get, make, write, name="x") == [10, 30, 30]
    assert totals == ([70, 70] if known else [90, 70])  # two of three known: 30 each
