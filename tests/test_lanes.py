"""The fast lane of the tests (scripts/test.sh --fast): its rule holds, and no room is empty."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from tests.conftest import SLOW_FILES, SLOW_NAMES

TESTS = Path(__file__).resolve().parent
ROOMS = sorted(path.name for path in TESTS.iterdir() if (path / "__init__.py").is_file())


def test_slow_files_exist() -> None:
    assert [name for name in SLOW_FILES if not (TESTS / name).is_file()] == []


@pytest.mark.parametrize("room", ROOMS)
def test_every_room_has_fast_tests(room: str) -> None:
    fast = 0
    for path in (TESTS / room).glob("test_*.py"):
        if str(path.relative_to(TESTS)) in SLOW_FILES:
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef) and node.name.startswith("test_"):
                marked = any("slow" in ast.unparse(mark) for mark in node.decorator_list)
                fast += not marked and not SLOW_NAMES.search(node.name)
    assert fast >= 5
