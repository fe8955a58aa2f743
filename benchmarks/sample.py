"""Images a second of the samplers: DDPM-250, DDIM-50, DPM-Solver++-25, one by one, in a batch,
compiled and not.

    python benchmarks/sample.py            # DiT-XL/2 on a GPU; DiT-mini/2 on a CPU (stated)

Latents only: the VAE's decoder is not in it. Each line gives images a second, and that over the
rate of the network alone at the same batch (forward passes a second / steps): what the sampler's
own arithmetic leaves.
"""

from __future__ import annotations

import copy
import shutil
import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

import torch

from benchmarks import measure
from core.command import command, execute
from core.settings import AtLeast0, settings
from dit.diffusion.samplers import sample_latents
from dit.model.transformer import build
from dit.training.network import compile_blocks

SAMPLERS = (("ddpm", 250), ("ddim", 50), ("dpmpp", 25))


@settings
class SampleConfig:
    """What to measure."""

    model: str = ""
    """Network; empty: DiT-XL/2 on a GPU, DiT-mini/2 on a CPU."""
    size: AtLeast0 = 0
    """Side of the latents; 0: 32 (256 px) on a GPU, 16 on a CPU."""
    batch: AtLeast0 = 0
    """Images at a time; 0: 64 on a GPU, 8 on a CPU."""
    compile: bool = True
    """Also with compiled blocks, where there is a compiler."""


def seconds(call: Any, cuda: bool, repeats: int = 3) -> float:
    """Median wall time of a call, after one to warm up."""
    times = []
    for _ in range(repeats + 1):
        begun = time.perf_counter()
        call()
        if cuda:
            torch.cuda.synchronize()
        times.append(time.perf_counter() - begun)
    return sorted(times[1:])[repeats // 2]


def run(config: SampleConfig) -> int:
    """Print the rates."""
    cuda = torch.cuda.is_available()
    name = config.model or ("DiT-XL/2" if cuda else "DiT-mini/2")
    side, batch = config.size or (32 if cuda else 16), config.batch or (64 if cuda else 8)
    print(measure.torch_lines())
    print(f"{name}, latents 4 x {side} x {side}")
    device = torch.device("cuda" if cuda else "cpu")
    torch.manual_seed(0)
    net = build(name, side, 4).eval().to(device)
    precision = "bf16" if cuda else "fp32"
    compiled = [False, True] if config.compile and shutil.which("g++") else [False]
    for fast in compiled:
        model = copy.deepcopy(net)
        if fast:
            compile_blocks(model)
        for size in (1, batch):
            x = torch.randn(size, 4, side, side, device=device)
            t = torch.full((size,), 500, device=device)

            def forward(model: Any = model, x: Any = x, t: Any = t) -> None:
                with torch.inference_mode(), torch.autocast(
                    device.type, torch.bfloat16, enabled=cuda
                ):
                    for _ in range(10):
                        model(x, t)

            alone = 10 * size / seconds(forward, cuda)
            for sampler, steps in SAMPLERS:

                def draw(
                    model: Any = model, size: int = size, sampler: Any = sampler, steps: int = steps
                ) -> None:
                    sample_latents(
                        model, (4, side, side), size, sampler=sampler, steps=steps, device=device,
                        precision=precision,
                    )  # fmt: skip

                rate = size / seconds(draw, cuda, 1 if not cuda else 3)
                label = f"{sampler}-{steps}, batch {size}" + (", compiled" if fast else "")
                print(f"{label:<28} {rate:9.3f} img/s, {rate * steps / alone:.2f} of the network")
    return 0


main = command("benchmarks.sample", SampleConfig, run, __doc__ or "")

if __name__ == "__main__":
    execute(main)
