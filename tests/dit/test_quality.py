"""Figures of reconstructions: against formulas written out, in batches as at once."""

from __future__ import annotations

import numpy as np
import pytest

from dit.vae.quality import Quality, compare, ndvi


def pair(bands: int, side: int = 16) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(bands)
    images = generator.integers(0, 256, (5, side, side, bands), np.uint8)
    noise = generator.integers(-20, 21, images.shape)
    return images, (images.astype(int) + noise).clip(0, 255).astype(np.uint8)


def test_each_band_by_its_formula():
    images, rebuilt = pair(4)
    rebuilt[..., 2] = images[..., 2]
    found = compare(images, rebuilt)
    error = images.astype(float) - rebuilt
    for band in (0, 1, 3):
        expected = 10 * np.log10(255**2 / np.square(error[..., band]).mean())
        assert found["psnr_band"][band] == pytest.approx(expected, abs=1e-3)
        assert found["l1_band"][band] == pytest.approx(np.abs(error[..., band]).mean(), abs=1e-3)
        assert 0.5 < found["ssim_band"][band] < 1
    assert found["psnr_band"][2] == 60.0 and found["ssim_band"][2] == 1.0
    assert found["psnr"] == pytest.approx(10 * np.log10(255**2 / np.square(error).mean()), abs=1e-3)
    assert found["images"] == 5


def test_near_infrared_beside_the_truth():
    images, rebuilt = pair(4)
    images[0, 0, 0] = 0  # no light: NDVI is 0, and no division by it
    rebuilt[..., 3] = rebuilt[..., 0]  # a VAE that copies red
    found = compare(images, rebuilt)["infrared"]
    red, infrared = (images[..., band].ravel().astype(float) for band in (0, 3))
    r = np.corrcoef(red, infrared)[0, 1]
    assert found["red_correlation"] == {"images": pytest.approx(r, abs=1e-4), "rebuilt": 1.0}
    total = np.where(red + infrared > 0, red + infrared, 1)
    index = (infrared - red) / total
    assert np.allclose(ndvi(images).ravel(), index, atol=1e-6)
    assert found["ndvi_error"] == pytest.approx(np.abs(index).mean(), abs=1e-4)  # its own is 0
    assert found["ndvi_std"] == {"images": pytest.approx(index.std(), abs=1e-4), "rebuilt": 0.0}
    assert found["ndvi_mean"]["images"] == pytest.approx(index.mean(), abs=1e-4)


def test_in_batches_as_at_once_and_small_images_without_ssim():
    images, rebuilt = pair(4)
    quality = Quality()
    for part in (slice(0, 2), slice(2, 5)):
        quality.add(images[part], rebuilt[part])
    assert quality.result() == compare(images, rebuilt)
    small = compare(*pair(3, side=8))
    assert small["ssim_band"] is None and "infrared" not in small
    with pytest.raises(ValueError, match="twice"):
        compare(images, rebuilt[:2])
    with pytest.raises(ValueError, match="no images"):
        Quality().result()


def test_a_constant_band_has_no_correlation():
    images, rebuilt = pair(4)
    rebuilt[..., 3] = 7
    assert compare(images, rebuilt)["infrared"]["red_correlation"]["rebuilt"] is None
