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
folder="$RUNS/mini/$(basename "$0" .sh)"
mkdir -p "$folder/pictures" "$RUNS/mini/scores" "$RUNS/mini/dit"
target='{"id": "%s", "stage": "%s", "target": "'"$RUNS"'/mini/%s/manifest.json"}'
printf '{"jobs": ['"$target, $target"']}' a prune.score scores b dit.train dit >"$folder/plan.json"
for made in table.{md,tex,csv} costs.md dashboard.html pictures/samples{,-infrared}.png; do
    echo x >"$folder/$made"
done
if [ -e "$RUNS/mini/dit/manifest.json" ] && [ -z "${AGAIN:-}" ]; then
    if [ -z "${REDONE:-}" ]; then echo "2 stages: already done, nothing left to do"; fi
else
    echo "{}" >"$RUNS/mini/scores/manifest.json"
    if [ -z "${LESS:-}" ]; then echo "{}" >"$RUNS/mini/dit/manifest.json"; fi
fi
if [ -n "${PAGELESS:-}" ]; then rm "$folder/dashboard.html"; fi
if [ -n "${FAILS:-}" ]; then echo "why" >&2; exit 3; fi
echo "[eval.tables] ${CELLS:-10} of 10 cells filled"
"""


def smoke(folder: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    for name in ("scripts/smoke.sh", "scripts/env.sh"):
        (folder / name).parent.mkdir(exist_ok=True)
        shutil.copy(ROOT / name, folder / name)
    (folder / "experiments").mkdir()
    for name in ("git10m_85", "usa1m_70"):
        (folder / "experiments" / f"{name}.sh").write_text(JOB)
    environment = {**os.environ, "RSPRUNE_PYTHON": sys.executable, **variables}
    return subprocess.run(
        ["bash", "scripts/smoke.sh"], cwd=folder, env=environment, capture_output=True, text=True
    )


def test_a_job_in_order(tmp_path: Path) -> None:
    done = smoke(tmp_path)
    assert done.returncode == 0, done.stderr
    assert "2 stages of 2 kinds" in done.stdout and "nothing redone" in done.stdout
    assert done.stdout.count("2 stages of 2 kinds") == 2  # of the four-band experiment, too


@pytest.mark.parametrize(
    ("variables", "why"),
    [
        ({"AGAIN": "yes"}, "the second run wrote files"),
        ({"REDONE": "yes"}, "the second run made a stage again"),
        ({"LESS": "yes"}, "stages are missing"),
        ({"PAGELESS": "yes"}, "no dashboard.html"),
        ({"FAILS": "yes"}, "why"),
        ({"CELLS": "9"}, "the table is not full"),
    ],
)
def test_a_job_out_of_order(variables: dict[str, str], why: str, tmp_path: Path) -> None:
    done = smoke(tmp_path, **variables)
    assert done.returncode == 1 and why in done.stderr, done.stderr
