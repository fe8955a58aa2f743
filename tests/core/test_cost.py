"""What a stage costs: over its sessions, its processes, and what they start."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
import types
from pathlib import Path
from typing import Any

import pytest

from core import cost
from core.stage import Stage, fingerprint, read_manifest

ROOT = Path(__file__).resolve().parents[2]
NAMES = ["folder", "index.parquet"]


def stage(out: Path, **params: Any) -> Stage:
    return Stage(out, "test.stage", params, {})


def write(out: Path) -> list[str]:
    """The stage's output, a folder's or a file's; what `finish` is told."""
    path = out if out.suffix else out / "part"
    path.write_text("x")
    return [path.name]


KILLED = """
import sys, time
from core import cost
from core.stage import Stage
cost.SAVE_EVERY, cost._LOOKS = 0.2, (0.05, 0.1)
stage = Stage(sys.argv[1], "test.stage", {"seed": 0}, {})
stage.open()
if sys.argv[2:]:
    open(sys.argv[2], "w").write("x")
stage.count(40)
end = time.process_time() + 0.6
while time.process_time() < end:
    pass
assert "torch" not in sys.modules and "ctypes" not in sys.modules
print("ready", flush=True)
time.sleep(60)
"""


def killed(*arguments: Path) -> None:
    """A session that counts 40 images, is busy for 0.6 seconds, and is killed."""
    words = [sys.executable, "-c", KILLED, *map(str, arguments)]
    with subprocess.Popen(words, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        time.sleep(0.4)
        process.send_signal(signal.SIGKILL)


@pytest.mark.parametrize("name", NAMES)
def test_a_killed_session_is_in_the_sum_and_in_nothing_else(tmp_path: Path, name: str) -> None:
    out, plain = tmp_path / "killed" / name, tmp_path / "plain" / name
    killed(out, out if out.suffix else out / "part")
    for path in (out, plain):
        one = stage(path, seed=0)
        assert not one.done()
        one.open()
        one.count(2)
        one.finish({}, write(path), "")
    made = read_manifest(out)["made"]["cost"]
    assert (made["sessions"], made["images"]) == (2, 42)
    assert 0.5 <= made["seconds"] < 20
    assert 0.5 <= made["cpu_seconds"] < made["seconds"] + 1
    assert made["images_per_s"] == pytest.approx(42 / made["seconds"], rel=0.01)
    assert 0.005 < made["peak_memory_gb"] < 10
    assert (made["gpus"], made["gpu_hours"]) == (0, 0)
    assert made["energy_kwh"] is made["peak_gpu_memory_gb"] is None
    assert fingerprint(out) == fingerprint(plain)
    there, expected = (
        {path.name for path in manifest.parent.iterdir()}
        for manifest in (stage(out).manifest, stage(plain).manifest)
    )
    assert there == expected


@pytest.mark.parametrize("name", NAMES)
def test_what_a_stage_of_other_settings_cost_is_left_out(tmp_path: Path, name: str) -> None:
    killed(tmp_path / name)  # nothing written: nobody is bound
    for seed, sessions in ((1, 1), (1, 2)):  # the second as if the first were damaged
        one = stage(tmp_path / name, seed=seed)
        one.done()
        one.open()
        one.finish({}, write(tmp_path / name), "")
        assert read_manifest(tmp_path / name)["made"]["cost"]["sessions"] == sessions


def test_a_session_that_wrote_nothing_but_was_long_counts(tmp_path: Path) -> None:
    killed(tmp_path / "out")
    one = stage(tmp_path / "out", seed=0)
    one.open()
    one.count(2)
    one.abandon()  # as on Ctrl-C
    assert cost.so_far(one.started)["images"] == 42
    assert not one.started.exists()
    one.open()
    one.finish({}, write(tmp_path / "out"), "")
    assert read_manifest(tmp_path / "out")["made"]["cost"]["images"] == 42


def test_processes_of_a_launch_are_summed(tmp_path: Path, monkeypatch: Any) -> None:
    main, other = stage(tmp_path), stage(tmp_path)
    main.open()
    monkeypatch.setenv("RANK", "1")
    other.join()
    other.count(5)
    time.sleep(0.05)
    other.close()
    monkeypatch.delenv("RANK")
    (tmp_path / "part").write_text("x")
    main.count(6)
    assert cost.so_far(main.started)["images"] == 5  # of what is written
    main.finish({}, ["part"], "")
    made = read_manifest(tmp_path)["made"]["cost"]
    assert (made["images"], made["sessions"]) == (11, 1)
    assert made["seconds"] < 20
    assert made["peak_memory_gb"] > 1.5 * cost._high_water() / 1e9
    assert {path.name for path in tmp_path.iterdir()} == {"part", "manifest.json", ".stage.lock"}


BUSY = """
import time
held = bytearray(300_000_000)
print("ready", flush=True)
while time.process_time() < 0.5:
    pass
print("done", flush=True)
input()
"""


def test_processes_below_are_counted_alive_and_gone(tmp_path: Path) -> None:
    ledger = cost.Ledger(tmp_path / "ledger.json", {}, None)
    words = [sys.executable, "-c", BUSY]
    with subprocess.Popen(words, stdin=-1, stdout=-1, text=True) as process:
        assert process.stdout is not None
        assert process.stdin is not None
        assert [process.stdout.readline() for _ in range(2)] == ["ready\n", "done\n"]
        alive = ledger.cost()
        process.communicate("\n")
    gone = ledger.cost()
    ledger.end()
    for one in (alive, gone):
        assert 0.4 < one["cpu_seconds"] < 10
        assert one["peak_memory_gb"] > 0.3
    assert gone["cpu_seconds"] > alive["cpu_seconds"] - 0.05


def test_gpus_that_pytorch_uses_are_counted_with_their_energy(
    tmp_path: Path, monkeypatch: Any
) -> None:
    ready, joules = [False], {b"GPU-one": 100.0, b"GPU-two": 1000.0}
    cuda = types.SimpleNamespace(
        is_initialized=lambda: ready[0],
        device_count=lambda: 3,
        max_memory_reserved=lambda device: [3_000_000_000, 0, 5_000_000_000][device],
        get_device_properties=lambda device: types.SimpleNamespace(uuid=["one", "", "two"][device]),
    )
    monkeypatch.setitem(sys.modules, "torch", types.SimpleNamespace(cuda=cuda))
    monkeypatch.setattr(cost, "_joules", joules.get)
    before = {"seconds": 3600.0, "gpus": 1, "gpu_hours": 1.0, "energy_kwh": 2.0, "sessions": 1}
    ledger = cost.Ledger(tmp_path / "ledger.json", {}, before)
    assert ledger.cost()["energy_kwh"] == 2
    ready[0] = True
    ledger.cost()
    joules |= {b"GPU-one": 100.0 + 3.6e6, b"GPU-two": 1000.0 + 7.2e6}
    found = ledger.cost()
    ledger.end()
    assert (found["gpus"], found["peak_gpu_memory_gb"]) == (2, 5)
    assert found["energy_kwh"] == pytest.approx(5)
    assert found["gpu_hours"] == pytest.approx(1 + 2 * (found["seconds"] - 3600) / 3600)
    beside = cost.side_by_side(found, found)
    assert (beside["gpus"], beside["energy_kwh"]) == (4, pytest.approx(10))
    assert beside["seconds"] == found["seconds"]


def test_a_full_disk_ends_no_stage(tmp_path: Path) -> None:
    ledger = cost.Ledger(tmp_path / "gone" / "ledger.json", {}, None)
    os.mkfifo(tmp_path / "gone")  # no folder can be made there
    ledger.save()
    ledger.end()
    assert cost.so_far(tmp_path / "stage.json") is None
