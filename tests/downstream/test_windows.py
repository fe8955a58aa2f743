"""Whole images by windows: they cover, they blend, one of them is the plain model, none shows."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from core.stage import digest_of, read_manifest
from dit.diffusion.samplers import sample_latents
from downstream import evaluate
from downstream.tasks.pictures import load_png
from downstream.tasks.windows import Windows, window_starts, windowed
from tests.downstream.conftest import evaluate_arguments


@given(st.integers(1, 12), st.integers(0, 11), st.integers(0, 60))
def test_windows_cover_and_overlap(size: int, overlap: int, more: int) -> None:
    overlap = min(overlap, size - 1)
    starts = window_starts(size + more, size, overlap)
    assert starts[0] == 0 and starts[-1] == more
    steps = np.diff(starts)
    assert (steps > 0).all() and (steps <= size - overlap).all()
    if len(starts) > 1:  # one fewer could not reach the end
        assert (len(starts) - 2) * (size - overlap) + size < size + more


@given(st.integers(8, 30), st.integers(8, 30), st.integers(0, 6))
def test_shares_sum_to_one(height: int, width: int, overlap: int) -> None:
    windows = Windows.over(height, width, 8, overlap)
    shares = torch.from_numpy(windows.weights())[:, None]
    assert shares.min() > 0
    assert torch.allclose(windows.blend(torch.ones_like(shares)), torch.ones(()), atol=1e-6)
    whole = torch.randn(1, 3, height, width)
    assert torch.allclose(windows.blend(windows.cut(whole)), whole, atol=1e-5)


def test_one_window_is_the_model_itself_to_the_last_bit() -> None:
    windows = Windows.over(8, 8, 8, 2)
    x, t, condition = torch.randn(1, 4, 8, 8), torch.tensor([7]), torch.randn(1, 4, 8, 8)

    def model(x: torch.Tensor, t: torch.Tensor, condition: torch.Tensor) -> torch.Tensor:
        return torch.cat([x * condition, torch.sin(x)], dim=1)

    assert torch.equal(windowed(model, windows, condition, 4)(x, t), model(x, t, condition))


def drawn(overlap: int, batches: list[int]) -> np.ndarray:
    """A whole latent from a model whose windows disagree: each denoises towards a level of its
    own, which is its condition."""
    windows = Windows.over(24, 24, 8, overlap)
    count = len(windows.corners)
    levels = torch.from_numpy(np.random.default_rng(0).normal(0, 1, count)).float()

    def model(x: torch.Tensor, t: torch.Tensor, condition: torch.Tensor) -> torch.Tensor:
        batches.append(len(x))
        level = 0.3 * condition[:, None, None, None]
        return torch.cat([x - level, torch.zeros_like(x)], dim=1)

    whole = windowed(model, windows, levels, 5)
    return sample_latents(whole, (1, 24, 24), [3], sampler="ddim", steps=10)[0, 0].numpy()


def seam_contrast(latent: np.ndarray, every: int = 8) -> float:
    """Mean step across the borders of tiles over the mean step within them."""
    steps = np.abs(np.diff(latent, axis=1)).mean(axis=0)
    at = np.arange(every - 1, len(steps), every)
    return float(steps[at].mean() / np.delete(steps, at).mean())


def test_there_are_no_seams_and_memory_is_bounded() -> None:
    batches: list[int] = []
    apart = seam_contrast(drawn(0, batches))
    blended = seam_contrast(drawn(4, batches))
    assert max(batches) == 5  # windows at a time, however many there are
    assert apart > 1.5 and 0.7 < blended < 1.2


@pytest.mark.parametrize("sampler", ["ddim", "ddpm"])
def test_a_whole_image_of_one_tile_is_the_plain_one(
    world: Path, trained: tuple[str, Path], tmp_path: Path, sampler: str
) -> None:
    task, run = trained
    side = {"sr": "--hr-size", "sis": "--tile-size"}[task]
    root = tmp_path / "data"
    for path in (world / task).rglob("*.*"):
        if path.suffix in (".png", ".jpg"):
            copy = root / path.relative_to(world / task)
            copy.parent.mkdir(parents=True, exist_ok=True)
            Image.open(path).crop((0, 0, 30, 30)).resize((16, 16), 0).save(copy)
    # A run of the same weights whose images are as large as its tile.
    other = tmp_path / "run"
    shutil.copytree(run, other)
    rewrite(other, {side.strip("-").replace("-", "_"): 16})
    outs = {}
    for crops in ("center", "whole"):
        out = tmp_path / crops
        arguments = evaluate_arguments(world, other, task, out, "--sampler", sampler)
        more = ["--crops", crops, "--data", str(root), "--weights", "raw"]
        assert evaluate.main([*arguments, *more]) == 0
        outs[crops] = {path.name: load_png(path) for path in (out / "generated").iterdir()}
    assert outs["center"].keys() == outs["whole"].keys()
    for name, plain in outs["center"].items():
        assert np.abs(plain.astype(int) - outs["whole"][name]).max() <= 1  # batches of 3 and of 1


def rewrite(run: Path, changes: dict) -> None:
    """Change state["downstream"] of a run's checkpoints."""
    for path in run.glob("checkpoints/*/state.json"):
        state = json.loads(path.read_text())
        del state["digest"]
        state["downstream"] |= changes
        path.write_text(json.dumps({**state, "digest": digest_of(state)}))


def test_whole_images_larger_than_the_tile(
    world: Path, trained: tuple[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    task, run = trained
    out = tmp_path / "out"
    arguments = evaluate_arguments(world, run, task, out, "--crops", "whole", "--overlap", "0.5")
    assert evaluate.main(arguments) == 0
    names = sorted(path.name for path in (out / "generated").iterdir())
    assert len(names) == 4
    for name in names:
        shapes = {load_png(out / part / name).shape for part in ("generated", "target")}
        assert shapes == {(24, 28, 3)} == {load_png(out / "condition" / name).shape}
    assert read_manifest(out)["params"]["overlap"] == 0.5
    before = (out / "generated" / names[1]).read_bytes()
    (out / "manifest.json").unlink()
    (out / "generated" / names[1]).unlink()
    assert evaluate.main(arguments) == 0
    assert (out / "generated" / names[1]).read_bytes() == before
