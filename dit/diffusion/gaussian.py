"""Gaussian diffusion as DiT trains it: linear betas, eps-prediction, learned-range variance.

Symbols follow DDPM (Ho et al., arXiv 2006.11239) and Improved DDPM (Nichol & Dhariwal,
arXiv 2102.09672). Tables are made in float64; losses and posteriors are float32, whatever
precision the model runs in.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from core.errors import UserError

Model = Callable[..., Tensor]


class Prediction(NamedTuple):
    """p(x_{t-1} | x_t) as the model has it, all [n, C, h, w] float32."""

    mean: Tensor
    variance: Tensor
    log_variance: Tensor
    x0: Tensor  # the denoised latent
    eps: Tensor


def respaced_timesteps(steps: int, spacing: str) -> list[int]:
    """Which of `steps` timesteps a shorter chain visits, ascending.

    Args:
        steps: length of the trained chain (1000).
        spacing: 'N' spreads N timesteps evenly over both ends, rounded; 'ddimN' takes every
            k-th from 0, for the k that gives exactly N.
    Raises UserError for a count that cannot be had.
    """
    digits = spacing.removeprefix("ddim")
    if not digits.isdecimal() or not 1 <= int(digits) <= steps:
        raise UserError(f"sampling steps '{spacing}': expected 1 to {steps}")
    count = int(digits)
    if spacing.startswith("ddim"):
        for stride in range(1, steps + 1):
            if len(range(0, steps, stride)) == count:
                return list(range(0, steps, stride))
        raise UserError(
            f"{count} steps cannot be had by an even stride through {steps}; "
            "10, 20, 25, 50, 100 and 250 can"
        )
    stride_wide = (steps - 1) / (count - 1) if count > 1 else 1.0
    chosen, at = [], 0.0
    for _ in range(count):
        chosen.append(round(at))
        at += stride_wide  # a running sum, as published: i * stride rounds otherwise at .5
    return chosen


class Diffusion:
    """The forward process, the training loss, and one step of the reverse process.

    Args:
        steps: length T of the trained chain.
        use_timesteps: the timesteps of it that this process visits (respaced sampling); None
            is all. Index t below counts within them; the model is always given the trained
            chain's own timestep.

    Attributes (float64 NumPy arrays over the visited timesteps): betas, alphas_cumprod,
    alphas_cumprod_prev, posterior_variance (beta-tilde); timesteps: the trained chain's own.
    """

    def __init__(self, steps: int = 1000, use_timesteps: Sequence[int] | None = None) -> None:
        # DDPM's endpoints belong to T = 1000; other lengths keep the total noise.
        betas = np.linspace(1e-4 * 1000 / steps, 0.02 * 1000 / steps, steps, dtype=np.float64)
        timesteps = list(range(steps)) if use_timesteps is None else sorted(set(use_timesteps))
        if not timesteps or timesteps[0] < 0 or timesteps[-1] >= steps:
            raise ValueError(f"timesteps must be in 0..{steps - 1}")
        self.trained_steps = steps
        self.timesteps = np.array(timesteps, dtype=np.int64)
        self.alphas_cumprod = np.cumprod(1.0 - betas)[self.timesteps]
        self.alphas_cumprod_prev = np.append(1.0, self.alphas_cumprod[:-1])
        # The visited chain's own betas; equal to the trained ones when all are visited.
        self.betas = 1.0 - self.alphas_cumprod / self.alphas_cumprod_prev
        bar, bar_prev = self.alphas_cumprod, self.alphas_cumprod_prev
        self.posterior_variance = self.betas * (1.0 - bar_prev) / (1.0 - bar)
        # beta-tilde is 0 at the last step; its logarithm borrows the next one's.
        clipped = self.posterior_variance.copy()
        clipped[0] = clipped[1] if len(clipped) > 1 else self.betas[0]
        self._tables = {
            "timesteps": self.timesteps,
            "alphas_cumprod_prev": bar_prev,
            "sqrt_alphas_cumprod": np.sqrt(bar),
            "sqrt_one_minus_alphas_cumprod": np.sqrt(1.0 - bar),
            "sqrt_recip_alphas_cumprod": np.sqrt(1.0 / bar),
            "sqrt_recipm1_alphas_cumprod": np.sqrt(1.0 / bar - 1.0),
            "min_log_variance": np.log(clipped),
            "max_log_variance": np.log(self.betas),
            "posterior_x0": self.betas * np.sqrt(bar_prev) / (1.0 - bar),
            "posterior_xt": (1.0 - bar_prev) * np.sqrt(1.0 - self.betas) / (1.0 - bar),
        }
        self._on_device: dict[tuple[str, torch.device], Tensor] = {}

    def __len__(self) -> int:
        return len(self.timesteps)

    def respaced(self, spacing: str) -> Diffusion:
        """The same process over fewer timesteps (see respaced_timesteps)."""
        steps = self.trained_steps
        return Diffusion(steps, respaced_timesteps(steps, spacing))

    def _table(self, name: str, device: torch.device) -> Tensor:
        key = (name, device)
        if key not in self._on_device:
            table = torch.from_numpy(self._tables[name])
            kind = torch.int64 if name == "timesteps" else torch.float32
            # Never an inference tensor: training may use a table that sampling cached.
            with torch.inference_mode(False):
                self._on_device[key] = table.to(kind).to(device)
        return self._on_device[key]

    def _at(self, name: str, t: Tensor, like: Tensor) -> Tensor:
        """Table value of each sample, float32 [n, 1, 1, ...]."""
        return self._table(name, t.device)[t].reshape(-1, *[1] * (like.ndim - 1))

    def q_sample(self, x0: Tensor, t: Tensor, noise: Tensor) -> Tensor:
        """x_t = sqrt(abar_t) x0 + sqrt(1 - abar_t) noise (DDPM, Eq. 4)."""
        signal = self._at("sqrt_alphas_cumprod", t, x0)
        return signal * x0 + self._at("sqrt_one_minus_alphas_cumprod", t, x0) * noise

    def q_posterior_mean(self, x0: Tensor, x_t: Tensor, t: Tensor) -> Tensor:
        """Mean of q(x_{t-1} | x_t, x0) (DDPM, Eq. 7)."""
        return self._at("posterior_x0", t, x0) * x0 + self._at("posterior_xt", t, x0) * x_t

    def model_timesteps(self, t: Tensor) -> Tensor:
        """Index within the visited timesteps -> the timestep that the model was trained on."""
        return self._table("timesteps", t.device)[t]

    def predict(self, output: Tensor, x_t: Tensor, t: Tensor) -> Prediction:
        """The reverse step's distribution from the model's output [n, 2C, h, w].

        The output's second half v in [-1, 1] interpolates the log variance between beta-tilde
        and beta (Improved DDPM, Eq. 15). Raises ValueError for other channel counts.
        """
        channels = x_t.shape[1]
        if output.shape[1] != 2 * channels:
            raise ValueError(
                f"the model gave {output.shape[1]} channels for {channels} latent channels; "
                f"expected {2 * channels} (noise and variance: learn_sigma=True)"
            )
        eps, v = output.float().split(channels, dim=1)
        low = self._at("min_log_variance", t, x_t)
        high = self._at("max_log_variance", t, x_t)
        fraction = (v + 1) / 2
        log_variance = fraction * high + (1 - fraction) * low
        x0 = (
            self._at("sqrt_recip_alphas_cumprod", t, x_t) * x_t
            - self._at("sqrt_recipm1_alphas_cumprod", t, x_t) * eps
        )
        mean = self.q_posterior_mean(x0, x_t, t)
        return Prediction(mean, log_variance.exp(), log_variance, x0, eps)

    def p_mean_variance(
        self, model: Model, x_t: Tensor, t: Tensor, **model_kwargs: Any
    ) -> Prediction:
        """Run the model at x_t, t [n] and give p(x_{t-1} | x_t); x0 is not clipped."""
        x_t = x_t.float()
        return self.predict(model(x_t, self.model_timesteps(t), **model_kwargs), x_t, t)

    def training_losses(
        self, model: Model, x0: Tensor, t: Tensor, noise: Tensor, **model_kwargs: Any
    ) -> dict[str, Tensor]:
        """DiT's hybrid loss of each sample, float32 [n] under each key.

        mse: mean squared error of the noise. vb: the variational bound's term at t in bits per
        dimension, which trains the variance only (its mean is detached) and is not rescaled.
        loss: their sum. model_kwargs go to the model (y=..., condition=...).
        """
        x0, noise = x0.float(), noise.float()
        x_t = self.q_sample(x0, t, noise)
        output = model(x_t, self.model_timesteps(t), **model_kwargs).float()
        with torch.autocast(x0.device.type, enabled=False):
            eps, v = output[:, : x0.shape[1]], output[:, x0.shape[1] :]
            vb = self._bound(torch.cat([eps.detach(), v], dim=1), x0, x_t, t)
            mse = _mean_per_sample((noise - eps).square())
        return {"loss": mse + vb, "mse": mse, "vb": vb}

    def _bound(self, output: Tensor, x0: Tensor, x_t: Tensor, t: Tensor) -> Tensor:
        """KL(q(x_{t-1}|x_t,x0) || p) for t > 0, decoder NLL at t = 0; bits per dimension."""
        p = self.predict(output, x_t, t)
        true_mean = self.q_posterior_mean(x0, x_t, t)
        true_log_variance = self._at("min_log_variance", t, x0)
        gap = true_log_variance - p.log_variance
        kl = 0.5 * (
            -1.0 - gap + gap.exp() + (true_mean - p.mean).square() * torch.exp(-p.log_variance)
        )
        nll = -_discretised_log_likelihood(x0, p.mean, 0.5 * p.log_variance)
        first = (t == 0).reshape(-1, *[1] * (x0.ndim - 1))
        return _mean_per_sample(torch.where(first, nll, kl)) / math.log(2.0)


def _mean_per_sample(values: Tensor) -> Tensor:
    return values.flatten(1).mean(dim=1)


def _normal_cdf(x: Tensor) -> Tensor:
    """Standard normal CDF, tanh approximation (the one behind the published figures)."""
    return 0.5 * (1.0 + torch.tanh(math.sqrt(2.0 / math.pi) * (x + 0.044715 * x**3)))


def _discretised_log_likelihood(x: Tensor, mean: Tensor, log_scale: Tensor) -> Tensor:
    """Log mass of the 1/255-wide bin around x under N(mean, scale) (DDPM, Eq. 13).

    Values beyond +-0.999 stand for the open outer bins. Latents are no 8-bit pixels, but this
    is the term that DiT is trained with at t = 0.
    """
    inverse = torch.exp(-log_scale)
    upper = _normal_cdf(inverse * (x - mean + 1.0 / 255.0))
    lower = _normal_cdf(inverse * (x - mean - 1.0 / 255.0))
    inside = (upper - lower).clamp(min=1e-12).log()
    left, right = upper.clamp(min=1e-12).log(), (1.0 - lower).clamp(min=1e-12).log()
    return torch.where(x < -0.999, left, torch.where(x > 0.999, right, inside))
