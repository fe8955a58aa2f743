"""experiments/methods.sh: methods side by side, their output, their failures, and their end."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

ROOT = Path(__file__).resolve().parents[2]


def script(tmp_path: Path, method: str, profile: str = "mini") -> list[str]:
    """A command that runs `method`, a shell function's body, for two methods."""
    folder = Path(sys.executable).parent
    text = f"""
        set -euo pipefail
        PATH={folder}:$PATH PROFILE={profile} METHODS="one two" RUN={tmp_path}
        nproc() {{ echo 2; }}
        source {ROOT}/experiments/methods.sh
        method() {{ {method}; }}
        each_method method
        echo after
    """
    return ["bash", "-c", text]


def run(tmp_path: Path, method: str, profile: str = "mini") -> subprocess.CompletedProcess[str]:
    command = script(tmp_path, method, profile)
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def test_mini_methods_run_at_once_each_on_its_part_of_the_cores(tmp_path: Path) -> None:
    """Each method waits for the other's mark, so one after the other would never end."""
    method = (
        f'touch {tmp_path}/$1; until [ -e {tmp_path}/one ] && [ -e {tmp_path}/two ]; '
        'do sleep 0.05; done; echo "[stage] $1 with $OMP_NUM_THREADS in 1.0 s -> x"'
    )
    result = run(tmp_path, method)
    assert result.returncode == 0, result.stderr
    lines = result.stdout.splitlines()
    assert "[stage] one with 1 in 1.0 s -> x" in lines
    assert "[stage] two with 1 in 1.0 s -> x" in lines  # its summary, when it has ended
    assert lines[-1] == "after"
    assert "two with 1" in (tmp_path / "logs" / "two.log").read_text()


def test_paper_methods_run_one_after_the_other(tmp_path: Path) -> None:
    result = run(tmp_path, 'echo "begin $1"; sleep 0.1; echo "end $1"', profile="paper")
    assert " ".join(result.stdout.split()) == "begin one end one begin two end two after"


@pytest.mark.parametrize("failing", ["one", "two"])
def test_a_method_that_fails_ends_the_script_with_its_code(tmp_path: Path, failing: str) -> None:
    result = run(tmp_path, f'[ "$1" != {failing} ] || {{ echo why >&2; exit 7; }}; sleep 0.2')
    assert result.returncode == 7
    assert f"error: {failing} stopped with exit code 7" in result.stderr
    assert "why" in result.stderr + result.stdout
    assert "after" not in result.stdout


def test_a_stop_ends_all_methods(tmp_path: Path) -> None:
    method = f"touch {tmp_path}/$1; sleep 300 & wait"
    process = subprocess.Popen(script(tmp_path, method), start_new_session=True)
    while not (tmp_path / "one").exists() or not (tmp_path / "two").exists():
        assert process.poll() is None  # it has not ended before both began
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)  # SIGINT is ignored where tests run in the background
    assert process.wait(30) == 130
    deadline = time.monotonic() + 10
    while (left := _alive(process.pid)) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not left


def test_the_former_name_of_the_variable_is_read_with_a_note() -> None:
    environment = {**os.environ, "PROFILE": "none", "ARMS": "one", "RSPRUNE_PYTHON": sys.executable}
    result = subprocess.run(
        ["bash", "experiments/git10m_85.sh"], cwd=ROOT, env=environment,
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert result.returncode == 2 and "PROFILE=none" in result.stderr
    assert "note: ARMS is now called METHODS" in result.stderr


def _alive(group: int) -> list[str]:
    """Command lines of the running processes of a process group."""
    lines = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, ProcessLookupError):
            if os.getpgid(process.pid) == group and process.status() != psutil.STATUS_ZOMBIE:
                lines.append(" ".join(process.cmdline()))
    return lines
