"""Perceptual distances: LPIPS is the package's, and the one offline is its formula."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
from lpips import LPIPS

from core.errors import UserError
from core.stage import sha256_file
from eval.distances.bootstrap import bootstrap_interval
from eval.judges.perceptual import load_perceptual, perceptual_pairs
from tests.data.test_pretrained import save_lite0


@pytest.fixture(scope="module")
def images() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (20, 64, 64, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def lite0(tmp_path_factory: pytest.TempPathFactory):
    folder = tmp_path_factory.mktemp("lite0")
    _, model = save_lite0(folder)
    return load_perceptual("efficientnet-lite0", weights=folder), model


def scaled(images: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(images).permute(0, 3, 1, 2).float() / 127.5 - 1


def backbone(folder: Path, kind: str, stem: str) -> torch.nn.Module:
    """A seeded backbone of torchvision's, and the file of its layers, named by its digest."""
    torch.manual_seed(0)
    options = {"init_weights": False} if kind == "vgg16" else {}  # slow, and random either way
    model = getattr(torchvision.models, kind)(weights=None, **options)
    state = {f"features.{name}": tensor for name, tensor in model.features.state_dict().items()}
    torch.save(state, folder / "new.pth")
    (folder / "new.pth").rename(folder / f"{stem}-{sha256_file(folder / 'new.pth')[:8]}.pth")
    return model


@pytest.mark.parametrize(
    ("name", "kind", "stem"), [("alex", "alexnet", "alexnet-owt"), ("vgg", "vgg16", "vgg16")]
)
def test_lpips_is_the_packages(
    name: str, kind: str, stem: str, images: np.ndarray, tmp_path: Path
) -> None:
    model = backbone(tmp_path, kind, stem)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(f"lpips.pretrained_networks.tv.{kind}", lambda pretrained: model)
        theirs = LPIPS(net=name, verbose=False).eval()
    a, b = images[:6], np.roll(images[:6], 1, axis=0) // 2
    with torch.inference_mode():
        expected = theirs(scaled(a), scaled(b)).flatten().numpy()
    ours = load_perceptual(name, weights=tmp_path)
    values = perceptual_pairs(ours, a, b)
    assert np.abs(values - expected).max() < 1e-6 and expected.min() > 1e-3
    assert ours.name == f"LPIPS-{name}" and len(ours.fingerprint["digest"]) == 64


def test_torchs_cache_serves_and_what_is_damaged_does_not(
    images: np.ndarray, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    cache = tmp_path / "checkpoints"
    cache.mkdir()
    backbone(cache, "alexnet", "alexnet-owt")
    (tmp_path / "empty").mkdir()
    by_cache = load_perceptual("alex", weights=tmp_path / "empty")
    assert perceptual_pairs(by_cache, images[:2], images[2:4]).min() > 1e-3
    (file,) = cache.iterdir()
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(UserError, match="not as its name says"):
        load_perceptual("alex")
    file.write_bytes(b"x")
    file.rename(cache / f"alexnet-owt-{sha256_file(file)[:8]}.pth")
    with pytest.raises(UserError, match="not the weights of torchvision's"):
        load_perceptual("alex")


def test_without_a_network_the_remedy_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def offline(*_: object, **__: object) -> None:
        raise OSError("no route")

    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    monkeypatch.setattr(torch.hub, "load_state_dict_from_url", offline)
    with pytest.raises(UserError, match=r"no route.*vgg16-397923af\.pth.*efficientnet-lite0"):
        load_perceptual("vgg")
    with pytest.raises(UserError, match="unknown perceptual distance 'random'"):
        load_perceptual("random")


def test_the_distance_offline_is_its_formula(lite0, images: np.ndarray) -> None:
    """Pixel by pixel, from the maps that the network itself hands out."""
    network, model = lite0
    a, b = images[:2], images[2:4]
    with torch.inference_mode():
        maps = [model.forward_intermediates(scaled(x), intermediates_only=True) for x in (a, b)]
    assert [m.shape[1:] for m in maps[0]] == [
        (16, 32, 32), (24, 16, 16), (40, 8, 8), (112, 4, 4), (320, 2, 2),
    ]  # fmt: skip
    expected = np.zeros(2)
    for f, g in zip(*[[m.double().numpy() for m in side] for side in maps], strict=True):
        for n in range(2):
            squares = []
            for y in range(f.shape[2]):
                for x in range(f.shape[3]):
                    u, v = f[n, :, y, x], g[n, :, y, x]
                    squares.append(np.sum((u / np.linalg.norm(u) - v / np.linalg.norm(v)) ** 2))
            expected[n] += np.mean(squares) / 5
    assert perceptual_pairs(network, a, b) == pytest.approx(expected, abs=1e-5)
    assert (expected > 0.01).all() and (expected < 4).all()
    assert "uncalibrated" in network.name


def test_equal_images_are_at_zero_and_blurs_in_order(lite0, images: np.ndarray) -> None:
    network, _ = lite0
    assert perceptual_pairs(network, images, images) == pytest.approx(np.zeros(20), abs=1e-6)
    pictures = np.repeat(np.repeat(images[:4, ::8, ::8], 8, 1), 8, 2)
    noise = np.random.default_rng(1).normal(size=pictures.shape)
    noisy = [
        (pictures + s * noise).clip(0, 255).astype(np.uint8) for s in (2, 8, 32)
    ]
    means = [perceptual_pairs(network, pictures, other).mean() for other in noisy]
    assert 0 < means[0] < means[1] < means[2]


def test_refuses_floats_and_unequal_sizes(lite0, images: np.ndarray) -> None:
    network, _ = lite0
    with pytest.raises(UserError, match="uint8"):
        perceptual_pairs(network, images / 255.0, images)
    with pytest.raises(UserError, match="one size"):
        perceptual_pairs(network, images, images[:, :32])


def test_bootstrap_interval_holds_the_mean() -> None:
    values = np.random.default_rng(0).normal(0.4, 0.1, 200)
    low, high = bootstrap_interval(values)
    assert low < values.mean() < high
    assert high - low == pytest.approx(4 * 0.1 / np.sqrt(200), rel=0.25)
