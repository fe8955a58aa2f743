"""benchmarks/train.py measures what fits in memory, and says what does not."""

from __future__ import annotations

import os

import pytest
import torch

from benchmarks import train as benchmark
from core.errors import UserError
from dit.diffusion.gaussian import Diffusion
from dit.model import transformer as model
from tests.dit.training import TINY


@pytest.fixture
def memory_for(monkeypatch):
    """Losses of more images at a time than a number raise what a full GPU does."""
    monkeypatch.setitem(model.MODELS, "tiny", TINY)
    monkeypatch.setitem(os.environ, "WANDB_MODE", "disabled")
    monkeypatch.setitem(os.environ, "ACCELERATE_USE_CPU", "1")
    losses = Diffusion.training_losses

    def limit(images: int) -> None:
        def limited(self, network, x0, *rest, **more):
            if len(x0) > images:
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
            return losses(self, network, x0, *rest, **more)

        monkeypatch.setattr(Diffusion, "training_losses", limited)

    return limit


def test_what_does_not_fit_is_halved_and_said(memory_for, capsys):
    memory_for(3)
    config = benchmark.TrainConfig(model="tiny", batch=12, steps=1, repeats=2)
    assert benchmark.run(config) == 0
    said = capsys.readouterr().out
    for what in ("plain", "ours"):  # each once: the next repeat begins with what fits
        assert said.count(f"{what}: 12 images at a time do not fit in memory; 6 are taken") == 1
        assert said.count(f"{what}: 6 images at a time do not fit in memory; 3 are taken") == 1
    assert "micro batch 3" in said and "batch 3" in said and "ours / plain" in said


def test_what_can_never_fit_is_one_error(memory_for):
    memory_for(0)
    with pytest.raises(UserError, match="not even one image fits in memory"):
        benchmark.run(benchmark.TrainConfig(model="tiny", batch=2, steps=1, repeats=1))
