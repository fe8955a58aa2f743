"""Drawing latents from a trained model: DDPM with learned variance, DDIM, DPM-Solver++.

A sample belongs to its slot: its starting noise and the noise of every step are functions of
(seed, step, slot), so sample 17 is the same (to float rounding) in a batch of 1 or 100, on one
process or eight. Latents come out on the scale the model was trained on; nothing is clipped.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor, nn

from core.errors import UserError
from dit.diffusion.gaussian import Diffusion, Model
from dit.diffusion.noise import slot_noise

Sampler = Literal["ddpm", "ddim", "dpmpp"]
SAMPLERS = ("ddpm", "ddim", "dpmpp")
STREAM = 16  # of the noise; training's streams of the same seed are below 16


def guided(
    model: Model, scale: float, null_kwargs: Mapping[str, Any], channels: int | None = None
) -> Model:
    """Classifier-free guidance (arXiv 2207.12598): eps = eps_null + scale (eps - eps_null).

    Args:
        model: called once a step with the batch doubled.
        scale: 1 is no guidance.
        null_kwargs: what replaces model_kwargs in the unconditional half (y=null class).
        channels: guide only the first so many noise channels; None is all. DiT's published
            figures guide 3 of 4. Other channels and the variance are the conditional ones.
    """

    def call(x: Tensor, t: Tensor, **kwargs: Any) -> Tensor:
        doubled = {
            name: torch.cat([value, null_kwargs.get(name, value)])
            if isinstance(value, Tensor)
            else value
            for name, value in kwargs.items()
        }
        output = model(torch.cat([x, x]), torch.cat([t, t]), **doubled)
        conditional, null = output.float().chunk(2)
        first = x.shape[1] if channels is None else channels
        eps = null[:, :first] + scale * (conditional[:, :first] - null[:, :first])
        return torch.cat([eps, conditional[:, first:]], dim=1)

    return call


def respaced_for(sampler: Sampler, steps: int, diffusion: Diffusion) -> Diffusion:
    """The process over the timesteps that ddpm and ddim visit; dpmpp takes it as it is.

    Raises UserError for an unknown sampler or a number of steps that it cannot take.
    """
    if sampler not in SAMPLERS:
        raise UserError(f"unknown sampler '{sampler}' (known: {', '.join(SAMPLERS)})")
    if sampler == "dpmpp":
        if not 1 <= steps <= diffusion.trained_steps:
            raise UserError(f"sampling steps '{steps}': expected 1 to {diffusion.trained_steps}")
        return diffusion
    return diffusion.respaced(f"ddim{steps}" if sampler == "ddim" else str(steps))


def denoise(
    model: Model,
    x: Tensor,
    *,
    sampler: Sampler = "ddpm",
    steps: int = 250,
    noise: Callable[[int], Tensor] | None = None,
    diffusion: Diffusion | None = None,
    on_step: Callable[[int], None] | None = None,
    **model_kwargs: Any,
) -> Tensor:
    """Run the reverse chain from x, starting noise [n, C, h, w] float32.

    Args:
        sampler: 'ddpm' draws from the learned-variance posterior over `steps` evenly spread
            timesteps (DiT's own); 'ddim' is deterministic (eta 0) over every k-th timestep;
            'dpmpp' is second-order DPM-Solver++ of diffusers, deterministic, variance unused.
        steps: model evaluations.
        noise: i -> noise of the i-th step (1-based), shaped as x; ddpm needs it.
        diffusion: the trained process (1000 linear betas by default).
        on_step: called with the number of finished steps.
        model_kwargs: given to the model at each step (y=..., condition=...).
    Raises UserError for an unknown sampler or an impossible number of steps.
    """
    diffusion = diffusion or Diffusion()
    short = respaced_for(sampler, steps, diffusion)
    if sampler == "dpmpp":
        return _dpm_solver(model, x, steps, diffusion, on_step, model_kwargs)
    for done, index in enumerate(range(steps - 1, -1, -1), start=1):
        t = torch.full((len(x),), index, dtype=torch.int64, device=x.device)
        p = short.p_mean_variance(model, x, t, **model_kwargs)
        if sampler == "ddim":
            # DDIM (arXiv 2010.02502), Eq. 12 with sigma = 0.
            bar_prev = float(short.alphas_cumprod_prev[index])
            x = bar_prev**0.5 * p.x0 + (1.0 - bar_prev) ** 0.5 * p.eps
        elif index > 0:
            if noise is None:
                raise ValueError("the ddpm sampler needs noise for its steps")
            x = p.mean + torch.exp(0.5 * p.log_variance) * noise(done).to(x.device)
        else:
            x = p.mean
        if on_step:
            on_step(done)
    return x


def _dpm_solver(
    model: Model,
    x: Tensor,
    steps: int,
    diffusion: Diffusion,
    on_step: Callable[[int], None] | None,
    model_kwargs: Mapping[str, Any],
) -> Tensor:
    """DPM-Solver++(2M) (arXiv 2211.01095).

    Steps are even in the log signal-to-noise ratio: for Gaussian data of standard deviation
    0.3 the error after 20 steps is 1 % with it and 14 % with even timesteps.
    """
    from diffusers import DPMSolverMultistepScheduler

    scheduler: Any = DPMSolverMultistepScheduler(
        num_train_timesteps=diffusion.trained_steps,
        trained_betas=diffusion.betas.tolist(),
        prediction_type="epsilon",
        algorithm_type="dpmsolver++",
        solver_order=2,
        use_lu_lambdas=True,
    )
    scheduler.set_timesteps(steps, device=x.device)
    for done, timestep in enumerate(scheduler.timesteps, start=1):
        t = timestep.expand(len(x))
        eps = model(x, t, **model_kwargs).float()[:, : x.shape[1]]
        x = scheduler.step(eps, timestep, x).prev_sample
        if on_step:
            on_step(done)
    return x


@contextlib.contextmanager
def _evaluating(model: Model) -> Iterator[None]:
    """eval() for the while, so that no dropout is active, then the mode it was in."""
    training = isinstance(model, nn.Module) and model.training
    if isinstance(model, nn.Module):
        model.eval()
    try:
        yield
    finally:
        if isinstance(model, nn.Module):
            model.train(training)


def sample_latents(
    model: Model,
    shape: Sequence[int],
    slots: int | Sequence[int],
    *,
    sampler: Sampler = "ddpm",
    steps: int = 250,
    seed: int = 0,
    device: torch.device | str | None = None,
    precision: str = "fp32",
    batch: int | None = None,
    guidance: float = 1.0,
    guided_channels: int | None = None,
    null_kwargs: Mapping[str, Any] | None = None,
    model_kwargs: Mapping[str, Any] | None = None,
    diffusion: Diffusion | None = None,
    on_step: Callable[[int], None] | None = None,
) -> Tensor:
    """Draw one latent for each slot, float32 [n, *shape] on the model's device.

    Args:
        model: called as model(x_t, t, **model_kwargs); a module is put in eval mode meanwhile.
        shape: (C, h, w) of one latent.
        slots: sample numbers; an integer n is 0..n-1. Fixes the noise, with `seed`.
        sampler, steps, diffusion, on_step: see `denoise` (on_step starts over in each batch).
        device: where to sample; None is where the module's parameters are, else the CPU.
        precision: 'fp32' or 'bf16' (autocast, the model only; the sampler's state is float32).
        batch: slots at a time; None is all at once.
        guidance, guided_channels, null_kwargs: see `guided`; 1.0 is without.
        model_kwargs: keyword arguments of the model; tensors have one row for each slot.
    """
    if precision not in ("fp32", "bf16"):
        raise UserError(f"precision '{precision}': expected fp32 or bf16")
    numbers = list(range(slots)) if isinstance(slots, int) else [int(slot) for slot in slots]
    if device is None:
        first = next(model.parameters(), None) if isinstance(model, nn.Module) else None
        device = first.device if first is not None else "cpu"
    place = torch.device(device)
    predictor = model
    parts = []
    with _evaluating(model), torch.inference_mode():
        for start in range(0, len(numbers), batch or max(1, len(numbers))):
            chunk = numbers[start : start + (batch or len(numbers))]
            rows = slice(start, start + len(chunk))
            if guidance != 1.0:
                null = _rows(null_kwargs, rows, place)
                predictor = guided(model, guidance, null, guided_channels)
            with torch.autocast(place.type, torch.bfloat16, enabled=precision == "bf16"):
                parts.append(
                    denoise(
                        predictor,
                        slot_noise(seed, STREAM, 0, chunk, shape).to(place),
                        sampler=sampler,
                        steps=steps,
                        noise=partial(slot_noise, seed, STREAM, slots=chunk, shape=shape),
                        diffusion=diffusion,
                        on_step=on_step,
                        **_rows(model_kwargs, rows, place),
                    )
                )
    return torch.cat(parts) if parts else torch.empty(0, *shape, device=place)


def _rows(kwargs: Mapping[str, Any] | None, rows: slice, device: torch.device) -> dict[str, Any]:
    return {
        name: value[rows].to(device) if isinstance(value, Tensor) else value
        for name, value in (kwargs or {}).items()
    }
