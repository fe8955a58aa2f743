"""The trainer against a plain loop: images a second, MFU, data wait, peak memory.

    python benchmarks/train.py                          # on a GPU: DiT-XL/2, batch 256
    python benchmarks/train.py --model DiT-S/2 --batch 4 --steps 8   # what a CPU gets by default

`ours` is dit.train's own loop as a run uses it: latents and noise made for every slot, hybrid
loss, EMA, gradient norm, log lines; on a GPU with bf16 autocast and torch.compile. Its rate is
that of the last interval of stats.jsonl, so starting and compiling are not in it; the first step's
seconds are printed as the cold start. `plain` is forward, backward and AdamW on
one batch that lies ready, no EMA and no log: in float32 (TF32 on a GPU), eager. Paired: plain
before and after ours, medians.

FLOPs are counted from the config (dit.training.meter.flops_per_sample): matrix products of
forward and backward pass, a multiply-add as two, nothing for recomputation.
"""

from __future__ import annotations

import dataclasses
import json
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks import made


@dataclasses.dataclass(frozen=True)
class TrainBenchmark:
    """What to measure."""

    model: str = ""
    """Network; empty: DiT-XL/2 on a GPU, DiT-S/2 on a CPU."""
    batch: int = 0
    """Images a step; 0: 256 on a GPU, 4 on a CPU."""
    per_device: int = 0
    """Micro batch of our loop, and the plain loop's batch; 0: the batch."""
    steps: int = 0
    """Measured steps of a repeat; 0: 50 on a GPU, 6 on a CPU."""
    repeats: int = 3
    """Paired repeats; the median counts."""
    compile: bool = True
    """Compile our network (on a GPU only)."""


def plain(model: str, batch: int, steps: int, cuda: bool) -> tuple[float, float]:
    """(images a second, peak GPU memory in GiB) of the plain loop."""
    import torch

    from dit.diffusion.gaussian import Diffusion
    from dit.model.transformer import build

    device = torch.device("cuda" if cuda else "cpu")
    torch.set_float32_matmul_precision("high")  # TF32 where there is any
    torch.manual_seed(0)
    net = build(model, 32, 4).train().to(device)
    optimizer = torch.optim.AdamW(net.parameters(), lr=1e-4, weight_decay=0.0)
    diffusion = Diffusion()
    x0, noise = (torch.randn(batch, 4, 32, 32, device=device) for _ in range(2))
    t = torch.randint(0, 1000, (batch,), device=device)
    if cuda:
        torch.cuda.reset_peak_memory_stats()
    begun = 0.0
    for step in range(steps + 2):
        if step == 2:  # two to warm up
            if cuda:
                torch.cuda.synchronize()
            begun = time.perf_counter()
        diffusion.training_losses(net, x0, t, noise)["loss"].mean().backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    if cuda:
        torch.cuda.synchronize()
    rate = steps * batch / (time.perf_counter() - begun)
    return rate, torch.cuda.max_memory_allocated() / 2**30 if cuda else 0.0


def ours(
    config: TrainBenchmark, latents: Path, out: Path, steps: int, cuda: bool
) -> dict[str, Any]:
    """Timing of the last interval of a run of 2 * steps, and of its cold start."""
    from dit.train import main

    flags = {
        "latents": latents, "out": out, "model": config.model, "batch": config.batch,
        "per-device": config.per_device, "steps": 2 * steps, "log-every": steps,
        "checkpoint-every": 10**6, "precision": "bf16" if cuda else "fp32",
    }  # fmt: skip
    words = [word for name, value in flags.items() for word in (f"--{name}", str(value))]
    if config.compile and cuda:
        words.append("--compile")
    with made.quiet():
        main(words)
    lines = [json.loads(line) for line in (out / "stats.jsonl").read_text().splitlines()]
    return {**lines[-1]["timing"], "cold": lines[0]["timing"]["first_step_s"]}


def main() -> None:
    """Print the figures."""
    import torch
    import tyro

    config = tyro.cli(TrainBenchmark, description=__doc__)
    cuda = torch.cuda.is_available()
    config = dataclasses.replace(
        config,
        model=config.model or ("DiT-XL/2" if cuda else "DiT-S/2"),
        batch=config.batch or (256 if cuda else 4),
    )
    steps = config.steps or (50 if cuda else 6)
    os.environ["WANDB_MODE"] = "disabled"
    if not cuda:
        os.environ["ACCELERATE_USE_CPU"] = "1"
    print(made.machine_line() + f", torch {torch.__version__}, {torch.get_num_threads()} threads")
    print("GPU: " + (torch.cuda.get_device_name() if cuda else "none; its figures: not measured"))
    ratios, rows = [], []
    with tempfile.TemporaryDirectory() as temporary:
        work = Path(temporary)
        latents = made.latents(work / "latents", rows=max(256, config.batch))
        size = config.per_device or config.batch
        for repeat in range(config.repeats):
            before, memory = plain(config.model, size, steps, cuda)
            run = ours(config, latents, work / f"run{repeat}", steps, cuda)
            after, _ = plain(config.model, size, steps, cuda)
            ratios.append(run["images_per_s"] / ((before + after) / 2))
            rows.append((run["images_per_s"], (before + after) / 2, run, memory))
    rate, bare, run, memory = rows[int(np.argsort(ratios)[len(ratios) // 2])]
    print(f"{config.model}, latents 4 x 32 x 32 (256 px), batch {config.batch}, "
          f"{config.repeats} x {steps} steps")  # fmt: skip
    mfu = "not measured" if run["mfu"] is None else f"{100 * run['mfu']:.1f} %"
    print(f"ours   {rate:9.2f} img/s, MFU {mfu}, data wait {100 * run['data_wait']:.2f} %, peak "
          f"{run['memory_gib']:.1f} GiB, first step {run['cold']:.1f} s")  # fmt: skip
    print(f"plain  {bare:9.2f} img/s" + (f", peak {memory:.1f} GiB" if cuda else ""))
    print(f"ours / plain {np.median(ratios):.3f} (each: {', '.join(f'{r:.3f}' for r in ratios)})")


if __name__ == "__main__":
    main()
