"""experiments.run: what it says, and how it stops."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from core.atomic import write_json
from experiments.progress import Progress
from tests.experiments.small import ROOT, began

# A plan of trivial commands, executed as a real one is. Each job notes that it was asked to stop.
SCRIPT = '''
import argparse, sys
from pathlib import Path
from experiments import plan
from experiments.grid import load
from experiments.profiles import load_profile
from experiments.commands import Job
from experiments.run import _execute

folder, seconds = Path(sys.argv[1]), sys.argv[2]
code = """
import os, pathlib, signal, sys, time
out = pathlib.Path(sys.argv[1])
out.mkdir(parents=True, exist_ok=True)
def stop(*_):
    (out / "checkpoint").write_text("x")
    sys.exit(75)
signal.signal(signal.SIGTERM, stop)
(out / "began").open("a").write("x")
time.sleep(float(sys.argv[2]))
(out / "manifest.json").write_text("{}")
"""
jobs = []
for name in ("one", "two", "three", "four"):
    out = folder / name
    argv = ["python", "-c", code, str(out), "0" if name == "one" else seconds]
    needs = [] if name == "one" else ["one"]
    target = out / "manifest.json"
    jobs.append(Job(name, "prune.score", out, target, argv, needs, 1, 0, 1.0, None, ["cell"]))
profile = load_profile("mini")
experiment, chosen = load("git10m_85", profile), frozenset(["cell"])
planned = plan.Planned(experiment, profile, folder / "experiment", jobs, [], {}, chosen)
plan.write(planned)
sys.exit(_execute(planned, argparse.Namespace(slurm=False, jobs=2), []))
'''
AT_WORK = ("two", "three", "four")


def start(folder: Path, seconds: float) -> subprocess.Popen[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"}
    return subprocess.Popen(
        [sys.executable, "-c", SCRIPT, str(folder), str(seconds)], cwd=ROOT, env=environment,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip


def wait_for(condition, process):
    while not condition():
        time.sleep(0.05)
        assert process.poll() is None, process.communicate()[0]


def test_asked_to_stop_it_stops_its_jobs_and_starts_no_other(tmp_path):
    running = start(tmp_path, 30)
    wait_for(lambda: sum(began(tmp_path, name) for name in AT_WORK) == 2, running)
    running.send_signal(signal.SIGTERM)
    output = running.communicate(timeout=60)[0]
    assert running.returncode == 128 + signal.SIGTERM and "write a checkpoint first" in output
    stopped = [name for name in AT_WORK if (tmp_path / name / "checkpoint").exists()]
    assert len(stopped) == 2 and sum(began(tmp_path, name) for name in AT_WORK) == 2
    assert not list((tmp_path / "logs").glob("*.failed"))
    again = start(tmp_path, 0)
    output = again.communicate(timeout=60)[0]
    assert again.returncode == 0 and "[4/4]" in output, output
    third = start(tmp_path, 0)
    assert "4 stages: already done, nothing left to do" in third.communicate(timeout=60)[0]


def test_a_second_call_waits_for_the_engine_that_a_killed_one_left(tmp_path):
    first = start(tmp_path, 2)
    wait_for(lambda: began(tmp_path, "two") + began(tmp_path, "three") > 0, first)
    first.kill()  # its engine goes on
    second = start(tmp_path, 2)
    output = second.communicate(timeout=60)[0]
    assert second.returncode == 0 and "waiting for it" in output, output
    assert [began(tmp_path, name) for name in ("one", *AT_WORK)] == [1, 1, 1, 1]


@pytest.mark.parametrize("truncated", [True, False])
def test_a_truncated_output_is_to_be_made_again(tmp_path, truncated):
    from tests.experiments.test_grid import planned

    found = planned("git10m_85", runs=tmp_path)
    job = found.jobs[0]
    job.out.mkdir(parents=True)
    (job.out / "rows.txt").write_text("123" if truncated else "12345")
    files = {"rows.txt": {"bytes": 5, "sha256": "0"}}
    about = {"stage": job.stage, "params": {}, "inputs": {}, "summary": {}, "files": files}
    write_json(job.target, {"format": 1, "fingerprint": "x", **about})
    assert [one.id for one in found.damaged()] == ([job.id] if truncated else [])


def test_progress_names_what_failed_and_counts_what_was_not_tried(tmp_path, capsys):
    from tests.experiments.test_grid import planned

    found = planned("git10m_85", runs=tmp_path)
    progress = Progress(found)
    log = found.log(found.jobs[1])
    log.parent.mkdir(parents=True)
    log.write_text("one\rtwo\nerror: no such corpus\n")
    log.with_suffix(".failed").write_text("2\n")
    progress.look()
    progress.look(last=True)
    said = capsys.readouterr().out
    assert said.count("FAILED prune.score git10m") == 1 and "error: no such corpus" in said
    assert "32 of 32 stages are missing: 1 failed, 31 not tried" in said
