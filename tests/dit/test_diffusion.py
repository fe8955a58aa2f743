"""The diffusion: published losses, posteriors and timesteps; gradients; precision."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from core.errors import UserError
from dit.diffusion.gaussian import Diffusion, respaced_timesteps
from dit.model.published import load_official
from dit.model.transformer import DiT

TOLERANCE = 1e-5


@pytest.fixture(scope="module")
def model(golden: Path) -> DiT:
    return load_official(golden / "dit_tiny_state.safetensors", num_heads=4)


@pytest.fixture(scope="module")
def out(golden: Path) -> dict[str, torch.Tensor]:
    return load_file(golden / "dit_tiny_outputs.safetensors")


def gap(ours: torch.Tensor, published: torch.Tensor) -> float:
    """Largest difference, relative where the published value is above 1."""
    return ((ours - published).abs() / published.abs().clamp(min=1)).max().item()


def test_q_sample_is_the_published_one(out):
    assert gap(Diffusion().q_sample(out["x0"], out["t"], out["noise"]), out["q_sample"]) < 1e-6


def test_losses_are_the_published_ones(model, out):
    with torch.no_grad():
        losses = Diffusion().training_losses(model, out["x0"], out["t"], out["noise"], y=out["y"])
    for key in ("mse", "vb", "loss"):
        assert losses[key].shape == (6,)
        assert gap(losses[key], out[f"loss_{key}"]) < TOLERANCE
    assert 0 in out["t"]  # so that the decoder term is among them


def test_posterior_is_the_published_one(model, out):
    with torch.no_grad():
        p = Diffusion().p_mean_variance(model, out["q_sample"], out["t"], y=out["y"])
    assert gap(p.mean, out["p_mean"]) < TOLERANCE
    assert gap(p.variance, out["p_variance"]) < TOLERANCE
    assert gap(p.log_variance, out["p_log_variance"]) < TOLERANCE
    # x0 = (x_t - sqrt(1 - abar) eps) / sqrt(abar): at t = 999 rounding is magnified 157-fold.
    shrink = torch.from_numpy(Diffusion().alphas_cumprod).sqrt()[out["t"]].reshape(-1, 1, 1, 1)
    assert gap(p.x0 * shrink, out["p_pred_xstart"] * shrink) < TOLERANCE


@pytest.mark.parametrize("spacing", ["50", "250", "ddim20"])
def test_timesteps_are_the_published_ones(golden, spacing):
    meta = json.loads((golden / "dit_tiny_meta.json").read_text())
    assert respaced_timesteps(1000, spacing) == meta[f"use_timesteps_{spacing}"]


@pytest.mark.parametrize("spacing", ["0", "1001", "ten", "ddim0", "ddim300", "-5", ""])
def test_impossible_step_counts_are_refused(spacing):
    with pytest.raises(UserError, match=r"steps"):
        respaced_timesteps(1000, spacing)


def test_respacing_keeps_the_marginals():
    full, short = Diffusion(), Diffusion().respaced("250")
    assert np.array_equal(short.alphas_cumprod, full.alphas_cumprod[short.timesteps])
    assert np.allclose(np.cumprod(1 - short.betas), short.alphas_cumprod, rtol=1e-12)
    assert full.betas[0] == pytest.approx(1e-4) and full.betas[-1] == pytest.approx(0.02)
    t = torch.tensor([0, 249])
    assert short.model_timesteps(t).tolist() == [0, 999]
    assert len(Diffusion().respaced("1")) == 1


def test_posterior_matches_gaussian_conditioning():
    """q(x_{t-1} | x_t, x0) from Bayes' rule on the joint Gaussian, in float64."""
    diffusion = Diffusion()
    t, x0, x_t = 400, 0.7, -0.4
    bar_prev, beta = diffusion.alphas_cumprod[t - 1], diffusion.betas[t]
    precision = 1 / (1 - bar_prev) + (1 - beta) / beta
    mean = (
        math.sqrt(bar_prev) * x0 / (1 - bar_prev) + math.sqrt(1 - beta) * x_t / beta
    ) / precision
    assert diffusion.posterior_variance[t] == pytest.approx(1 / precision, rel=1e-9)
    ours = diffusion.q_posterior_mean(
        torch.full((1, 1), x0), torch.full((1, 1), x_t), torch.tensor([t])
    )
    assert ours.item() == pytest.approx(mean, rel=1e-5)


def test_bound_is_zero_for_the_true_posterior():
    """Exact noise and v = -1 (variance beta-tilde) make p equal to q for t > 0."""
    noise = torch.randn(3, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    x0 = torch.randn(3, 4, 8, 8, generator=torch.Generator().manual_seed(1))
    t = torch.tensor([1, 300, 999])
    exact = torch.cat([noise, torch.full_like(noise, -1.0)], dim=1)
    losses = Diffusion().training_losses(lambda x, t: exact, x0, t, noise)
    assert losses["mse"].abs().max() == 0
    assert losses["vb"].abs().max() < 1e-5


def test_bound_trains_the_variance_only():
    x0, noise = torch.randn(2, 4, 4, 4), torch.randn(2, 4, 4, 4)
    output = torch.randn(2, 8, 4, 4, requires_grad=True)
    losses = Diffusion().training_losses(lambda x, t: output, x0, torch.tensor([0, 500]), noise)
    (gradient,) = torch.autograd.grad(losses["vb"].sum(), output, retain_graph=True)
    assert gradient[:, :4].abs().max() == 0
    assert gradient[:, 4:].abs().max() > 0
    (gradient,) = torch.autograd.grad(losses["mse"].sum(), output)
    assert gradient[:, 4:].abs().max() == 0
    assert torch.allclose(gradient[:, :4], 2 * (output[:, :4] - noise) / 64)


def test_loss_stays_float32_under_autocast(model, out):
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        losses = Diffusion().training_losses(model, out["x0"], out["t"], out["noise"], y=out["y"])
    assert all(value.dtype == torch.float32 for value in losses.values())
    ratio = losses["mse"] / out["loss_mse"]
    assert (ratio - 1).abs().max() < 0.02


def test_tables_cached_in_inference_serve_training():
    diffusion, x = Diffusion(), torch.randn(1, 1, 2, 2)
    with torch.inference_mode():
        diffusion.q_sample(x, torch.tensor([3]), x)
    weight = torch.ones(1, requires_grad=True)
    diffusion.q_sample(x * weight, torch.tensor([3]), x).sum().backward()
    assert weight.grad is not None


def test_missing_variance_channels_are_named():
    with pytest.raises(ValueError, match="learn_sigma"):
        x = torch.randn(1, 4, 4, 4)
        Diffusion().training_losses(lambda x, t: x, x, torch.tensor([5]), x)
