"""Near infrared from red, green and blue, and the RGB VAE split off one of four bands."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from core.errors import UserError
from dit.vae.autoencoder import load_vae, to_unit
from dit.vae.infrared import (
    InfraredModel,
    fit_infrared,
    read_infrared,
    split_rgb,
    write_infrared,
)
from tests.dit.tiny_vae import save_tiny_vae


def images(count: int, seed: int = 0, side: int = 24) -> np.ndarray:
    """Near infrared is a quadratic in the colours, and some noise."""
    rng = np.random.default_rng(seed)
    rgb = rng.integers(50, 206, (count, side, side, 3))
    r, g, b = np.moveaxis(rgb / 127.5 - 1, -1, 0)
    n = 0.2 + 0.5 * g - 0.3 * r + 0.4 * g * g - 0.5 * r * b
    pixels = 127.5 * (n + 1) + rng.normal(0, 4, n.shape)
    assert pixels.min() > 0 and pixels.max() < 255
    return np.concatenate([rgb, pixels.round()[..., None]], axis=-1).astype(np.uint8)


def test_least_squares_finds_the_weights() -> None:
    model = fit_infrared([images(6), images(5, 1)])
    expected = [0.2, -0.3, 0.5, 0, 0, 0.4, 0, 0, -0.5, 0]
    np.testing.assert_allclose(model.quadratic, expected, atol=0.02)
    pixels = np.concatenate([images(6), images(5, 1)])
    # r2 by its formula on the images that were not fitted: every fifth.
    held = pixels[4::5].astype(float)
    for form in ("linear", "quadratic"):
        error = held[..., 3] - model.predict(pixels[4::5, ..., :3], form)
        slow = 1 - (error**2).mean() / held[..., 3].var()
        assert model.r2[form] == pytest.approx(slow, abs=2e-3)
    assert model.r2["quadratic"] > model.r2["linear"] + 0.02
    assert (model.mean, model.std) == pytest.approx(
        (pixels[..., 3].mean(), pixels[..., 3].std()), rel=1e-6
    )
    assert (model.predict(pixels[..., :3], "mean") == round(model.mean)).all()
    assert (model.fill(pixels[..., :3])[..., :3] == pixels[..., :3]).all()


def test_one_image_and_grey_ones_are_enough() -> None:
    assert fit_infrared([images(1)]).r2["quadratic"] > 0.9
    grey = images(3)
    grey[..., 1:3] = grey[..., :1]
    assert np.isfinite(fit_infrared([grey]).quadratic).all()
    flat = np.full((2, 8, 8, 4), 7, np.uint8)
    assert fit_infrared([flat]).r2 == {"linear": 0.0, "quadratic": 0.0}
    with pytest.raises(ValueError, match="no images"):
        fit_infrared([])
    with pytest.raises(ValueError, match="x 4"):
        fit_infrared([flat[..., :3]])


def test_is_the_same_from_its_file(tmp_path: Path) -> None:
    model = fit_infrared([images(6)])
    path = write_infrared(tmp_path, model)
    assert read_infrared(tmp_path) == read_infrared(tmp_path / "ema") == model
    assert fit_infrared([image[None] for image in images(6)]) == model  # whatever the batches
    path.write_text(path.read_text().replace('"mean"', '"average"'))
    with pytest.raises(UserError, match=r"infrared\.json: not a model of near infrared"):
        read_infrared(tmp_path)
    path.unlink()
    with pytest.raises(UserError, match=r"infrared\.json: missing.*--bands native"):
        read_infrared(tmp_path)


def test_the_split_vae_is_that_of_four_bands_with_the_predicted_one(tmp_path: Path) -> None:
    vae = load_vae(save_tiny_vae(tmp_path / "vae", in_channels=4))
    weights = (0.1, -0.3, 0.5, 0.2)
    model = InfraredModel(weights, (*weights, *[0.0] * 6), {"linear": 0, "quadratic": 0}, 9, 1, 1)
    before = {name: value.clone() for name, value in vae.model.state_dict().items()}
    split = split_rgb(vae, model)
    rgb = to_unit(images(2, side=32)[..., :3])
    n = weights[0] + sum(w * band for w, band in zip(weights[1:], rgb.split(1, 1), strict=True))
    four = torch.cat([rgb, n], dim=1)
    with torch.no_grad():
        whole, own = (v.model.encoder.conv_in(x) for v, x in ((vae, four), (split, rgb)))
        inside = (slice(None), slice(None), slice(1, -1), slice(1, -1))
        torch.testing.assert_close(own[inside], whole[inside])
        assert (own - whole).abs().max() > 1e-3  # the border sees zeros, not the bias
    mean, _ = split.encode(rgb)
    expected = vae.encode(four)[0]
    # Of a whole encoder too, little is left of the border: of the latents' spread.
    assert (mean - expected).std() < 0.1 * expected.std()
    drawn = split.decode(mean)
    assert drawn.shape == (2, 32, 32, 3)
    assert (drawn == vae.decode(mean)[..., :3]).all()
    assert (split.fingerprint, split.scale) == (vae.fingerprint, vae.scale)
    for name, value in vae.model.state_dict().items():
        assert torch.equal(value, before[name]), name
    with pytest.raises(ValueError, match="3 bands, expected four"):
        split_rgb(split, model)
