"""What the training tests share: a small latent store, and the command in processes of its own."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import socket
import sys
import traceback
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from core.command import execute
from core.stage import Stage

TINY = {"patch_size": 2, "depth": 2, "hidden_size": 32, "num_heads": 2}
ENV = {"WANDB_MODE": "disabled", "ACCELERATE_USE_CPU": "1"}


def latent_store(
    folder: Path, rows: int = 50, side: int = 4, seed: int = 0, vae_fingerprint: str = "v" * 64
) -> Path:
    """A finished store of random latents."""
    shape = (4, side, side)
    latents = np.random.default_rng(seed).normal(size=(rows, 2, 2, *shape)).astype(np.float16)
    latents[:, :, 1] = 0.1  # standard deviation
    stage = Stage(folder, "dit.encode", {"seed": seed, "rows": rows, "side": side}, {})
    stage.open()
    np.save(folder / "latents-00000.npy", latents)
    keys = [f"image-{row:03d}" for row in range(rows)]
    pq.write_table(pa.table({"key": keys}), folder / "latents-00000.parquet")
    vae = {"fingerprint": vae_fingerprint, "scale": 1.0, "latent_channels": 4, "factor": 8}
    summary = {"vae": vae, "image_size": 8 * side, "rows": rows, "shape": shape, "shards": 1}
    stage.finish(summary, ["latents-00000.npy", "latents-00000.parquet"], line=f"{rows} latents")
    return folder


def flags(store: Path, out: Path, *more: str) -> list[str]:
    """The command's flags for a small run; later flags win."""
    given = ["--latents", str(store), "--out", str(out), "--model", "tiny"]
    small = ["--steps", "12", "--batch", "8", "--log-every", "4", "--checkpoint-every", "5"]
    return [*given, *small, *more]


def start(
    arguments: list[str],
    log: Path,
    rank: int = 0,
    world: int = 1,
    port: int = 0,
    stop_at: int | None = None,
) -> ForkServerProcess:
    """Start `python -m dit.train` in a process of its own, its output going to `log`.

    The fork server imports the modules once, so that a start costs milliseconds, not seconds.
    With `stop_at` the process sends itself SIGTERM as it loads that step.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(
        [
            "torch._dynamo",
            "dit.pretraining.train",
            "tests.dit.training",
        ]
    )
    env = dict(ENV)
    if world > 1:  # what torchrun and accelerate launch set
        env |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(world)}
        env |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    process = context.Process(target=_child, args=(arguments, log, env, stop_at))
    process.start()
    return process


def train(
    arguments: list[str], log: Path, world: int = 1, stop_at: int | None = None
) -> tuple[int, str]:
    """Run the command to its end: (exit code, output of all ranks).

    `stop_at`: the last rank is sent SIGTERM as it loads that step.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    logs = [log.with_name(f"{log.name}-{rank}") for rank in range(world)]
    stops = [None] * (world - 1) + [stop_at]
    processes = [start(arguments, logs[r], r, world, port, stops[r]) for r in range(world)]
    for process in processes:
        process.join(100)
    (code,) = {process.exitcode for process in processes}  # one for all; None: it hangs
    assert code is not None
    return code, "".join(path.read_text() for path in logs)


def _child(arguments: list[str], log: Path, env: dict[str, str], stop_at: int | None) -> None:
    os.environ.update(env)
    sys.stdout = sys.stderr = open(log, "w", buffering=1)
    import torch

    from dit.latents.store import LatentSource
    from dit.model import transformer as model
    from dit.train import main

    torch.set_num_threads(1)
    model.MODELS["tiny"] = TINY
    load = LatentSource.load

    def spied(self: LatentSource, plan: Any) -> dict[str, torch.Tensor]:
        """Load, and write down what each slot of the step sees, to <log>.seen."""
        if plan.step == stop_at:
            os.kill(os.getpid(), signal.SIGTERM)
        batch = load(self, plan)
        sums = plan.noise(self.latent_shape).double().sum(dim=(1, 2, 3)).tolist()
        with open(f"{log}.seen", "a") as stream:
            for row, slot in enumerate(plan.slots.tolist()):
                key, t = self.keys[plan.indices[row]], plan.timesteps()[row]
                flip, x0 = plan.flips[row], batch["x0"][row].double().sum().item()
                stream.write(f"{plan.step} {slot} {key} {flip} {t} {sums[row]!r} {x0!r}\n")
        return batch

    LatentSource.load = spied  # type: ignore[method-assign]
    try:
        execute(lambda: main(arguments))
    except SystemExit:
        raise
    except BaseException:
        traceback.print_exc()
        raise


def seen(log: Path, world: int) -> list[str]:
    """What every slot of every step saw, over all ranks, in order."""
    files = [Path(f"{log}-{rank}.seen") for rank in range(world)]
    lines = [line for path in files for line in path.read_text().splitlines()]
    return sorted(lines, key=lambda line: [int(part) for part in line.split()[:2]])


def stats(out: Path) -> list[dict[str, Any]]:
    """stats.jsonl without the timings."""
    lines = [json.loads(line) for line in (out / "stats.jsonl").read_text().splitlines()]
    return [{name: value for name, value in line.items() if name != "timing"} for line in lines]


def final_bytes(out: Path) -> dict[str, bytes]:
    """Every file of the finished run's last checkpoint."""
    manifest = json.loads((out / "manifest.json").read_text())
    return {name: (out / name).read_bytes() for name in manifest["files"]}
