"""The rooms of core and data: no circle of imports, and library code meets no command."""

from __future__ import annotations

import ast
from collections import defaultdict
from graphlib import TopologicalSorter
from pathlib import Path

ROOT = Path(__file__).parents[2]


def imports(path: Path) -> set[str]:
    """Modules of core and data that a file imports, wherever in it."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module:
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return {name for name in found if name.split(".")[0] in ("core", "data")}


def room(name: str) -> str:
    """'data.corpus' of 'data.corpus.sharded.tar.TarCorpus'; 'core'; 'data.score' of a command."""
    return "core" if name.startswith("core") else ".".join(name.split(".")[:2])


def test_no_circle_of_rooms_and_core_knows_none_of_ours() -> None:
    graph: dict[str, set[str]] = defaultdict(set)
    for path in [*(ROOT / "core").glob("*.py"), *(ROOT / "data").rglob("*.py")]:
        here = room(".".join(path.relative_to(ROOT).with_suffix("").parts))
        graph[here] |= {room(name) for name in imports(path)} - {here}
    TopologicalSorter(graph).prepare()  # CycleError names the circle
    assert not graph["core"]
    commands = {f"data.{path.stem}" for path in (ROOT / "data").glob("*.py")} - {"data.__init__"}
    users = {here for here, others in graph.items() if others & commands}
    assert not users - commands


def test_no_circle_of_modules() -> None:
    graph = {}
    for path in [*(ROOT / "core").glob("*.py"), *(ROOT / "data").rglob("*.py")]:
        here = ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
        graph[here] = imports(path)
    known = {
        name: {n if n in graph else n.rpartition(".")[0] for n in others} - {name}
        for name, others in graph.items()
    }
    TopologicalSorter(known).prepare()
