"""Samplers: the published DDIM chain, exact Gaussian answers, noise by slot, guidance."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from core.errors import UserError
from dit.diffusion.gaussian import Diffusion
from dit.diffusion.noise import slot_noise
from dit.diffusion.samplers import SAMPLERS, STREAM, denoise, guided, sample_latents
from dit.model.published import load_official
from dit.model.transformer import DiT

SHAPE = (4, 8, 8)
STD = 0.6  # of the Gaussian data below


def gaussian(x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
    """The ideal model of data N(0, STD**2): E[noise | x_t], and the variance beta-tilde."""
    bar = torch.from_numpy(Diffusion().alphas_cumprod).float()[t.long()].reshape(-1, 1, 1, 1)
    eps = (1 - bar).sqrt() / (bar * STD**2 + 1 - bar) * x
    return torch.cat([eps, torch.full_like(eps, -1.0)], dim=1)


@pytest.fixture(scope="module")
def net() -> DiT:
    torch.manual_seed(3)
    model = DiT(8, 2, 4, 32, 2, 2, num_classes=2)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape) * 0.05)
    return model.eval()


def test_ddim_is_the_published_chain(golden: Path):
    model = load_official(golden / "dit_tiny_state.safetensors", num_heads=4)
    out = load_file(golden / "dit_tiny_outputs.safetensors")
    with torch.no_grad():
        ours = denoise(model, out["noise"], sampler="ddim", steps=20, y=out["y"])
    published = out["ddim20_eta0_from_noise"]
    scale = published.abs().max()  # a random net: latents grow to hundreds
    assert ((ours - published).abs().max() / scale) < 1e-5


@pytest.mark.parametrize(("sampler", "steps", "off"), [("ddim", 100, 0.03), ("dpmpp", 20, 0.02)])
def test_deterministic_samplers_follow_the_flow(sampler, steps, off):
    """The probability flow of Gaussian data ends at STD times the starting noise."""
    start = slot_noise(0, STREAM, 0, range(8), SHAPE)
    end = denoise(gaussian, start, sampler=sampler, steps=steps)
    assert (end / start / STD - 1).abs().max() < off


def test_ddpm_draws_the_data_distribution():
    """With the exact reverse variance in its variance channels, 25 steps lose no spread."""
    chain = Diffusion().respaced("25")
    spread = chain.alphas_cumprod_prev * STD**2 + 1 - chain.alphas_cumprod_prev
    exact = np.log(1 / (1 / spread + (1 - chain.betas) / chain.betas))
    low, high = np.log(np.maximum(chain.posterior_variance, 1e-20)), np.log(chain.betas)
    low[0] = low[1]
    v = torch.zeros(1000)
    v[chain.timesteps] = torch.from_numpy(2 * (exact - low) / (high - low) - 1).float()

    def ideal(x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        variance = v[t].reshape(-1, 1, 1, 1).expand_as(x)
        return torch.cat([gaussian(x, t)[:, :4], variance], dim=1)

    drawn = sample_latents(ideal, SHAPE, 400, steps=25)
    assert drawn.std().item() == pytest.approx(STD, rel=0.01)
    assert drawn.mean().item() == pytest.approx(0, abs=0.01)
    assert (drawn / STD).pow(4).mean().item() == pytest.approx(3, abs=0.15)
    narrow = sample_latents(gaussian, SHAPE, 400, steps=25)  # v = -1: beta-tilde is too small
    assert narrow.std().item() < 0.95 * STD


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_a_sample_belongs_to_its_slot(net, sampler):
    y = torch.tensor([0, 1, 0, 1, 1, 0])
    options = {"sampler": sampler, "steps": 5, "seed": 7}
    whole = sample_latents(net, SHAPE, 6, model_kwargs={"y": y}, **options)
    parts = sample_latents(net, SHAPE, 6, batch=4, model_kwargs={"y": y}, **options)
    odd = sample_latents(net, SHAPE, [5, 1], model_kwargs={"y": y[[5, 1]]}, **options)
    tolerance = {"rtol": 1e-4, "atol": 1e-4}
    assert torch.allclose(whole, parts, **tolerance)
    assert torch.allclose(whole[[5, 1]], odd, **tolerance)
    assert not torch.allclose(whole[0], whole[2], atol=0.1)
    again = sample_latents(net, SHAPE, 6, model_kwargs={"y": y}, **options)
    assert torch.equal(whole, again)
    other = sample_latents(net, SHAPE, 6, model_kwargs={"y": y}, **{**options, "seed": 8})
    assert not torch.allclose(whole, other, atol=0.1)


def test_noise_is_normal_and_independent():
    noise = slot_noise(1, STREAM, 3, range(50), SHAPE)
    assert torch.equal(noise[[7, 3]], slot_noise(1, STREAM, 3, [7, 3], SHAPE))
    assert noise.std().item() == pytest.approx(1, abs=0.02)
    for seed, step in ((1, 4), (2, 3)):
        other = slot_noise(seed, STREAM, step, range(50), SHAPE)
        assert abs((noise * other).mean().item()) < 0.03
    assert abs((noise[:-1] * noise[1:]).mean().item()) < 0.03


def test_guidance(net):
    x, t = torch.randn(3, *SHAPE), torch.tensor([10, 500, 900])
    y, null = torch.tensor([0, 1, 0]), torch.full((3,), net.null_class)
    with torch.no_grad():
        conditional, free = net(x, t, y), net(x, t, null)
        every = guided(net, 4.0, {"y": null})(x, t, y=y)
        three = guided(net, 4.0, {"y": null}, channels=3)(x, t, y=y)
    wanted = free + 4.0 * (conditional - free)
    assert torch.allclose(every[:, :4], wanted[:, :4], atol=1e-5)
    assert torch.allclose(every[:, 4:], conditional[:, 4:], atol=1e-5)
    assert torch.allclose(three[:, :3], wanted[:, :3], atol=1e-5)
    assert torch.allclose(three[:, 3:], conditional[:, 3:], atol=1e-5)
    options = {"sampler": "ddim", "steps": 4, "model_kwargs": {"y": y}}
    plain = sample_latents(net, SHAPE, 3, **options)
    strong = sample_latents(net, SHAPE, 3, guidance=4.0, null_kwargs={"y": null}, **options)
    assert not torch.allclose(plain, strong, atol=1e-2)


def test_model_is_evaluated_and_left_as_it_was(net):
    net.train()
    y = torch.zeros(2, dtype=torch.int64)
    drawn = sample_latents(net, SHAPE, 2, sampler="ddim", steps=2, model_kwargs={"y": y})
    assert net.training
    net.eval()
    again = sample_latents(net, SHAPE, 2, sampler="ddim", steps=2, model_kwargs={"y": y})
    assert torch.equal(drawn, again) and not net.training


def test_bfloat16_stays_near(net):
    options = {"sampler": "ddim", "steps": 5, "model_kwargs": {"y": torch.tensor([0, 1])}}
    exact = sample_latents(net, SHAPE, 2, **options)
    rough = sample_latents(net, SHAPE, 2, precision="bf16", **options)
    assert rough.dtype == torch.float32
    assert 0 < (exact - rough).abs().max() < 0.05 * exact.abs().max()


def test_steps_are_counted_and_checked():
    seen: list[int] = []
    sample_latents(gaussian, SHAPE, 1, sampler="dpmpp", steps=7, on_step=seen.append)
    assert seen == list(range(1, 8))
    with pytest.raises(UserError, match="unknown sampler"):
        denoise(gaussian, torch.zeros(1, *SHAPE), sampler="euler")  # type: ignore[arg-type]
    with pytest.raises(UserError, match="even stride"):
        sample_latents(gaussian, SHAPE, 1, sampler="ddim", steps=300)
    with pytest.raises(UserError, match="1 to 1000"):
        sample_latents(gaussian, SHAPE, 1, sampler="dpmpp", steps=0)
    assert sample_latents(gaussian, SHAPE, 0).shape == (0, *SHAPE)
