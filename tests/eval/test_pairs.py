"""Pairs of images: PSNR, SSIM, the bicubic input beside the model, images of several sizes."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from core.errors import UserError
from core.stage import Stage
from eval.evaluate import main
from eval.judges.pairs import psnr, ssim

FLAGS = ["--extractor", "descriptor", "--perceptual", "efficientnet-lite0", "--device", "cpu"]


def textures(count: int, height: int = 32, width: int = 32, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    low = rng.integers(0, 256, (count, 4, 4, 3), np.uint8)
    big = [Image.fromarray(one).resize((width, height), Image.Resampling.BICUBIC) for one in low]
    return np.stack([np.asarray(one) for one in big])


def noisy(images: np.ndarray, sigma: float, seed: int = 1) -> np.ndarray:
    noise = np.random.default_rng(seed).normal(0, sigma, images.shape)
    return (images + noise).round().clip(0, 255).astype(np.uint8)


def write_pairs(folder: Path, parts: dict[str, list[np.ndarray]], **params) -> Path:
    """A finished downstream.evaluate with these images under each part."""
    stage = Stage(folder, "downstream.evaluate", params, {})
    stage.open()
    names = []
    for part, images in parts.items():
        (folder / part).mkdir(parents=True)
        for n, image in enumerate(images):
            names.append(f"{part}/{n}.png")
            Image.fromarray(image).save(folder / names[-1])
    stage.finish({}, names, "made")
    return folder


def judged(tmp_path: Path, pairs: Path) -> dict:
    out = tmp_path / f"{pairs.name}.json"
    assert main(["--pairs", str(pairs), "--out", str(out), *FLAGS]) == 0
    return json.loads(out.read_text())


def test_psnr_is_that_of_the_formula() -> None:
    target = textures(5)
    images = np.concatenate([noisy(target[:4], 9.0), target[4:]])
    error = (images.astype(float) - target) ** 2
    by_hand = 10 * np.log10(255**2 / error.mean(axis=(1, 2, 3))[:4])
    assert psnr(images, target)[:4] == pytest.approx(by_hand, abs=1e-5)
    assert psnr(images, target)[4] == 100.0  # equal images, whose error is zero


def test_ssim_is_that_of_the_formula() -> None:
    """Wang's means, variances and covariance under the window, summed one by one."""
    target = textures(2, 11, 12)
    images = noisy(target, 25.0)
    x = np.arange(11) - 5.0
    window = np.exp(-(x**2) / (2 * 1.5**2))
    window = np.outer(window, window) / np.outer(window, window).sum()
    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    expected = []
    for pair in zip(images.astype(float), target.astype(float), strict=True):
        a, b = (np.pad(one, ((5, 5), (5, 5), (0, 0)), mode="reflect") for one in pair)
        values = []
        for top in range(11):
            for left in range(12):
                for band in range(3):
                    p, q = (i[top : top + 11, left : left + 11, band] for i in (a, b))
                    mp, mq = (window * p).sum(), (window * q).sum()
                    vp, vq = (window * (p - mp) ** 2).sum(), (window * (q - mq) ** 2).sum()
                    both = (window * (p - mp) * (q - mq)).sum()
                    top_ = (2 * mp * mq + c1) * (2 * both + c2)
                    values.append(top_ / ((mp**2 + mq**2 + c1) * (vp + vq + c2)))
        expected.append(np.mean(values))
    assert ssim(images, target) == pytest.approx(expected, abs=1e-6)
    assert ssim(target, target) == pytest.approx([1, 1])
    with pytest.raises(UserError, match="10 x 11 px"):
        ssim(images[:, :, :10], target[:, :, :10])


def test_a_model_that_loses_to_its_input_shows_it(tmp_path: Path) -> None:
    target = textures(6)
    parts = {"target": target, "generated": noisy(target, 40.0), "condition": noisy(target, 8.0)}
    result = judged(tmp_path, write_pairs(tmp_path / "sr", parts, task="sr"))
    own, bicubic = result, result["bicubic"]
    assert set(bicubic) == {"distance", "perceptual", "psnr", "ssim"} < set(own)
    assert own["psnr"]["value"] + 5 < bicubic["psnr"]["value"]
    assert own["ssim"]["value"] < bicubic["ssim"]["value"]
    assert own["perceptual"]["value"] > bicubic["perceptual"]["value"]
    assert bicubic["distance"]["n_generated"] == 6
    swapped = {**parts, "generated": parts["condition"], "condition": parts["generated"]}
    other = judged(tmp_path, write_pairs(tmp_path / "swapped", swapped, task="sr"))
    assert other["psnr"] == bicubic["psnr"] and other["bicubic"]["ssim"] == own["ssim"]
    masks = judged(tmp_path, write_pairs(tmp_path / "sis", parts, task="sis"))
    assert "bicubic" not in masks


def test_images_of_several_sizes(tmp_path: Path) -> None:
    target = [*textures(2, 32, 40), *textures(2, 40, 32, seed=3)]
    mixed = [target[n] for n in (0, 2, 1, 3)]
    parts = {"target": mixed, "generated": [noisy(image, 10.0) for image in mixed]}
    result = judged(tmp_path, write_pairs(tmp_path / "pairs", parts))
    by_hand = [psnr(g[None], t[None])[0] for g, t in zip(*reversed(parts.values()), strict=True)]
    assert result["psnr"]["value"] == pytest.approx(np.mean(by_hand))
    assert result["distance"]["n_generated"] == result["psnr"]["pairs"] == 4
    parts["generated"] = [target[0], *parts["generated"][1:3], target[0]]
    with pytest.raises(UserError, match="40 x 32 px, but its target has 32 x 40"):
        judged(tmp_path, write_pairs(tmp_path / "wrong", parts))


def test_adherence_is_copied(tmp_path: Path) -> None:
    stage = Stage(tmp_path / "sis", "downstream.evaluate", {"checkpoint": "best-test"}, {})
    stage.open()
    names = [f"{part}/{n}.png" for part in ("generated", "target") for n in range(4)]
    for name in names:
        path = tmp_path / "sis" / name
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(textures(1, seed=len(name))[0]).save(path)
    (tmp_path / "sis" / "adherence.json").write_text('{"miou": {"value": 0.5}}')
    stage.finish({}, [*names, "adherence.json"], "made")
    result = judged(tmp_path, tmp_path / "sis")
    assert result["adherence"] == {"miou": {"value": 0.5}}
    assert result["sampling"]["checkpoint_rule"] == "best-test"
