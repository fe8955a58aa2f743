"""What a step does to the weights, against formulas written down once more by other means."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.distributions import Normal, kl_divergence

from dit.diffusion.gaussian import Diffusion
from dit.training import checkpoint
from dit.training.order import plan_batch
from dit.vae.network import latent_statistics
from dit.vae.recipes import PRESETS
from dit.vae.trainer import VaeTrainer
from tests.dit.test_train_vae import TINY as TINY_VAE
from tests.dit.test_trainer import Source, _environment, _model, _run

__all__ = ["_environment"]  # the fixture
RATE = 1e-3


def moments(out: Path) -> dict[str, Tensor]:
    return checkpoint.load_tensors(checkpoint.checkpoints(out)[-1], "optimizer")


def gradients(out: Path) -> dict[str, Tensor]:
    """Of a run's first and only step: AdamW's first moment is a tenth of them."""
    return {
        name.removeprefix("exp_avg."): value / 0.1
        for name, value in moments(out).items()
        if name.startswith("exp_avg.")
    }


def one_step(out: Path, **settings: Any) -> torch.nn.Module:
    return _run(out, steps=1, log_every=1, learning_rate=RATE, **settings)


def test_the_gradient_is_that_of_mse_plus_bound(tmp_path: Path) -> None:
    """mean((eps - eps_theta)^2) + KL(q || p) in bits per dimension, p's mean without gradient."""
    one_step(tmp_path)
    plan = plan_batch(0, 0, 4, 20)
    x0, noise, t = Source().load(plan)["x0"], plan.noise((4, 4, 4)), torch.tensor(plan.timesteps())
    assert (t > 0).all()
    chain, model = Diffusion(), _model()
    bar, beta, low = (
        torch.tensor(table[t.numpy()]).reshape(-1, 1, 1, 1)
        for table in (chain.alphas_cumprod, chain.betas, chain.posterior_variance)
    )
    x_t = bar.sqrt() * x0 + (1 - bar).sqrt() * noise
    eps, v = model(x_t.float(), t).double().chunk(2, dim=1)
    bar_prev = bar / (1 - beta)

    def mean(clean: Tensor) -> Tensor:  # of q(x_{t-1} | x_t, x0)
        signal = bar_prev.sqrt() * beta / (1 - bar) * clean
        return signal + (1 - beta).sqrt() * (1 - bar_prev) / (1 - bar) * x_t

    guess = (x_t - (1 - bar).sqrt() * eps.detach()) / bar.sqrt()
    deviation = (0.5 * ((v + 1) / 2 * beta.log() + (1 - v) / 2 * low.log())).exp()
    bound = kl_divergence(Normal(mean(x0), low.sqrt()), Normal(mean(guess), deviation))
    loss = (noise - eps).square().mean() + bound.mean() / math.log(2)
    loss.backward()
    found = gradients(tmp_path)
    for name, parameter in model.named_parameters():
        if parameter.grad is not None:
            torch.testing.assert_close(found[name], parameter.grad, rtol=2e-4, atol=1e-7)
    bias = found["final_layer.linear.bias"].unflatten(0, (2, 2, 8))  # p, q, channel
    assert bias[..., :4].abs().min() > 0 and bias[..., 4:].abs().min() > 0


def test_a_step_is_adamws(tmp_path: Path) -> None:
    """Betas 0.9 and 0.999, epsilon 1e-8: the first step is rate * g / (|g| + epsilon)."""
    trained = dict(one_step(tmp_path).named_parameters())
    found, state = gradients(tmp_path), moments(tmp_path)
    for name, before in _model().named_parameters():
        if not before.requires_grad:
            continue
        gradient = found[name]
        torch.testing.assert_close(
            state[f"exp_avg_sq.{name}"], 0.001 * gradient.square(), rtol=1e-4, atol=1e-20
        )
        step = RATE * gradient / (gradient.abs() + 1e-8)
        torch.testing.assert_close(trained[name].detach(), before - step, rtol=1e-5, atol=2e-7)


def test_weight_decay_is_decoupled(tmp_path: Path) -> None:
    """Beside the same gradient's step, every weight shrinks by rate * decay."""
    plain = dict(one_step(tmp_path / "plain").named_parameters())
    decayed = dict(one_step(tmp_path / "decayed", weight_decay=20.0).named_parameters())
    for name, before in _model().named_parameters():
        if before.requires_grad:
            shrunk = plain[name].detach() - RATE * 20.0 * before.detach()
            torch.testing.assert_close(decayed[name].detach(), shrunk, rtol=1e-5, atol=1e-7)
    for name, value in moments(tmp_path / "plain").items():  # it is no part of the gradient
        torch.testing.assert_close(moments(tmp_path / "decayed")[name], value)


def test_a_step_goes_as_far_as_the_schedule_says(tmp_path: Path) -> None:
    """Half as far in the first of two steps of warm-up."""
    once = dict(_run(tmp_path / "a", steps=1, warmup=2).named_parameters())
    full = dict(_run(tmp_path / "b", steps=1).named_parameters())
    for name, before in _model().named_parameters():
        if before.requires_grad:
            half = (full[name] - before).detach() / 2
            torch.testing.assert_close((once[name] - before).detach(), half, rtol=1e-4, atol=2e-7)


def test_the_latent_scale_is_exact_far_from_the_origin() -> None:
    """1 / std of mean + std * noise, where neither the mean nor the noise is small."""
    trainer = VaeTrainer(TINY_VAE, 3, 0)
    with torch.no_grad():
        trainer.model.quant_conv.bias[:4] = 3.0
        trainer.model.quant_conv.bias[4:] = 1.0
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (48, 8, 8, 3), generator=generator, dtype=torch.uint8).numpy()
    scale, _ = latent_statistics(trainer.model, iter([images[:40], images[40:]]))
    with torch.no_grad():
        unit = torch.from_numpy(images).permute(0, 3, 1, 2).double() / 127.5 - 1
        posterior = trainer.model.encode(unit.float()).latent_dist
    variance = posterior.mean.double().var(correction=0) + posterior.var.double().mean()
    assert scale == pytest.approx(variance.sqrt().item() ** -1, rel=1e-6)
    assert posterior.mean.mean() > 2 and posterior.var.mean() > 2  # so that each term counts


def test_the_vaes_optimizer_follows_its_recipe() -> None:
    trainer = VaeTrainer(TINY_VAE, 3, 0)
    assert trainer.optimizer.defaults["betas"] == (0.5, 0.99)
    rates = [PRESETS["mini"].rate(step + 1) / 4e-4 for step in (0, 9, 300, 599, 600)]
    assert rates[0] == pytest.approx(1 / 20, rel=1e-3)
    assert rates[1] == pytest.approx(10 / 20, rel=1e-3)
    assert rates[2:] == pytest.approx([0.51, 0.02, 0.02], abs=1e-4)  # down to a fiftieth
