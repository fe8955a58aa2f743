"""FID's features are clean-fid's own, and the VAE floor is the VAE's own reconstruction.

Inception's weights cannot be had offline: a small network in its file format stands in for it.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from cleanfid.fid import compare_folders, get_files_features
from cleanfid.inception_torchscript import InceptionV3W
from cleanfid.resize import make_resizer
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from PIL import Image

import eval.judges.extractors
from core.errors import UserError
from core.stage import sha256_file
from data.images.decode import decode_rgb
from eval.distances.frechet import fit, frechet_distance
from eval.judges.extractors import INCEPTION_FILE, load_extractor
from eval.judges.features import features_of
from eval.judges.generation import reconstructed
from eval.judges.images import read_folder
from tests.dit.tiny_vae import save_tiny_vae


def noise(count: int, height: int, width: int) -> np.ndarray:
    """Large bright and dark blocks beside noise: bicubic overshoots, and antialiasing matters."""
    rng = np.random.default_rng(height)
    images = rng.integers(0, 256, (count, height, width, 3), dtype=np.uint8)
    images[:, : height // 2, : width // 3] = 255
    images[:, height // 2 :, : width // 3] = 0
    return images


class StandIn(torch.nn.Module):
    """[n, 3, 299, 299] to 2048 features, sensitive to place, colour and sign."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layers = torch.nn.Sequential(
            torch.nn.Conv2d(3, 8, 7, stride=3),
            torch.nn.Tanh(),
            torch.nn.AdaptiveAvgPool2d(16),
            torch.nn.Flatten(),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layers(x)


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    torch.jit.script(StandIn()).save(tmp_path / INCEPTION_FILE)
    return tmp_path


def test_features_are_those_of_clean_fid(weights: Path, tmp_path: Path) -> None:
    paths = []
    for n, image in enumerate(noise(5, 64, 48)):
        paths.append(tmp_path / f"{n}.png")
        Image.fromarray(image).save(paths[-1])
    theirs = get_files_features(
        [str(path) for path in paths],
        model=InceptionV3W(str(weights), download=False, resize_inside=False).eval(),
        num_workers=0,
        batch_size=5,
        device=torch.device("cpu"),
        mode="clean",
        verbose=False,
    )
    extractor = load_extractor("inception", weights=weights)
    ours = extractor(read_folder(tmp_path, [path.name for path in paths]))
    assert ours.shape == (5, 2048) and ours.std() > 0.1
    assert np.allclose(ours, theirs, rtol=0, atol=1e-6)
    assert extractor.distance == "FID"
    assert extractor.fingerprint["digest"] == sha256_file(weights / INCEPTION_FILE)


def test_the_whole_path_is_clean_fids(weights: Path, tmp_path: Path) -> None:
    """From two folders of files to the distance; of 40 features, since a full covariance takes
    clean-fid's square root of a matrix a minute."""
    folders = [tmp_path / "generated", tmp_path / "real"]
    for folder, dim in zip(folders, (1.0, 0.7), strict=True):
        folder.mkdir()
        rng = np.random.default_rng(int(10 * dim))
        for n in range(50):
            blocks = rng.integers(0, 256, (8, 8, 3)).repeat(6, 0).repeat(4 + n % 3, 1)
            picture = Image.fromarray((dim * blocks).astype(np.uint8))
            picture.save(folder / f"{n:02}.png")
    network = InceptionV3W(str(weights), download=False, resize_inside=False).eval()
    theirs = compare_folders(
        *map(str, folders),
        feat_model=lambda batch: network(batch)[:, ::51][:, :40],
        mode="clean",
        device=torch.device("cpu"),
        verbose=False,
    )
    extractor = load_extractor("inception", weights=weights)
    ours = []
    for folder in folders:
        paths = sorted(folder.iterdir())
        rows = features_of(
            extractor,
            paths,
            digest=folder.name,
            cache=tmp_path / "kept",
            decode=lambda path: decode_rgb(path.read_bytes(), path.name),
        )
        ours.append(fit(rows[:, ::51][:, :40]))
    assert frechet_distance(*ours) == pytest.approx(theirs, rel=1e-5) and theirs > 0.1


@pytest.mark.parametrize("size", [(32, 32), (256, 256), (299, 299), (300, 512)])
def test_the_network_sees_what_clean_fid_resizes(
    weights: Path, size: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[torch.Tensor] = []

    class Watching(InceptionV3W):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            seen.append(x)
            return super().forward(x)

    monkeypatch.setattr(eval.judges.extractors, "InceptionV3W", Watching)
    images = noise(2, *size)
    load_extractor("inception", weights=weights)(images)
    resize = make_resizer("PIL", False, "bicubic", (299, 299))
    expected = np.stack([resize(image) for image in images]).transpose(0, 3, 1, 2)
    (given,) = seen
    assert given.dtype == torch.float32 and np.array_equal(given.numpy(), expected)
    assert expected.min() == 0 and expected.max() == 255  # overshoots are clipped
    if size != (299, 299):
        assert (expected % 1 != 0).any()  # and nothing is rounded


def test_weights_that_are_not_there(tmp_path: Path) -> None:
    (tmp_path / "other.pt").write_bytes(b"")
    with pytest.raises(UserError, match="rename it"):
        load_extractor("inception", weights=tmp_path / "other.pt")
    with pytest.raises(UserError, match="is not there"):
        load_extractor("inception", weights=tmp_path)
    (tmp_path / INCEPTION_FILE).write_bytes(b"no network")
    with pytest.raises(UserError, match="cannot be loaded"):
        load_extractor("inception", weights=tmp_path)


@pytest.mark.parametrize("scale", [0.25, 2.0])
def test_the_floor_is_what_the_vae_makes_of_its_own_latents(tmp_path: Path, scale: float) -> None:
    """Whatever the scale, which encoding puts on and decoding takes off: diffusers knows none."""
    folder = save_tiny_vae(tmp_path / "vae", scaling_factor=scale, gain=30.0)
    images = noise(3, 16, 16)
    vae = AutoencoderKL.from_pretrained(folder).eval()
    with torch.no_grad():
        unit = torch.from_numpy(images.transpose(0, 3, 1, 2) / 127.5 - 1).float()
        mean = vae.encode(unit).latent_dist.mean
        pixels, doubled = (
            (127.5 * vae.decode(z).sample + 128).clamp(0, 255).numpy().transpose(0, 2, 3, 1)
            for z in (mean, 2 * mean)
        )
    assert np.abs(doubled - pixels).mean() > 3  # another scale would show
    floor = np.stack(list(reconstructed(str(folder), iter(images), "cpu")))
    assert floor.dtype == np.uint8 and floor.shape == images.shape
    assert np.abs(floor - pixels).max() < 1.1  # truncated
