"""The engine: order, cores, what a failure stops, what a kill costs, what Slurm is asked for."""

from __future__ import annotations

import json
import os
import signal
import time
from pathlib import Path

from tests.experiments.small import began, engine, job, write_plan

SLURM = Path(__file__).with_name("slurm")


def test_a_failed_job_stops_only_what_needs_it_and_nothing_is_made_twice(tmp_path):
    jobs = [
        job(tmp_path, "world"),
        job(tmp_path, "bad", "world", fails=True),
        job(tmp_path, "after-bad", "bad"),
        job(tmp_path, "good", "world"),
        job(tmp_path, "after-good", "good"),
    ]
    plan = write_plan(tmp_path, jobs)
    first = engine(plan, "--cores", "2")
    output = first.communicate()[0]
    assert first.returncode != 0, output
    assert began(tmp_path, "after-good") == 1 and began(tmp_path, "after-bad") == 0
    assert (tmp_path / "logs" / "bad.failed").read_text() == "1\n"
    assert "broken on purpose" in (tmp_path / "logs" / "bad.log").read_text()
    jobs[1] = job(tmp_path, "bad", "world")  # mended
    second = engine(write_plan(tmp_path, jobs), "--cores", "2")
    assert second.wait() == 0
    assert not (tmp_path / "logs" / "bad.failed").exists()
    assert [began(tmp_path, j["id"]) for j in jobs] == [1, 2, 1, 1, 1]


def test_no_more_cores_are_used_than_given(tmp_path):
    jobs = [job(tmp_path, "first")]  # one ready job, then several: what some Snakemakes miscounted
    jobs += [job(tmp_path, f"job{n}", "first", seconds=0.3, cpus=1 + n % 2) for n in range(6)]
    running = engine(write_plan(tmp_path, jobs), "--cores", "2")
    most = 0
    while running.poll() is None:
        notes = {path.stem for path in (tmp_path / "logs").glob("*.running")}
        most = max(most, sum(j["cpus"] for j in jobs if j["id"] in notes))
        time.sleep(0.02)
    assert running.returncode == 0 and 1 <= most <= 2


def test_killed_in_the_middle_it_goes_on_where_it_was(tmp_path):
    slow = job(tmp_path, "two", "one", seconds=20.0)
    jobs = [job(tmp_path, "one"), slow, job(tmp_path, "three", "two")]
    plan = write_plan(tmp_path, jobs)
    running = engine(plan, "--cores", "2")
    while not began(tmp_path, "two"):
        time.sleep(0.05)
        assert running.poll() is None
    _, pid = (tmp_path / "logs" / "two.running").read_text().split()
    running.kill()
    os.kill(int(pid), signal.SIGKILL)
    running.wait()
    jobs[1] = job(tmp_path, "two", "one")
    again = engine(write_plan(tmp_path, jobs), "--cores", "2")
    output = again.communicate()[0]
    assert again.returncode == 0, output
    assert [began(tmp_path, name) for name in ("one", "two", "three")] == [1, 2, 1]
    assert not (tmp_path / "logs" / "two.running").exists()


def test_slurm_is_asked_for_what_the_plan_says(tmp_path, monkeypatch):
    """A stand-in for Slurm runs what it is given, and notes how it was asked."""
    monkeypatch.setenv("STAND_IN", str(tmp_path / "slurm"))
    jobs = [
        job(tmp_path, "world"),
        job(tmp_path, "train", "world", gpus=4, cpus=32, memory_gb=96.0, gpu_hours=8.0),
        job(tmp_path, "bad", "world", fails=True),
        job(tmp_path, "table", "train"),
    ]
    plan = write_plan(tmp_path, jobs)
    words = ["--executor", "slurm", "--jobs", "4", "--latency-wait", "5",
             "--slurm-init-seconds-before-status-checks", "1",
             "--default-resources", "slurm_account=us", "slurm_partition=gpu"]  # fmt: skip
    running = engine(plan, *words, path=f"{SLURM}:")
    output = running.communicate()[0]
    assert running.returncode != 0, output
    notes = (tmp_path / "slurm" / "asked.jsonl").read_text().splitlines()
    asked = map(json.loads, notes)
    of = {call["comment"].removeprefix("rule_"): call for call in asked}
    assert next(iter(of)) == "world" and set(of) == {"world", "train", "bad", "table"}
    assert list(of).index("table") > list(of).index("train")
    train, table = of["train"]["argv"], of["table"]["argv"]
    assert "--mem 98304" in train and "--cpus-per-task=32" in train and "-p gpu" in train
    assert "--gpus=4" in train and "-t 210" in train  # 90 minutes an hour expected, and 30
    assert "--mem 2048" in table and "gpus" not in table
    assert began(tmp_path, "table") == 1 and (tmp_path / "logs" / "bad.failed").exists()
