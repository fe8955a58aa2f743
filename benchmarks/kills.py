"""Does a run that is killed again and again end in the same bits?

    python benchmarks/kills.py --kills 20 --processes 1
    python benchmarks/kills.py --kills 20 --processes 2

Trains a small DiT on random latents to the end, and once more with SIGKILL to all its processes
at random moments; then compares every tensor of the last checkpoint (weights, average,
optimizer) and stats.jsonl, timings aside. On the CPU, in float32. Exit code 1 if they differ.
"""

from __future__ import annotations

import json
import os
import random
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks import synthetic
from core.command import command, execute
from core.errors import UserError
from core.settings import AtLeast1, Seed, settings

ROOT = Path(__file__).parents[1]


@settings
class KillsConfig:
    """What to do."""

    kills: AtLeast1 = 20
    """Kills, each at a random moment after the start."""
    processes: AtLeast1 = 1
    """Processes of the run (gloo)."""
    steps: AtLeast1 = 400
    """Steps of the run."""
    seed: Seed = 0
    """Of the moments."""


def training(config: KillsConfig, latents: Path, out: Path) -> list[str]:
    """The training command, through torchrun for several processes."""
    flags = {
        "latents": latents, "out": out, "model": "DiT-mini/4", "batch": 8, "steps": config.steps,
        "log-every": 7, "checkpoint-every": 9, "learning-rate": 1e-3,
    }  # fmt: skip
    words = [word for name, value in flags.items() for word in (f"--{name}", str(value))]
    if config.processes == 1:
        return [sys.executable, "-m", "dit.train", *words]
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    launch = ["--nproc_per_node", str(config.processes), "--master_port", str(port)]
    return [sys.executable, "-m", "torch.distributed.run", *launch, "-m", "dit.train", *words]


def start(config: KillsConfig, latents: Path, out: Path) -> subprocess.Popen[bytes]:
    """Start a run in a session of its own, so that all of it can be killed at once."""
    environment = {**os.environ, "ACCELERATE_USE_CPU": "1", "WANDB_MODE": "disabled",
                   "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}  # fmt: skip
    with open(out.with_suffix(".log"), "ab") as log:
        return subprocess.Popen(
            training(config, latents, out), cwd=ROOT, env=environment, start_new_session=True,
            stdout=log, stderr=log,
        )  # fmt: skip


def stats(out: Path) -> list[dict[str, Any]]:
    """stats.jsonl without its timings."""
    lines = [json.loads(line) for line in (out / "stats.jsonl").read_text().splitlines()]
    return [{key: value for key, value in line.items() if key != "timing"} for line in lines]


def tensors(out: Path) -> dict[str, bytes]:
    """Content of the last checkpoint's files."""
    last = sorted((out / "checkpoints").iterdir())[-1]
    return {path.name: path.read_bytes() for path in sorted(last.iterdir())}


def run(config: KillsConfig) -> int:
    """Run, kill, compare. Returns the exit code: 1 if the results differ."""
    moments = random.Random(config.seed)
    with tempfile.TemporaryDirectory() as temporary:
        work = Path(temporary)
        latents = synthetic.make_latents(work / "latents", rows=64, side=16)
        begun = time.monotonic()
        undisturbed = start(config, latents, work / "undisturbed")
        if undisturbed.wait() != 0:
            raise UserError((work / "undisturbed.log").read_text())
        length = time.monotonic() - begun
        print(f"{config.processes} process(es), {config.steps} steps, undisturbed {length:.1f} s")
        killed, done = work / "killed", 0
        while True:
            process = start(config, latents, killed)
            if done == config.kills:
                if process.wait() != 0:
                    raise UserError(killed.with_suffix(".log").read_text()[-3000:])
                break
            before = progress(killed)
            while process.poll() is None and progress(killed) == before:
                time.sleep(0.01)  # until it has come further, so that no kill is in vain
            time.sleep(moments.uniform(0.0, 0.3))
            if process.poll() is not None:
                raise UserError(f"--steps: the run ended after {done} of {config.kills} kills")
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            done += 1
            print(f"kill {done:2} at checkpoint {progress(killed)}", flush=True)
        same = tensors(killed) == tensors(work / "undisturbed")
        logged = stats(killed) == stats(work / "undisturbed")
    print(f"{done} kills; weights, average and optimizer bit-equal: {same}; "
          f"stats.jsonl equal: {logged}")  # fmt: skip
    return 0 if same and logged else 1


def progress(out: Path) -> str:
    """Name of the newest checkpoint, '' for none."""
    folder = out / "checkpoints"
    names = [p.name for p in folder.glob("step-*")] if folder.is_dir() else []
    return max(names, default="")


main = command("benchmarks.kills", KillsConfig, run, __doc__ or "")

if __name__ == "__main__":
    execute(main)
