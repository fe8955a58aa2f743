"""The training's own loss of given latents, at timesteps and noise that are theirs for good.

For an image with key k the T timesteps of the chain are cut into D equal strata, and one timestep
is drawn in each:

    t_d = floor(T (d + u) / D),  u ~ U(0, 1) a function of (seed, k, d),  d = 0 .. D-1,

so the mean over d is an unbiased estimate of the loss that training minimises, the mean over
uniform t, with far less spread than D independent draws have. The noise and the posterior's sample
are functions of (seed, k, d) and (seed, k), too. None of them depends on the model, on the other
images or on the batch, so two models meet the same questions and can be compared in pairs.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Callable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from core.engines import ALONE, ProcessGroup
from core.errors import UserError
from core.progress import progress
from data.corpus.base import Corpus
from dit.diffusion.gaussian import Diffusion
from dit.diffusion.noise import philox, slot_noise
from dit.model.transformer import DiT
from dit.vae.autoencoder import Vae, to_unit
from dit.vae.images import batched, in_background, read_images
from dit.vae.listing import Listing
from eval.distances.bootstrap import bootstrap_interval

_TIMES, _POSTERIOR, _NOISE = 24, 25, 26  # streams; those of training and sampling are below
TERMS = ("loss", "mse", "vb")
_ENCODED = 32  # images at a time through the VAE


@dataclasses.dataclass(frozen=True)
class Losses:
    """What a model loses on n images, each at D timesteps. See the module for how they are drawn.

    Attributes:
        t: timesteps, int64 [n, D], row by row ascending.
        mse: mean squared error of the noise, float64 [n, D].
        vb: the variational bound's term, bits per dimension, float64 [n, D].
    """

    t: NDArray[np.int64]
    mse: NDArray[np.float64]
    vb: NDArray[np.float64]

    @property
    def loss(self) -> NDArray[np.float64]:
        """mse + vb, as dit.train minimises it."""
        return self.mse + self.vb

    def take(self, rows: Sequence[int] | NDArray[np.int64]) -> Losses:
        """These images."""
        return Losses(self.t[rows], self.mse[rows], self.vb[rows])

    def finite(self) -> bool:
        """False for a model whose weights have diverged."""
        return bool(np.isfinite(self.loss).all())


def encode(
    vae: Vae,
    corpus: Corpus,
    images: Listing,
    image_size: int,
    seed: int,
    label: str = "latents",
    group: ProcessGroup = ALONE,
) -> Tensor:
    """Scaled posterior samples of the images, float32 [n, C, h, w] on the CPU, never mirrored.

    z = scale (mean + std * noise) as in training, with a noise that is fixed for each (seed, key).
    The processes of a group encode a share each, and all of them have all latents.
    Raises UserError for an image that is gone, unreadable or no longer the one that was listed.
    """
    mine = group.share(len(images), _ENCODED)
    taker = f"the VAE {vae.folder}"
    found = read_images(
        corpus, images.take(mine), image_size, bands=vae.in_channels, taker=taker
    )
    with progress(total=len(mine), name=label, unit="img") as bar:
        parts: list[Tensor] = []
        start = mine.start
        for batch in in_background(batched(found, _ENCODED)):
            mean, std = (value.cpu() for value in vae.encode(to_unit(batch)))
            slots = slots_of(images.keys[start : start + len(batch)])
            noise = slot_noise(seed, _POSTERIOR, 0, slots, mean.shape[1:])
            parts.append(vae.scale * (mean + std * noise))
            start += len(batch)
            bar.update(len(batch))
    return torch.cat([part for each in group.exchange(parts) for part in each])


def slots_of(keys: Sequence[str]) -> list[int]:
    """A 64-bit number for each key, by which its random numbers are found."""
    return [int.from_bytes(hashlib.sha256(key.encode()).digest()[:8], "big") for key in keys]


def timesteps(keys: Sequence[str], seed: int, draws: int, steps: int) -> NDArray[np.int64]:
    """The timesteps of each image, int64 [len(keys), draws], one in each stratum of 0..steps-1."""
    out = np.empty((len(keys), draws), dtype=np.int64)
    for row, slot in zip(out, slots_of(keys), strict=True):
        uniform = (philox(seed, _TIMES, 0, slot).random_raw(draws) >> np.uint64(11)) * 2.0**-53
        row[:] = (np.arange(draws) + uniform) * steps / draws
    return out


def noise_of(keys: Sequence[str], seed: int, draw: int, shape: Sequence[int]) -> Tensor:
    """The diffusion's noise of each image at its timestep number `draw`: [len(keys), *shape]."""
    return slot_noise(seed, _NOISE, draw, slots_of(keys), shape)


def losses(
    model: DiT,
    latents: Tensor,
    keys: Sequence[str],
    *,
    seed: int,
    draws: int,
    batch: int = 64,
    device: str = "cpu",
    precision: str = "tf32",
    label: str = "loss",
    on_batch: Callable[[], None] | None = None,
    group: ProcessGroup = ALONE,
) -> Losses:
    """The training loss of latents [n, C, h, w] with these keys, at `draws` timesteps each.

    Args:
        model: on the device, in eval mode. Of several classes its null class is taken, since
            held-out images have no label.
        batch: latents at a time through the model; changes rounding only.
        precision: 'bf16' runs the network under autocast; losses are float32 all the same.
        on_batch: called before each batch.
        group: its processes take a share of the batches each, and all of them have all losses.

    Raises UserError for a model of classes without a null class, or without learned variance.
    """
    if model.out_channels != 2 * model.in_channels:
        raise UserError(
            f"the model predicts {model.out_channels} channels for {model.in_channels}; the loss "
            "needs noise and variance (learn_sigma)"
        )
    if model.num_classes > 1 and not model.class_dropout_prob:
        raise UserError(
            f"a model of {model.num_classes} classes without a null class: held-out images have "
            "no label; train with class dropout"
        )
    diffusion = Diffusion()
    times = timesteps(keys, seed, draws, len(diffusion))
    found = {name: np.empty(times.shape) for name in ("mse", "vb")}
    kind, half = torch.device(device).type, precision == "bf16"
    batches = [(draw, start) for draw in range(draws) for start in range(0, len(keys), batch)]
    mine = group.mine(batches)
    bar = progress(total=times.size // group.size, name=label, unit="loss")
    with bar, torch.inference_mode(), torch.autocast(kind, torch.bfloat16, enabled=half):
        for draw, start in mine:
            if on_batch is not None:
                on_batch()
            rows = slice(start, start + batch)
            x0 = latents[rows].to(device)
            noise = noise_of(keys[rows], seed, draw, x0.shape[1:]).to(device)
            extra = {}
            if model.num_classes > 1:
                extra["y"] = torch.full((len(x0),), model.null_class, device=device)
            t = torch.from_numpy(times[rows, draw]).to(device)
            terms = diffusion.training_losses(model, x0, t, noise, **extra)
            for name, values in found.items():
                values[rows, draw] = terms[name].double().cpu().numpy()
            bar.update(len(x0))
    for rank, theirs in enumerate(group.exchange(found)):
        for draw, start in dataclasses.replace(group, rank=rank).mine(batches):
            for name, values in found.items():
                rows = slice(start, start + batch)
                values[rows, draw] = theirs[name][rows, draw]
    return Losses(times, found["mse"], found["vb"])


def summary(found: Losses, bins: int) -> dict[str, object]:
    """Means over images and timesteps, with intervals, and means in each bin of timesteps.

    The number of timesteps must be a multiple of `bins`. An interval is a bootstrap over images:
    of other images from where these came, with the same weights.
    """
    out: dict[str, object] = {"n": len(found.t)}
    for name in TERMS:
        each = getattr(found, name).mean(axis=1)
        interval = bootstrap_interval(each)
        out[name] = {"value": float(each.mean()), "interval_95": list(interval)}
    steps, width = len(Diffusion()), found.t.shape[1] // bins
    out["bins"] = [
        {
            "timesteps": [steps * b // bins, steps * (b + 1) // bins - 1],
            **{
                name: float(getattr(found, name)[:, b * width : (b + 1) * width].mean())
                for name in TERMS
            },
        }
        for b in range(bins)
    ]
    return out
