"""Many tasks, several processes: order, errors, and the end of both sides."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from core.errors import UserError
from core.parallel import ordered_map

ROOT = Path(__file__).parents[2]


def late_first(task: int) -> int:
    time.sleep(0.1 if task == 0 else 0)
    return task * task


def fails_at_three(task: int) -> int:
    if task == 3:
        raise ValueError("three")
    return task


def dies(task: int) -> int:
    os._exit(9)


@pytest.mark.parametrize("workers", [1, 2])
def test_results_in_the_tasks_order(workers):
    assert list(ordered_map(late_first, iter(range(30)), workers)) == [n * n for n in range(30)]


@pytest.mark.parametrize("workers", [1, 2])
def test_an_exception_arrives(workers):
    with pytest.raises(ValueError, match="three"):
        list(ordered_map(fails_at_three, range(9), workers))


def test_a_dead_worker_is_reported():
    with pytest.raises(UserError, match="worker process died"):
        list(ordered_map(dies, range(4), 2))


def test_workers_end_when_their_parent_is_killed():
    script = (
        "import time\nfrom core.parallel import ordered_map\n"
        "if __name__ == '__main__':\n"
        "    for _ in ordered_map(time.sleep, [0.01] * 8 + [0.5] * 1000, 2): print(flush=True)\n"
    )
    run = [sys.executable, "-c", script]
    with subprocess.Popen(run, cwd=ROOT, stdout=subprocess.PIPE) as parent:
        assert parent.stdout is not None and parent.stdout.readline()
        workers = psutil.Process(parent.pid).children(recursive=True)
        assert len(workers) >= 2
        parent.send_signal(signal.SIGKILL)
        psutil.wait_procs(workers)  # they end, or this does not: 500 seconds of tasks are left


def blas_threads(task: int) -> str | None:
    return os.environ.get("OPENBLAS_NUM_THREADS")


def test_processes_know_their_share_of_threads(monkeypatch):
    monkeypatch.setenv("OPENBLAS_NUM_THREADS", "7")
    assert list(ordered_map(blas_threads, range(3), 2, blas_threads=1)) == ["1"] * 3
    assert os.environ["OPENBLAS_NUM_THREADS"] == "7"
    assert list(ordered_map(blas_threads, range(3), 2)) == ["7"] * 3


def holds_interrupts(task: int) -> bool:
    return signal.SIGINT in signal.pthread_sigmask(signal.SIG_BLOCK, ())


def test_ctrl_c_never_reaches_a_process_that_is_starting():
    assert list(ordered_map(holds_interrupts, range(3), 2)) == [True] * 3
    assert not holds_interrupts(0)
