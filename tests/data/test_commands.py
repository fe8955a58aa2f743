"""data's commands: --help and a finished stage answer without an array library."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pytest

from core.errors import UserError
from core.stage import Stage
from data.curation.config import FilterConfig, HoldoutConfig, LeakageConfig
from data.formats.scores import SCORES
from data.formats.tables import write_part
from data.holdout import run

ROOT = Path(__file__).parents[2]
HEAVY = ("torch", "pyarrow", "numpy", "PIL", "huggingface_hub")


def imported_by(code: str, *arguments: str) -> str:
    loaded = f"{code}\nimport sys; print([m for m in {HEAVY!r} if m in sys.modules])"
    done = subprocess.run(
        [sys.executable, "-c", loaded, *arguments], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()[-1]


@pytest.mark.parametrize(
    "command", ["check", "download", "filter", "holdout", "leakage", "scenes", "unpack"]
)
def test_help_is_light(command: str) -> None:
    code = (
        f"from data.{command} import main\n"
        "try: main(['--help'])\nexcept SystemExit as stop: assert not stop.code"
    )
    assert imported_by(code) == "[]"


def test_a_finished_stage_answers_without_array_libraries(tmp_path: Path) -> None:
    names = [f"k{n}" for n in range(9)]
    columns = {name: [""] * 9 for name in SCORES.names} | {
        "key": names, "digest": names, "row": list(range(9)), "status": ["ok"] * 9,
        "bytes": [1] * 9, "width": [8] * 9, "height": [8] * 9, "entropy": [1.0] * 9,
    }  # fmt: skip
    scores = tmp_path / "scores"
    stage = Stage(scores, "prune.score", {}, {})
    stage.open()
    write_part(scores, 0, pa.table(columns, SCORES))
    stage.finish({}, ["part-00000.parquet"], "")
    held = run(HoldoutConfig(scores=scores, n=2, holdouts=("pool",), out=tmp_path / "held.parquet"))
    assert held.summary == {"held": 2, "copies": 0, "pool": 7} and not held.reused
    code = "import sys; from data.holdout import main; assert main(sys.argv[1:]) == 0"
    flags = ["--scores", str(scores), "--n", "2", "--holdouts", "pool", "--out", str(held.out)]
    assert imported_by(code, *flags) == "[]"
    assert run(HoldoutConfig(scores=scores, n=2, holdouts=("pool",), out=held.out)).reused


def test_settings_are_checked_in_python_as_on_the_command_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="--max-aspect nan: input should be a finite number"):
        FilterConfig(scores=tmp_path, out=tmp_path / "x", max_aspect=float("nan"))
    with pytest.raises(UserError, match="--seed -1: input should be greater"):
        HoldoutConfig(out=tmp_path / "h.parquet", seed=-1)
    with pytest.raises(UserError, match="--threshold nan"):
        LeakageConfig(out=tmp_path / "l", threshold=float("nan"))
