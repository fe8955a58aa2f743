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
import gc
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks import measure, synthetic
from core.command import command, execute
from core.errors import UserError
from core.settings import AtLeast0, AtLeast1, settings
from dit.diffusion.gaussian import Diffusion
from dit.model.transformer import build
from dit.train import DitConfig
from dit.train import run as train

T = TypeVar("T")


@settings
class TrainConfig:
    """What to measure."""

    model: str = ""
    """Network; empty: DiT-XL/2 on a GPU, DiT-S/2 on a CPU."""
    batch: AtLeast0 = 0
    """Images a step; 0: 256 on a GPU, 4 on a CPU."""
    per_device: AtLeast0 = 0
    """Micro batch of our loop, and the plain loop's batch; 0: the batch. What does not fit in
    memory is halved until it does, for each loop by itself, and the lines below say so."""
    steps: AtLeast0 = 0
    """Measured steps of a repeat; 0: 50 on a GPU, 6 on a CPU."""
    repeats: AtLeast1 = 3
    """Paired repeats; the median counts."""
    compile: bool = True
    """Compile our network (on a GPU only)."""


def plain(model: str, batch: int, steps: int, cuda: bool) -> tuple[float, float]:
    """(images a second, peak GPU memory in GiB) of the plain loop."""
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


def fitting(
    what: str, size: int, batch: int, measured: Callable[[int], T]
) -> tuple[T, int]:
    """What is measured with a micro batch that fits in memory, and that micro batch.

    From `size` on the next smaller one that divides the batch, half of it where it can, is tried.
    Raises UserError where not even one image fits.
    """
    while True:
        try:
            return measured(size), size
        except torch.OutOfMemoryError:
            pass  # the failed attempt lives until here
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        if size == 1:
            raise UserError(f"{what}: not even one image fits in memory; choose a smaller --model")
        smaller = next(n for n in range(size // 2, 0, -1) if batch % n == 0)
        print(f"{what}: {size} images at a time do not fit in memory; {smaller} are taken")
        size = smaller


def ours(
    config: TrainConfig, per_device: int, latents: Path, out: Path, steps: int, cuda: bool
) -> dict[str, Any]:
    """Timing of the last interval of a run of 2 * steps, and of its cold start."""
    training = DitConfig(
        latents=latents, out=out, model=config.model, batch=config.batch,
        per_device=per_device, steps=2 * steps, log_every=steps, checkpoint_every=10**6,
        precision="bf16" if cuda else "fp32", compile=config.compile and cuda,
    )  # fmt: skip
    with measure.quiet():
        train(training)
    lines = [json.loads(line) for line in (out / "stats.jsonl").read_text().splitlines()]
    return {**lines[-1]["timing"], "cold": lines[0]["timing"]["first_step_s"]}


def run(config: TrainConfig) -> int:
    """Print the figures."""
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
    print(measure.torch_lines())
    ratios, rows = [], []
    with tempfile.TemporaryDirectory() as temporary:
        work = Path(temporary)
        latents = synthetic.make_latents(work / "latents", rows=max(256, config.batch))
        size = micro = config.per_device or config.batch
        for repeat in range(config.repeats):
            (before, memory), size = fitting(
                "plain", size, config.batch, lambda n: plain(config.model, n, steps, cuda)
            )
            made, micro = fitting(
                "ours", micro, config.batch,
                lambda n, out=work / f"run{repeat}": ours(
                    config, n, latents, out.with_name(f"{out.name}-{n}"), steps, cuda
                ),
            )  # fmt: skip
            after, _ = plain(config.model, size, steps, cuda)
            ratios.append(made["images_per_s"] / ((before + after) / 2))
            rows.append((made["images_per_s"], (before + after) / 2, made, memory))
    rate, bare, made, memory = rows[int(np.argsort(ratios)[len(ratios) // 2])]
    print(f"{config.model}, latents 4 x 32 x 32 (256 px), batch {config.batch}, "
          f"{config.repeats} x {steps} steps")  # fmt: skip
    mfu = "not measured" if made["mfu"] is None else f"{100 * made['mfu']:.1f} %"
    print(f"ours   {rate:9.2f} img/s, MFU {mfu}, data wait {100 * made['data_wait']:.2f} %, peak "
          f"{made['memory_gib']:.1f} GiB, first step {made['cold']:.1f} s, micro batch {micro}")
    print(f"plain  {bare:9.2f} img/s" + (f", peak {memory:.1f} GiB" if cuda else "")
          + f", batch {size}")  # fmt: skip
    print(f"ours / plain {np.median(ratios):.3f} (each: {', '.join(f'{r:.3f}' for r in ratios)})")
    return 0


main = command("benchmarks.train", TrainConfig, run, __doc__ or "")

if __name__ == "__main__":
    execute(main)
