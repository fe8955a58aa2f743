"""What a training measures of itself: losses without stalling the device, speed, memory."""

from __future__ import annotations

import contextlib
import re
import resource
import sys
import time
from collections.abc import Iterator, Mapping
from typing import Any, Protocol

import torch
from torch import Tensor
from tqdm import tqdm

# Dense bf16 peak of the SXM board, FLOP/s, by a part of the device's name (vendors' data sheets).
_PEAKS = {"H200": 989e12, "H100": 989e12, "H800": 989e12, "A100": 312e12, "A800": 312e12,
          "L40S": 362e12, "L4": 121e12, "A10": 125e12, "4090": 165e12, "3090": 71e12}  # fmt: skip


class Measured(Protocol):
    """What a meter and a speedometer want to know of a recipe."""

    @property
    def steps(self) -> int: ...
    @property
    def batch(self) -> int: ...
    def rate(self, step: int) -> float: ...


class Meter:
    """Sums over an interval, kept on the device: adding never makes the host wait.

    Holds the sums of each term and of the gradient's norm over the interval's finite steps, their
    number, the run's skipped steps, and how many were skipped in a row.

    Args:
        terms: names of what is summed, the loss first.
    """

    def __init__(
        self, device: torch.device, terms: tuple[str, ...] = ("loss", "mse", "vb")
    ) -> None:
        double = torch.float32 if device.type == "mps" else torch.float64
        self.terms = terms
        self._values = torch.zeros(len(terms) + 4, dtype=double, device=device)
        self._stop = torch.zeros((), device=device)

    def add(self, totals: Tensor, norm: Tensor, bad: Tensor) -> None:
        """Take in one step: [*terms, stop asked] over the global batch, the gradient's norm, and
        whether the step was skipped."""
        v, n = self._values, len(self.terms) + 2
        values = torch.stack([*totals[:-1], norm, torch.ones_like(norm)]).to(v.dtype)
        v[:n] += torch.where(bad, 0.0, values)
        v[n] += bad
        v[n + 1] = (v[n + 1] + 1) * bad
        self._stop += totals[-1]

    def look(self) -> tuple[int, bool]:
        """(steps skipped in a row, has any process been asked to stop); waits for the device."""
        in_a_row, stop = torch.stack([self._values[-1], self._stop.to(self._values.dtype)]).tolist()
        return int(in_a_row), stop > 0

    def line(self, done: int, config: Measured, n: int, ema_decay: float) -> dict[str, Any]:
        """The interval's line for stats.jsonl (losses are means over global batches and over
        the interval; null when every step was skipped), and start the next interval."""
        *sums, good, skipped, _ = self._values.tolist()
        means = [total / good if good else None for total in sums]
        self._values[:-2] = 0
        return {
            "step": done,
            "samples": done * config.batch,
            "epochs": done * config.batch / n,
            **dict(zip((*self.terms, "grad_norm"), means, strict=True)),
            "lr": config.rate(done),
            "ema_decay": ema_decay,
            "skipped": int(skipped),
        }

    def state(self) -> list[float]:
        """For a checkpoint in the middle of an interval; `load` takes it back."""
        return self._values.tolist()

    def load(self, state: list[float]) -> None:
        self._values.copy_(torch.tensor(state, dtype=self._values.dtype))


class Speed:
    """Wall-clock of the loop: images a second, MFU, the fraction spent waiting for data, ETA.

    Args:
        config: for batch and steps.
        model: the model's description, for its FLOPs.
        device, precision, processes: what it runs on.
        seconds: training time of earlier sessions.
        start: first step of this session.
    """

    def __init__(
        self,
        config: Measured,
        model: Mapping[str, Any],
        device: torch.device,
        precision: str,
        processes: int,
        seconds: float,
        start: int,
    ) -> None:
        flops, peak = flops_per_sample(model), peak_flops(device, precision)
        self._full_rate = processes * peak / flops if flops and peak else None  # img/s at MFU 1
        self._config, self._device = config, device
        self._before, self._session = seconds, time.perf_counter()
        self._begun, self._waited, self._step = self._session, 0.0, start
        self._cold: float | None = None

    @contextlib.contextmanager
    def waiting(self) -> Iterator[None]:
        """Time in the block is time that the data was late."""
        begun = time.perf_counter()
        yield
        self._waited += time.perf_counter() - begun

    def first_step(self, compiled: bool) -> str:
        """Call after the session's first step: a line to print about the cold start.

        The intervals' rates count from here on.
        """
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        now = time.perf_counter()
        self._cold = now - self._session
        self._begun, self._waited, self._step = now, 0.0, self._step + 1
        return f"first step after {self._cold:.1f} s" + (", with compiling" if compiled else "")

    def interval(self, done: int) -> dict[str, float | None]:
        """Figures since the last call (or the first step), for "timing" in stats.jsonl.

        A session's first line also has "first_step_s", the seconds that its first step took.
        """
        now = time.perf_counter()
        seconds = max(now - self._begun, 1e-9)
        # Of an interval that is the cold start alone there is no other rate than its own.
        steps = done - self._step
        if steps == 0:
            steps, seconds = 1, self._cold or seconds
        rate = steps * self._config.batch / seconds
        timing = {
            "seconds": round(self._before + now - self._session, 3),
            "images_per_s": round(rate, 3),
            "data_wait": round(self._waited / seconds, 5),
            "mfu": round(rate / self._full_rate, 5) if self._full_rate else None,
            "memory_gib": round(memory_gib(self._device), 3),
            "eta_s": round((self._config.steps - done) * seconds / max(steps, 1), 1),
        }
        self._begun, self._waited, self._step = now, 0.0, done
        if self._cold is not None:
            timing["first_step_s"], self._cold = round(self._cold, 3), None
        return timing


def log_line(line: Mapping[str, Any], timing: Mapping[str, Any], steps: int) -> str:
    """One line for the terminal."""

    def number(value: float | None) -> str:
        return "none finite" if value is None else f"{value:.4f}"

    parts = [
        f"step {line['step']:,}/{steps:,} ({100 * line['step'] / steps:.1f} %)",
        f"{line['epochs']:.2f} epochs",
        f"loss {number(line['loss'])}",
        f"grad {number(line['grad_norm'])}",
        f"{timing['images_per_s']:,.0f} img/s",
        f"wait {100 * timing['data_wait']:.1f} %",
        f"ETA {tqdm.format_interval(timing['eta_s'])}",
    ]
    if timing["mfu"] is not None:
        parts.insert(5, f"MFU {100 * timing['mfu']:.1f} %")
    if line["skipped"]:
        parts.append(f"SKIPPED {line['skipped']} steps that were not finite")
    return "  ".join(parts)


def flops_per_sample(model: Mapping[str, Any]) -> float | None:
    """FLOPs of one sample's forward and backward pass, from a DiT's config; None for others.

    Matrix products only (a multiply-add is two), the backward pass twice the forward, as is
    usual for MFU; recomputed activations do not count.
    """
    try:
        tokens = (model["input_size"] // model["patch_size"]) ** 2
        width, depth = model["hidden_size"], model["depth"]
        each_token = 2 * width * width * (4 + 2 * model.get("mlp_ratio", 4.0))  # qkv, proj, MLP
        attention = 4 * tokens * tokens * width
        modulation = 2 * 6 * width * width  # adaLN acts once a sample, not once a token
    except (KeyError, TypeError):
        return None
    return 3.0 * depth * (tokens * each_token + attention + modulation)


def peak_flops(device: Any, precision: str) -> float | None:
    """The device's peak in bf16, or None where it is not known (CPUs, float32)."""
    if device.type != "cuda" or precision != "bf16":
        return None
    parts = re.split(r"[\s-]", torch.cuda.get_device_name(device))
    return next((_PEAKS[part] for part in parts if part in _PEAKS), None)


def memory_gib(device: Any) -> float:
    """Peak memory of this process so far, GiB: on the GPU, or resident on a CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**30
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (2**30 if sys.platform == "darwin" else 2**20)
