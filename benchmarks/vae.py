"""Training a four-band VAE and encoding with it: images a second, against plain loops.

    python benchmarks/vae.py          # kl-f8 at 256 px on a GPU; the preset mini at 64 px on a CPU

Training is dit.train_vae's own step (crops, flips and noise made for every slot, moving average,
gradient norms, skipped steps; on a GPU bf16 and compiled) on images that lie in memory: before the
discriminator takes part, and with it. `plain` is forward, L1, perceptual term, KL, backward and
Adam on one batch that lies ready: no discriminator, no average, float32 (TF32 on a GPU), eager.
Encoding is what dit.encode asks of the VAE: uint8 images to means and deviations on the CPU,
against the encoder alone on a batch that lies on the device. Plain is measured before and after
ours; medians. On a GPU the hours of USA-1m follow from the rates.
"""

from __future__ import annotations

import dataclasses
import itertools
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks import measure
from core.command import command, execute
from core.settings import AtLeast0, AtLeast1, settings
from dit.training.order import BatchPlan, plan_batch
from dit.vae.autoencoder import to_unit
from dit.vae.losses import make_perceptual
from dit.vae.machine import Machine
from dit.vae.network import Pass, build, divergence
from dit.vae.recipes import PRESETS, Recipe
from dit.vae.trainer import VaeTrainer

BANDS = 4
IMAGES = 64
USA1M = 8_770_000  # chips; the paper trains on 30 % of them
WARM = 3  # steps that are not counted


@settings
class VaeConfig:
    """What to measure."""

    batch: AtLeast0 = 0
    """Crops of a training step; 0: the preset's."""
    encode_batch: AtLeast1 = 32
    """Images that are encoded at a time."""
    steps: AtLeast0 = 0
    """Measured steps of a repeat; 0: 30 on a GPU, 8 on a CPU."""
    repeats: AtLeast1 = 3
    """Paired repeats; the median counts."""
    compile: bool = True
    """Compile our networks (on a GPU only)."""


def wait(cuda: bool) -> float:
    """The time when all that was asked of the device is done."""
    if cuda:
        torch.cuda.synchronize()
    return time.perf_counter()


def ours(
    recipe: Recipe, images: np.ndarray, steps: int, machine: Machine, adversarial: bool
) -> float:
    """Images a second of the trainer's own loop."""
    cuda = machine.device == "cuda"
    total = WARM + steps
    recipe = dataclasses.replace(
        recipe, steps=total + 1, adversarial_start=1 if adversarial else 0, validate_every=10**6
    )  # the last step validates: it is not counted
    trainer, stamps = VaeTrainer(recipe, BANDS, 0, machine), []

    def batches() -> Iterator[tuple[BatchPlan, np.ndarray]]:
        for step in itertools.count():
            plan = plan_batch(0, step, recipe.batch, len(images))
            yield plan, images[plan.indices]

    def count(_: int) -> None:
        if len(stamps) in (WARM - 1, total - 1):
            stamps.append(wait(cuda))
        else:
            stamps.append(0.0)

    with tempfile.TemporaryDirectory() as run, measure.quiet():
        trainer.train(batches(), images[: recipe.batch], None, Path(run), count=count)
    return steps * recipe.batch / (stamps[total - 1] - stamps[WARM - 1])


def plain(recipe: Recipe, images: np.ndarray, steps: int, device: str) -> float:
    """Images a second of the plain loop."""
    cuda = device == "cuda"
    torch.set_float32_matmul_precision("high")  # TF32 where there is any
    model = build(recipe, BANDS, 0).to(device)
    network, optimizer = Pass(model), torch.optim.Adam(model.parameters(), lr=1e-4)
    perceptual = make_perceptual(recipe.perceptual, device, BANDS, None)
    x = to_unit(images[: recipe.batch, : recipe.crop, : recipe.crop]).to(device)
    side = recipe.crop >> (len(recipe.block_out_channels) - 1)
    noise = torch.randn(len(x), recipe.latent_channels, side, side, device=device)
    begun = 0.0
    for step in range(WARM + steps):
        if step == WARM:
            begun = wait(cuda)
        y, mean, std, logvar = network(x, noise)
        terms = (y - x).abs().mean() + recipe.perceptual_weight * perceptual(x, y).mean()
        loss = x[0].numel() * terms + recipe.kl_weight * divergence(mean, std, logvar).mean()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    return steps * recipe.batch / (wait(cuda) - begun)


def encoding(
    recipe: Recipe, images: np.ndarray, repeats: int, device: str, size: int
) -> tuple[float, float]:
    """(images a second from uint8 to moments on the CPU, of the encoder alone)."""
    from dit.vae.autoencoder import load_vae

    cuda = device == "cuda"
    rates: list[tuple[float, float]] = []
    with tempfile.TemporaryDirectory() as folder:
        model = build(recipe, BANDS, 0)
        model.register_to_config(scaling_factor=1.0)
        model.save_pretrained(folder)
        vae = load_vae(folder, device)
        batch = images[:size]
        ready = to_unit(batch).to(device=device, dtype=vae.model.dtype)

        def whole() -> Any:
            return [moment.cpu() for moment in vae.encode(to_unit(batch), len(batch))]

        def alone() -> Any:
            with torch.inference_mode():
                return vae.model.encode(ready).latent_dist.mean

        def rate(call: Callable[[], Any]) -> float:
            call()
            begun = wait(cuda)
            for _ in range(5):
                call()
            return 5 * len(batch) / (wait(cuda) - begun)

        for _ in range(repeats):
            before, made, after = rate(alone), rate(whole), rate(alone)
            rates.append((made, (before + after) / 2))
    middle = sorted(rates, key=lambda pair: pair[0] / pair[1])[len(rates) // 2]
    return middle


def run(config: VaeConfig) -> int:
    """Print the figures."""
    cuda = torch.cuda.is_available()
    device, size = ("cuda", 256) if cuda else ("cpu", 64)
    steps = config.steps or (30 if cuda else 8)
    preset = "kl-f8" if cuda else "mini"
    recipe = dataclasses.replace(PRESETS[preset], perceptual="gradient")
    recipe = dataclasses.replace(
        recipe, batch=config.batch or recipe.batch, crop=min(recipe.crop, size)
    )
    images = np.random.default_rng(0).integers(0, 256, (IMAGES, size, size, BANDS), np.uint8)
    machine = Machine(device, half=cuda, compiled=config.compile and cuda)
    print(measure.torch_lines())
    print(f"preset {preset}, {BANDS} bands, crops of {recipe.crop} px, batch {recipe.batch}, "
          f"perceptual term: gradient, {config.repeats} x {steps} steps")  # fmt: skip
    pairs, with_critic = [], []
    for _ in range(config.repeats):
        before = plain(recipe, images, steps, device)
        pairs.append((ours(recipe, images, steps, machine, False), before))
        with_critic.append(ours(recipe, images, steps, machine, True))
        pairs[-1] = (pairs[-1][0], (before + plain(recipe, images, steps, device)) / 2)
    made, bare = sorted(pairs, key=lambda pair: pair[0] / pair[1])[len(pairs) // 2]
    critic = float(np.median(with_critic))
    each = ", ".join(f"{a / b:.3f}" for a, b in pairs)
    print(f"training      {made:9.2f} img/s, plain {bare:9.2f} img/s: ours / plain "
          f"{made / bare:.3f} (each: {each})")  # fmt: skip
    print(f"  with the discriminator {critic:.2f} img/s, {critic / made:.2f} of without")
    encoded, alone = encoding(recipe, images, config.repeats, device, config.encode_batch)
    print(f"encoding      {encoded:9.2f} img/s, the encoder alone {alone:9.2f} img/s: "
          f"{encoded / alone:.3f}")  # fmt: skip
    if not cuda:
        print("USA-1m, GPU-hours: not measured")
        return 0
    first = min(recipe.adversarial_start, 100_000)
    training = recipe.batch * (first / made + (100_000 - first) / critic) / 3600
    print(f"USA-1m, GPU-hours: 100,000 steps of the VAE {training:.1f}; two views each of the 30 % "
          f"of its chips that are kept {0.3 * 2 * USA1M / encoded / 3600:.1f}")  # fmt: skip
    return 0


main = command("benchmarks.vae", VaeConfig, run, __doc__ or "")

if __name__ == "__main__":
    execute(main)
