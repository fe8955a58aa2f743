"""RemoteCLIP, GeoRSCLIP, DINOv2 and SSCD: the real classes on small files made here."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from core.errors import UserError
from prune.encoders.base import open_encoder
from prune.encoders.clip import architecture
from prune.encoders.pixels import resize_crop
from prune.encoders.vision import CLIP, IMAGENET, find_file

SIZE, WIDTH = 32, 16
CLIP_CONFIG = {
    "embed_dim": WIDTH,
    "vision_cfg": {"layers": 2, "width": 64, "patch_size": 8, "image_size": SIZE},
    "text_cfg": {"context_length": 8, "vocab_size": 64, "width": 32, "heads": 2, "layers": 1},
}
DINO_ARGS = {"embed_dim": 32, "depth": 2, "num_heads": 2, "img_size": 28}


@pytest.fixture(scope="module")
def images() -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    sizes = [(32, 32), (41, 90), (97, 64), (17, 33), (28, 28)]
    return [rng.integers(0, 256, (*size, 3), dtype=np.uint8) for size in sizes]


def torchvision_pixels(image: np.ndarray, size: int, norm: dict[str, list[float]]) -> Any:
    """The published preprocessing, by torchvision."""
    from torchvision import transforms as T

    bicubic = T.InterpolationMode.BICUBIC
    steps = [T.Resize(size, interpolation=bicubic), T.CenterCrop(size), T.ToTensor()]
    return T.Compose([*steps, T.Normalize(norm["mean"], norm["std"])])(Image.fromarray(image))


def shaken(model: Any) -> Any:
    """Seeded weights, far from any initialisation's zeros and ones."""
    import torch

    torch.manual_seed(0)
    for parameter in model.parameters():
        parameter.data.add_(torch.randn_like(parameter) * 0.1)
    return model.eval()


def unit(rows: Any) -> np.ndarray:
    array = rows.detach().numpy()
    return array / np.linalg.norm(array, axis=1, keepdims=True)


@pytest.fixture(scope="module")
def clip_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    import torch
    from open_clip.model import CLIP as ClipModel

    folder = tmp_path_factory.mktemp("clip")
    torch.save(shaken(ClipModel(**CLIP_CONFIG)).state_dict(), folder / "tiny.pt")
    config = {"model_cfg": CLIP_CONFIG, "preprocess_cfg": {}}
    (folder / "open_clip_config.json").write_text(json.dumps(config))
    return folder


@pytest.mark.parametrize("quick", [False, True])
def test_clip_features_are_those_of_open_clip(
    clip_folder: Path, images: list[np.ndarray], tmp_path: Path, quick: bool
) -> None:
    import torch
    from open_clip.model import CLIP as ClipModel

    folder = shutil.copytree(clip_folder, tmp_path / "clip")
    config = {"model_cfg": {**CLIP_CONFIG, **({"quick_gelu": True} if quick else {})}}
    (folder / "open_clip_config.json").write_text(json.dumps(config))
    encoder = open_encoder("georsclip", str(folder))
    assert encoder.core()["preprocessing"]["activation"] == ("QuickGELU" if quick else "GELU")

    model = ClipModel(**CLIP_CONFIG, quick_gelu=quick).eval()
    model.load_state_dict(torch.load(folder / "tiny.pt", weights_only=True))
    pixels = torch.stack([torchvision_pixels(image, SIZE, CLIP) for image in images])
    np.testing.assert_allclose(encoder.encode(images), unit(model.encode_image(pixels)), atol=1e-5)
    other = ClipModel(**CLIP_CONFIG, quick_gelu=not quick).eval()
    other.load_state_dict(model.state_dict())
    assert np.abs(encoder.encode(images) - unit(other.encode_image(pixels))).max() > 1e-3


def test_names_of_published_files_say_architecture_and_activation(tmp_path: Path) -> None:
    expected = {
        ("georsclip", "RS5M_ViT-B-32.pt"): (512, "QuickGELU"),
        ("georsclip", "RS5M_ViT-B-32_RET-2.pt"): (512, "QuickGELU"),
        ("georsclip", "RS5M_ViT-H-14.pt"): (1024, "GELU"),
        ("remoteclip", "RemoteCLIP-RN50.pt"): (1024, "GELU"),
        ("remoteclip", "RemoteCLIP-ViT-L-14.pt"): (768, "GELU"),
        ("remoteclip-quickgelu", "RemoteCLIP-ViT-B-32.pt"): (512, "QuickGELU"),
    }
    for (name, file), (dim, activation) in expected.items():
        (tmp_path / file).write_bytes(b"weights")
        encoder = open_encoder(name, str(tmp_path / file))
        assert (encoder.dim, encoder.core()["preprocessing"]["activation"]) == (dim, activation)
        assert encoder.core()["name"] == name
    with pytest.raises(UserError, match="says no architecture"):
        architecture(tmp_path / "model.pt")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda state: state.pop("visual.proj"), r"Missing key.*visual\.proj"),
        (lambda state: state.update(extra=state["visual.proj"]), "Unexpected key.*extra"),
        (
            lambda state: state.update({"visual.proj": state["visual.proj"][:, :8]}),
            r"size mismatch for visual\.proj",
        ),
    ],
)
def test_weights_that_do_not_fit_are_refused(
    clip_folder: Path, tmp_path: Path, change: Any, message: str
) -> None:
    import torch

    folder = shutil.copytree(clip_folder, tmp_path / "clip")
    state = torch.load(folder / "tiny.pt", weights_only=True)
    change(state)
    torch.save(state, folder / "tiny.pt")
    with pytest.raises(UserError, match=message):
        open_encoder("remoteclip", str(folder)).load("cpu")


def test_wrapped_state_dicts_are_unwrapped_and_programs_refused(
    clip_folder: Path, tmp_path: Path, images: list[np.ndarray]
) -> None:
    import torch

    folder = shutil.copytree(clip_folder, tmp_path / "clip")
    state = torch.load(folder / "tiny.pt", weights_only=True)
    wrapped = {"state_dict": {f"module.{name}": tensor for name, tensor in state.items()}}
    torch.save(wrapped, folder / "tiny.pt")
    plain, unwrapped = (open_encoder("remoteclip", str(f)) for f in (clip_folder, folder))
    np.testing.assert_array_equal(plain.encode(images), unwrapped.encode(images))
    torch.save({"state_dict": Path}, folder / "tiny.pt")
    with pytest.raises(UserError, match="weights"):
        open_encoder("remoteclip", str(folder)).load("cpu")


@pytest.mark.parametrize("stored_size", [28, 56])
def test_dinov2_features_are_those_of_timm(
    images: list[np.ndarray], tmp_path: Path, stored_size: int
) -> None:
    """Weights stored at another size have their position embedding resampled."""
    import timm
    import torch
    from safetensors.torch import save_file
    from timm.models.vision_transformer import checkpoint_filter_fn

    name = "vit_small_patch14_dinov2"
    stored = timm.create_model(name, num_classes=0, **{**DINO_ARGS, "img_size": stored_size})
    state = shaken(stored).state_dict()
    save_file(state, tmp_path / "model.safetensors")
    config = {"architecture": name, "num_features": 32, "model_args": DINO_ARGS}
    (tmp_path / "config.json").write_text(json.dumps(config))
    model = timm.create_model(name, num_classes=0, **DINO_ARGS).eval()
    model.load_state_dict(checkpoint_filter_fn(state, model))
    pixels = torch.stack([torchvision_pixels(image, 28, IMAGENET) for image in images])
    encoder = open_encoder("dinov2", str(tmp_path))
    assert encoder.dim == 32
    np.testing.assert_allclose(encoder.encode(images), unit(model(pixels)), atol=1e-5)

    config["architecture"] = "vit_small_patch16_224"
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match="expected a DINOv2"):
        open_encoder("dinov2", str(tmp_path))


def _torchscript(folder: Path, width: int) -> Path:
    import torch
    from torch import nn

    torch.manual_seed(0)
    layers = (nn.Conv2d(3, 8, 7, stride=7), nn.AdaptiveAvgPool2d(2), nn.Flatten())
    model = nn.Sequential(*layers, nn.Linear(32, width)).eval()
    path = folder / "sscd_disc_mixup.torchscript.pt"
    torch.jit.trace(model, torch.zeros(1, 3, 320, 320)).save(str(path))
    return path


@pytest.mark.filterwarnings("ignore")
def test_sscd_runs_its_torchscript(images: list[np.ndarray], tmp_path: Path) -> None:
    import torch
    from torchvision import transforms as T

    path = _torchscript(tmp_path, 512)
    encoder = open_encoder("sscd", str(tmp_path))
    squashed = [Image.fromarray(i).resize((320, 320), Image.Resampling.BILINEAR) for i in images]
    norm = T.Compose([T.ToTensor(), T.Normalize(IMAGENET["mean"], IMAGENET["std"])])
    pixels = torch.stack([norm(image) for image in squashed])
    expected = unit(torch.jit.load(str(path))(pixels))
    np.testing.assert_allclose(encoder.encode(images), expected, atol=1e-5)
    assert encoder.dim == 512
    _torchscript(tmp_path, 100)
    with pytest.raises(UserError, match=r"features \(100,\), expected \(512,\)"):
        open_encoder("sscd", str(path)).encode(images)
    path.write_bytes(b"no program")
    with pytest.raises(UserError, match="no TorchScript"):
        open_encoder("sscd", str(path)).load("cpu")
    with pytest.raises(UserError, match=r"download\.sh sscd"):
        open_encoder("sscd")


def test_resize_crop_is_torchvisions(images: list[np.ndarray]) -> None:
    from torchvision import transforms as T

    for image in [*images, np.zeros((33, 100, 3), np.uint8), np.zeros((301, 34, 3), np.uint8)]:
        for size in (32, 33):
            steps = [T.Resize(size, interpolation=T.InterpolationMode.BICUBIC), T.CenterCrop(size)]
            expected = np.asarray(T.Compose(steps)(Image.fromarray(image)))
            np.testing.assert_array_equal(resize_crop(image, size), expected)


def test_weight_files_are_found_by_file_folder_and_repository(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def found(source: str | None, revision: str | None = None) -> Path:
        return find_file(source, revision, "owner/repo", "ckpt/a.pt", (".pt",))

    (tmp_path / "ckpt").mkdir()
    (tmp_path / "ckpt" / "a.pt").touch()
    assert found(str(tmp_path)) == tmp_path / "ckpt" / "a.pt"
    assert found(str(tmp_path / "ckpt")) == tmp_path / "ckpt" / "a.pt"
    (tmp_path / "ckpt" / "a.pt").rename(tmp_path / "b.pt")
    assert found(str(tmp_path)) == found(str(tmp_path / "b.pt")) == tmp_path / "b.pt"
    (tmp_path / "c.pt").touch()
    with pytest.raises(UserError, match=r"give the file itself; there are b\.pt, c\.pt"):
        found(str(tmp_path))
    with pytest.raises(UserError, match="leave it out"):
        found(str(tmp_path), "main")
    with pytest.raises(UserError, match="no such file"):
        found("./nowhere")

    import huggingface_hub

    def download(repo: str, name: str, **options: Any) -> str:
        raise OSError("no network\nmore")

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    with pytest.raises(UserError, match=r"owner/repo/ckpt/a\.pt: .*cannot be had .*no network"):
        found(None)
    with pytest.raises(UserError, match=r"x/y/z\.pt: .*cannot be had"):
        found("x/y/z.pt")
