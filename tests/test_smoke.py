"""scripts/smoke.sh tells a main job that is in order from one that is not, by stand-ins."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
JOB = """
mkdir -p "$RUN/one" "$RUN/logs"
make() { # STAGE FOLDER
    if [ -e "$RUN/$2/manifest.json" ] && [ -z "${AGAIN:-}" ]; then echo "already done"; return; fi
    mkdir -p "$RUN/$2"
    echo "{\\"stage\\": \\"$1\\"}" >"$RUN/$2/manifest.json"
    echo "[$1] in 0 s -> $2"
}
: python -m prune.score; make prune.score scores
: launch dit.train; if [ -z "${LESS:-}" ]; then make dit.train dit; fi
: python -m data.check
if [ -n "${FAILS:-}" ]; then echo "why" >&2; exit 3; fi
echo "[eval.table] ${CELLS:-10} of 10 cells filled"
"""


def smoke(folder: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    for name in ("scripts/smoke.sh", "scripts/env.sh"):
        (folder / name).parent.mkdir(exist_ok=True)
        shutil.copy(ROOT / name, folder / name)
    (folder / "experiments").mkdir()
    (folder / "experiments" / "git10m_85.sh").write_text(JOB)
    for name in ("profile.sh", "stages.sh"):
        (folder / "experiments" / name).write_text("")
    environment = {**os.environ, "RSPRUNE_PYTHON": sys.executable, **variables}
    return subprocess.run(
        ["bash", "scripts/smoke.sh"], cwd=folder, env=environment, capture_output=True, text=True
    )


def test_a_job_in_order(tmp_path: Path) -> None:
    done = smoke(tmp_path)
    assert done.returncode == 0, done.stderr
    assert "smoke: 2 stages, nothing redone" in done.stdout


@pytest.mark.parametrize(
    ("variables", "why"),
    [
        ({"AGAIN": "yes"}, "the second run wrote files"),
        ({"LESS": "yes"}, "< dit.train"),
        ({"FAILS": "yes"}, "why"),
        ({"CELLS": "9"}, "the table is not full"),
    ],
)
def test_a_job_out_of_order(variables: dict[str, str], why: str, tmp_path: Path) -> None:
    done = smoke(tmp_path, **variables)
    assert done.returncode == 1 and why in done.stderr, done.stderr
