"""Near infrared of images that have red, green and blue alone, and a VAE of four bands for them.

With r, g, b and n (near infrared) on the VAE's scale, x / 127.5 - 1, two least squares models:

    linear      n = bias + a . (r, g, b)
    quadratic   n = bias + a . (r, g, b, r^2, g^2, b^2, rg, rb, gb)

Neither knows what a thing is: plants of one green are told apart by near infrared and by no model
of colours. How much of it colours tell is r2, on images that were not fitted.
"""

from __future__ import annotations

import copy
import dataclasses
import json
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from core.atomic import write_json
from core.errors import UserError
from dit.vae.autoencoder import Vae

if TYPE_CHECKING:
    import torch

FILE = "infrared.json"
Form = Literal["quadratic", "linear", "mean"]

_FOLDS = 5  # of which the last is for r2
_PIXELS = 4096  # of an image, on a regular grid: neighbours say the same again
_RIDGE = 1e-6  # of the mean square; settles colours that are multiples of each other (grey images)
_TERMS = {"linear": 4, "quadratic": 10}  # with the constant


@dataclasses.dataclass(frozen=True)
class InfraredModel:
    """Near infrared from red, green and blue, fitted by `fit_infrared`.

    Attributes:
        linear, quadratic: weights in the order of the module's equations, the bias first.
        r2: {"linear", "quadratic"}: 1 - mean square error / variance, of pixels not fitted.
        mean, std: of near infrared, 0..255.
        images: images seen.
    """

    linear: tuple[float, ...]
    quadratic: tuple[float, ...]
    r2: dict[str, float]
    mean: float
    std: float
    images: int

    def predict(self, rgb: np.ndarray, form: Form = "quadratic") -> np.ndarray:
        """Near infrared, uint8 [...], of red, green and blue, uint8 [..., 3].

        "mean" gives the mean everywhere. Raises ValueError for other arrays.
        """
        if rgb.dtype != np.uint8 or rgb.shape[-1] != 3:
            raise ValueError(f"expected uint8 [..., 3], found {rgb.dtype} {rgb.shape}")
        if form == "mean":
            return np.full(rgb.shape[:-1], round(self.mean), np.uint8)
        weights = np.array(self.linear if form == "linear" else self.quadratic)
        flat = rgb.reshape(-1, 3)
        found = np.empty(len(flat), np.uint8)
        for start in range(0, len(flat), 1 << 18):  # terms take ten times the pixels' memory
            part = _terms(flat[start : start + (1 << 18)], len(weights)) @ weights
            found[start : start + len(part)] = np.clip(np.rint(127.5 * (part + 1)), 0, 255)
        return found.reshape(rgb.shape[:-1])

    def fill(self, rgb: np.ndarray, form: Form = "quadratic") -> np.ndarray:
        """Four bands, uint8 [..., 4]: `rgb`, uint8 [..., 3], and its prediction."""
        return np.concatenate([rgb, self.predict(rgb, form)[..., None]], axis=-1)

    def to_json(self) -> dict[str, Any]:
        """As JSON values."""
        return {**dataclasses.asdict(self), "scale": "x / 127.5 - 1"}

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> InfraredModel:
        """The inverse of `to_json`. Raises ValueError for what is none."""
        try:
            model = cls(
                linear=tuple(float(w) for w in value["linear"]),
                quadratic=tuple(float(w) for w in value["quadratic"]),
                r2={name: float(value["r2"][name]) for name in _TERMS},
                mean=float(value["mean"]),
                std=float(value["std"]),
                images=int(value["images"]),
            )
        except (KeyError, TypeError) as error:
            raise ValueError(f"not a model of near infrared ({error!r})") from None
        for name, terms in _TERMS.items():
            weights = getattr(model, name)
            if len(weights) != terms or not np.isfinite(weights).all():
                raise ValueError(f"'{name}' is not {terms} finite numbers")
        if not 0 <= model.mean <= 255:
            raise ValueError(f"mean {model.mean} is not in 0..255")
        return model


def fit_infrared(batches: Iterable[np.ndarray]) -> InfraredModel:
    """Fit near infrared to red, green and blue by least squares, in one pass.

    Args:
        batches: uint8 N x H x W x 4. Every fifth image is for r2 alone (of fewer images the last;
            of one, its lowest rows).

    Raises ValueError for other arrays, or none.
    """
    squares = np.zeros((_FOLDS, 10 + 1, 10 + 1))  # of [terms, n], of each fold
    count, first = 0, None
    for batch in batches:
        if batch.dtype != np.uint8 or batch.ndim != 4 or batch.shape[3] != 4:
            raise ValueError(f"expected uint8 N x H x W x 4, found {batch.dtype} {batch.shape}")
        for image in batch:
            first = image if first is None else first
            squares[count % _FOLDS] += _squares(image)
            count += 1
    if first is None:
        raise ValueError("no images to fit near infrared to")
    if count == 1:
        cut = first.shape[0] * (_FOLDS - 1) // _FOLDS
        squares[0], squares[1] = _squares(first[:cut]), _squares(first[cut:])
    last = int(np.flatnonzero(squares[:, 0, 0])[-1])
    held, fitted = squares[last], squares[:last].sum(axis=0)
    if not fitted[0, 0]:
        raise ValueError(f"an image of {first.shape[0]} rows is too small to fit and to measure")
    weights = {name: _solve(fitted, terms) for name, terms in _TERMS.items()}
    total = squares.sum(axis=0)
    mean = total[0, -1] / total[0, 0]
    std = float(np.sqrt(max(0.0, total[-1, -1] / total[0, 0] - mean**2)))
    return InfraredModel(
        linear=tuple(weights["linear"].tolist()),
        quadratic=tuple(weights["quadratic"].tolist()),
        r2={name: _r2(held, weights[name]) for name in _TERMS},
        mean=float(127.5 * (mean + 1)),
        std=127.5 * std,
        images=count,
    )


def write_infrared(folder: Path, model: InfraredModel) -> Path:
    """Write FILE beside a VAE's weights. Returns its path."""
    path = folder / FILE
    write_json(path, model.to_json())
    return path


def read_infrared(folder: Path) -> InfraredModel:
    """The model beside a VAE's weights (or beside the folder of its export: last/, ema/).

    Raises UserError where there is none, or it is damaged.
    """
    places = [folder / FILE, *([folder.parent / FILE] if folder.name in ("last", "ema") else [])]
    path = next((place for place in places if place.is_file()), None)
    if path is None:
        raise UserError(
            f"{folder / FILE}: missing; it says how near infrared follows from red, green and "
            "blue. dit.train_vae writes it beside a VAE of four bands; for one from elsewhere "
            "write it by dit.vae.infrared.fit_infrared of four-band images, or give data of four "
            "bands (--bands native)"
        )
    try:
        return InfraredModel.from_json(json.loads(path.read_text(encoding="utf-8")))
    except ValueError as error:
        raise UserError(f"{path}: {error}; train the VAE again, or fit it again") from None


def split_rgb(vae: Vae, model: InfraredModel) -> Vae:
    """A VAE of red, green and blue split off one of four bands; its latents mean the same.

    The linear model n = b + a . (r, g, b) is folded into the encoder's first convolution,

        W'[:, c] = W[:, c] + a_c W[:, 3],   bias' = bias + b sum W[:, 3],

    and the last one of the decoder keeps the outputs of red, green and blue. Where the convolution
    reaches over the border it sees zeros, and not b as near infrared: one pixel along the edges
    differs from the VAE of four bands with the predicted band. Fingerprint and scale are those of
    `vae`, which is left as it is. Raises ValueError for a VAE of other bands.
    """
    import torch

    if vae.in_channels != 4:
        raise ValueError(f"{vae.folder}: {vae.in_channels} bands, expected four")
    network = copy.deepcopy(vae.model)
    bias, *slopes = model.linear
    with torch.no_grad():
        first = network.encoder.conv_in
        infrared = first.weight[:, 3:4]
        a = first.weight.new_tensor(slopes).view(1, 3, 1, 1)
        first.weight = torch.nn.Parameter(first.weight[:, :3] + a * infrared, requires_grad=False)
        first.bias.add_(bias * infrared.sum(dim=(1, 2, 3)))
        first.in_channels = 3
        last = network.decoder.conv_out
        last.weight = torch.nn.Parameter(last.weight[:3].clone(), requires_grad=False)
        last.bias = torch.nn.Parameter(last.bias[:3].clone(), requires_grad=False)
        last.out_channels = 3
    network.register_to_config(in_channels=3, out_channels=3)
    return dataclasses.replace(vae, in_channels=3, model=network)


@dataclasses.dataclass(frozen=True)
class FilledVae(Vae):
    """A VAE of four bands that encodes images of three: near infrared is filled in by a model.

    It decodes four bands. See `fill_bands`.
    """

    infrared: InfraredModel
    form: Form

    def encode(
        self, images: torch.Tensor, batch_size: int = 32
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """As Vae.encode, of float N x 3 x H x W in [-1, 1]; what is predicted is limited to it."""
        import torch

        if images.ndim != 4 or images.shape[1] != 3:
            raise ValueError(f"expected N x 3 x H x W, got {tuple(images.shape)}")
        means, stds = [], []
        for part in images.split(batch_size):
            part = part.to(self.model.device)
            both = torch.cat([part, self._infrared(part)], dim=1)
            mean, std = super().encode(both, batch_size)
            means.append(mean)
            stds.append(std)
        return torch.cat(means), torch.cat(stds)

    def _infrared(self, images: torch.Tensor) -> torch.Tensor:
        """N x 1 x H x W. On the device: a training step asks for millions of pixels."""
        import torch

        if self.form == "mean":
            return torch.full_like(images[:, :1], self.infrared.mean / 127.5 - 1)
        r, g, b = images.split(1, dim=1)
        terms = [torch.ones_like(r), r, g, b]
        if self.form == "quadratic":
            terms += [r * r, g * g, b * b, r * g, r * b, g * b]
        weights = getattr(self.infrared, self.form)
        found = sum(w * term for w, term in zip(weights, terms, strict=True))
        assert isinstance(found, torch.Tensor)
        return found.clamp(-1, 1)


def fill_bands(vae: Vae, model: InfraredModel, form: Form) -> FilledVae:
    """`vae`, of four bands, for images of three: `model` gives near infrared in the form stated.

    Fingerprint and scale are those of `vae`. Raises ValueError for a VAE of other bands.
    """
    if vae.in_channels != 4:
        raise ValueError(f"{vae.folder}: {vae.in_channels} bands, expected four")
    own = {field.name: getattr(vae, field.name) for field in dataclasses.fields(Vae)}
    return FilledVae(**own, infrared=model, form=form)


def _terms(rgb: np.ndarray, count: int) -> np.ndarray:
    """float64 [n, count] of uint8 [n, 3]: 1, the colours and, of ten, their products."""
    x = rgb.astype(np.float64) / 127.5 - 1
    parts = [np.ones((len(x), 1)), x]
    if count == 10:
        parts += [x**2, x[:, [0]] * x[:, 1:], x[:, [1]] * x[:, [2]]]
    return np.concatenate(parts, axis=1)


def _squares(image: np.ndarray) -> np.ndarray:
    """[terms, n]^T [terms, n] over the pixels of an image on a regular grid."""
    stride = int(np.ceil(np.sqrt(image.shape[0] * image.shape[1] / _PIXELS)))
    pixels = image[::stride, ::stride].reshape(-1, 4)
    n = pixels[:, 3:].astype(np.float64) / 127.5 - 1
    both = np.concatenate([_terms(pixels[:, :3], 10), n], axis=1)
    return both.T @ both


def _solve(squares: np.ndarray, terms: int) -> np.ndarray:
    a = squares[:terms, :terms].copy()
    a[range(1, terms), range(1, terms)] += _RIDGE * squares[0, 0]  # the bias is not shrunk
    return np.linalg.solve(a, squares[:terms, -1])


def _r2(squares: np.ndarray, weights: np.ndarray) -> float:
    """Of the pixels that made `squares`; 0 where their near infrared is one value."""
    count, terms = squares[0, 0], len(weights)
    error = squares[-1, -1] - 2 * weights @ squares[:terms, -1]
    error += weights @ squares[:terms, :terms] @ weights
    variance = squares[-1, -1] - squares[0, -1] ** 2 / count
    return float(1 - max(0.0, error) / variance) if variance > 1e-9 * count else 0.0
