"""The example batch files, run with stand-ins for Slurm's commands and for the launcher."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
FILES = sorted((ROOT / "experiments" / "slurm").glob("*.sbatch"))

# accelerate: note its arguments and the rank; end at once, or run a trainer until a signal.
ACCELERATE = """#!/bin/bash
echo "$SLURM_NODEID: $*" >>"$RECORD"
if [ -z "${LONG:-}" ]; then exit 0; fi
while [ "$1" != -m ]; do shift; done
"$LONG" -u "$@" &
wait $!
echo "$SLURM_NODEID: launcher" >>"$RECORD"
exit 1
"""
TRAINER = """import os, signal, time
def stop(*_):
    time.sleep(0.5)
    print(os.environ["SLURM_NODEID"] + ": checkpoint", file=open(os.environ["RECORD"], "a"))
    os._exit(75)
signal.signal(signal.SIGUSR1, stop)
open(os.environ["RECORD"] + os.environ["SLURM_NODEID"], "w").close()
time.sleep(60)
"""
SRUN = """#!/bin/bash
if [ "$1" = --overlap ]; then shift; fi
shift
for node in 0 1; do SLURM_NODEID=$node "$@" & done
wait
"""
OTHERS = {
    "scontrol": """#!/bin/bash
if [ "$1" = show ]; then printf "a\\nb\\n"; else echo "$*" >>"$RECORD"; fi
""",
    "python": '#!/bin/bash\necho "asked: $*" >>"$RECORD"\nexit "$CODE"\n',
}


def run(file: Path, tmp_path: Path, code: int, **more: str) -> tuple[int, list[str]]:
    """(exit code, what accelerate and scontrol were told) of the batch file."""
    tools = tmp_path / "bin"
    tools.mkdir()
    for name, text in {"accelerate": ACCELERATE, "srun": SRUN, **OTHERS}.items():
        (tools / name).write_text(text)
        (tools / name).chmod(0o755)
    (tmp_path / "scripts").mkdir()
    (tmp_path / "scripts" / "env.sh").write_text("")
    record = tmp_path / "record"
    environment = {
        **os.environ, "PATH": f"{tools}:{os.environ['PATH']}", "SLURM_SUBMIT_DIR": str(tmp_path),
        "SLURM_JOB_ID": "77", "SLURM_JOB_NODELIST": "a,b", "SLURM_NNODES": "2", "SLURM_NODEID": "0",
        "RECORD": str(record), "CODE": str(code), "PYTHONPATH": str(tmp_path), **more,
    }  # fmt: skip
    out = tmp_path / "OUT"
    process = subprocess.Popen(
        ["bash", str(file), "L", str(out), "--seed", "1"], env=environment, cwd=tmp_path
    )
    if more:
        nodes = 2 if "several" in file.stem else 1
        deadline = time.monotonic() + 30
        while not all(Path(f"{record}{node}").exists() for node in range(nodes)):
            assert time.monotonic() < deadline, "the trainers did not start"
            time.sleep(0.02)
        process.send_signal(signal.SIGUSR1)
    return process.wait(30), record.read_text().splitlines()


@pytest.mark.parametrize("file", FILES, ids=lambda f: f.stem)
def test_finished_and_unfinished_runs(file: Path, tmp_path: Path) -> None:
    code, told = run(file, tmp_path, 0)
    assert code == 0 and not any("requeue" in line for line in told)
    launches = sorted(line for line in told if " launch " in line)
    assert len(launches) == (2 if "several" in file.stem else 1)
    for node, line in enumerate(launches):
        assert "--batch 256" in line and line.endswith("--seed 1")
        if "several" in file.stem:
            assert f"--machine_rank {node} " in line and "--num_processes 8" in line
            assert "--main_process_ip a " in line
        else:
            assert "--num_processes 4" in line


@pytest.mark.parametrize("file", FILES, ids=lambda f: f.stem)
def test_work_left_is_requeued_and_refusals_are_not(file: Path, tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    code, told = run(file, tmp_path / "a", 3)
    assert code == 3 and "requeue 77" in told
    code, told = run(file, tmp_path / "b", 2)
    assert code == 2 and "requeue 77" not in told


@pytest.mark.skipif(shutil.which("pkill") is None, reason="pkill is not installed")
@pytest.mark.parametrize("file", FILES, ids=lambda f: f.stem)
def test_the_warning_reaches_the_trainers_before_the_question(file: Path, tmp_path: Path) -> None:
    (tmp_path / "dit").mkdir()
    (tmp_path / "dit" / "train.py").write_text(TRAINER)
    code, told = run(file, tmp_path, 3, LONG=sys.executable)
    nodes = range(2 if "several" in file.stem else 1)
    assert code == 3
    after = told[len(nodes) :]
    assert sorted(after[: 2 * len(nodes)]) == sorted(
        f"{node}: {what}" for node in nodes for what in ("checkpoint", "launcher")
    )
    assert after[2 * len(nodes)].endswith("--is-done") and after[-1] == "requeue 77"


def test_the_documented_lines_make_a_picture(tmp_path: Path) -> None:
    """docs/checkpoint_to_picture.md, its very lines, on a small model."""
    import re

    from dit.export import main
    from tests.dit.test_export import dit, save_run
    from tests.dit.tiny_vae import save_tiny_vae

    text = (ROOT / "docs" / "checkpoint_to_picture.md").read_text()
    (lines,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    assert len(lines.splitlines()) == 5
    vae = save_tiny_vae(tmp_path / "vae")
    save_run(tmp_path / "run", vae, dit())
    flags = ["--checkpoint", str(tmp_path / "run"), "--vae", str(vae)]
    assert main([*flags, "--out", str(tmp_path / "exported")]) == 0
    subprocess.run([sys.executable, "-c", lines], cwd=tmp_path, check=True, timeout=120)
    from PIL import Image

    with Image.open(tmp_path / "picture.png") as picture:
        assert picture.size[0] == picture.size[1] > 8
