"""The contracts on imports (pyproject.toml) name every command, and a wrong import breaks them."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
LINTER = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]
CONTRACTS = {contract["id"]: contract for contract in LINTER["contracts"]}


def lint(root: Path, contract: str) -> tuple[int, str]:
    """Exit code and report of one contract on a tree."""
    done = subprocess.run(
        [Path(sys.executable).with_name("lint-imports"), "--no-cache", "--contract", contract],
        cwd=root, env={**os.environ, "PYTHONPATH": str(root)}, capture_output=True, text=True,
    )  # fmt: skip
    return done.returncode, done.stdout + done.stderr


def test_every_command_is_under_contract() -> None:
    # experiments has no library below its commands: what is beside run.py and job.py is its own
    rooms = [name for name in LINTER["root_packages"] if name not in ("core", "experiments")]
    found = {f"{p.parent.name}.{p.stem}" for name in rooms for p in (ROOT / name).glob("[!_]*.py")}
    assert set(CONTRACTS["commands"]["protected_modules"]) == found


WRONG = [
    ("rooms", "core/errors.py", "import data.corpus", "core.errors -> data.corpus"),
    ("rooms", "dit/model/__init__.py", "import prune.cluster", "dit.model -> prune.cluster"),
    ("rooms", "data/corpus/base.py", "import world.paint", "data.corpus.base -> world.paint"),
    ("index-only", "eval/paper/__init__.py", "import prune.cluster", "eval.paper -> prune.cluster"),
    ("grid", "experiments/plan.py", "import eval.programme", "experiments.plan -> eval.programme"),
    ("grid-on-top", "eval/costs.py", "import experiments.grid", "eval.costs -> experiments.grid"),
    ("painters", "world/paint/look.py", "import data.corpus", "world.paint.look -> data.corpus"),
    ("commands", "dit/vae/__init__.py", "import dit.encode", "dit.vae -> dit.encode"),
    ("circles", "core/errors.py", "import core.stage", ".errors"),
]


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the packages and their contracts."""
    root = tmp_path_factory.mktemp("tree")
    for name in LINTER["root_packages"]:
        shutil.copytree(ROOT / name, root / name, ignore=shutil.ignore_patterns("*.pyc"))
    shutil.copy(ROOT / "pyproject.toml", root)
    return root


@pytest.mark.parametrize(("contract", "file", "line", "named"), WRONG)
def test_a_wrong_import_is_found(
    contract: str, file: str, line: str, named: str, tree: Path
) -> None:
    text = (tree / file).read_text()
    try:
        (tree / file).write_text(f"{text}\n{line}\n")
        code, report = lint(tree, contract)
    finally:
        (tree / file).write_text(text)
    assert code == 1 and "BROKEN" in report, report
    assert named in report.replace("\n", " "), report
