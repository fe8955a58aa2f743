"""Judges: what each says of itself, and that none judges what it chose."""

from __future__ import annotations

import json
from pathlib import Path
from typing import get_args

import numpy as np
import pyarrow as pa
import pytest
import torch

from core.errors import UserError
from core.stage import sha256_file
from data.formats.index import write_index
from eval.judges.config import ExtractorName
from eval.judges.extractors import load_extractor
from eval.judges.registry import JUDGES, check_judge, chosen_by, distance_name, same_model
from prune.encoders.base import ENCODERS, open_encoder
from tests.data.test_pretrained import save_lite0
from tests.prune.test_encoders import models  # noqa: F401
from tests.prune.test_networks import CLIP_CONFIG, DINO_ARGS, shaken


def index_of(path: Path, encoder: dict | None) -> Path:
    rows = {"key": ["a"], "shard": ["s"], "row": [0], "entropy": [7.0], "cluster": [-1],
            "similarity": [None], "rank": [0], "chosen": ["random"]}  # fmt: skip
    named = {"method": "rsprune", "params": {}, "inputs": {}, "code": "c", "counts": {"B": 1}}
    write_index(path, pa.table(rows), {**named, "encoder": encoder})
    return path


def test_the_settings_offer_all_judges() -> None:
    assert get_args(ExtractorName) == tuple(JUDGES)
    assert len({judge.space for judge in JUDGES.values()}) == len(JUDGES)
    named = [distance_name(judge.space) for judge in JUDGES.values()]
    assert named[0] == "FID" and all(name.startswith("FD-") for name in named[1:])
    with pytest.raises(UserError, match="unknown extractor 'vgg'; known: inception"):
        load_extractor("vgg")


def test_the_descriptor_does_not_judge_what_it_chose(tmp_path: Path) -> None:
    """As in the mini experiment: the encoder's own record of itself, through the index."""
    encoder = open_encoder("descriptor").fingerprint()
    subset = index_of(tmp_path / "rsprune.parquet", encoder)
    at_random = index_of(tmp_path / "random.parquet", None)
    choosers = {"RS-Prune": chosen_by(subset), "Random": chosen_by(at_random)}
    assert choosers == {"RS-Prune": encoder, "Random": None}
    judge = load_extractor("descriptor").fingerprint
    with pytest.raises(UserError, match=r"chose the subset RS-Prune.*--allow-chooser"):
        check_judge(judge, choosers)
    (label,) = check_judge(judge, choosers, allow=True)
    assert "RS-Prune" in label and "chose" in label
    assert check_judge(judge, {"Random": None}) == []


def test_one_model_under_another_name_or_size_is_the_same() -> None:
    judge = {"name": "git-rsclip", "digest": "d" * 64}
    assert same_model(judge, {"name": "git-rsclip", "weights": "e" * 64})  # stored otherwise
    assert same_model(judge, {"name": "git-rsclip-base", "weights": "e" * 64})
    assert same_model(judge, {"name": "mine", "weights": "d" * 64})
    assert not same_model(judge, {"name": "dinov2", "weights": "e" * 64})
    assert not same_model({"name": "clip", "digest": "d"}, {"name": "remoteclip", "weights": "e"})
    assert not same_model(judge, None)
    assert not same_model({"name": "a"}, {"name": "b"})  # no digests at all
    assert {name for name in JUDGES if same_model({"name": name}, {"name": name})} == set(JUDGES)
    assert {"git-rsclip", "dinov2", "descriptor"} == set(JUDGES) & set(ENCODERS)


def test_what_is_no_index_is_one_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such subset index"):
        chosen_by(tmp_path / "none.parquet")
    (tmp_path / "bad.parquet").write_text("x")
    with pytest.raises(UserError, match="not a readable Parquet file"):
        chosen_by(tmp_path / "bad.parquet")


@pytest.fixture(scope="module")
def images() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (5, 40, 40, 3), dtype=np.uint8)


def test_clip_gives_unit_vectors_with_quickgelu(images: np.ndarray, tmp_path: Path) -> None:
    from open_clip.model import CLIP as ClipModel

    model = shaken(ClipModel(**CLIP_CONFIG, quick_gelu=True))
    torch.save(model.state_dict(), tmp_path / "open_clip_model.bin")
    (tmp_path / "open_clip_config.json").write_text(json.dumps({"model_cfg": CLIP_CONFIG}))
    judge = load_extractor("clip", weights=tmp_path)
    found = judge(images)
    assert np.allclose(np.linalg.norm(found, axis=1), 1, atol=1e-6)
    assert judge.fingerprint["preprocessing"]["activation"] == "QuickGELU"
    assert judge.fingerprint["digest"] == sha256_file(tmp_path / "open_clip_model.bin")
    plain = open_encoder("georsclip", str(tmp_path)).encode(images)  # the same file, plain GELU
    assert np.abs(found - plain).max() > 1e-3
    assert judge.space == "CLIP" and judge.distance == "FD-CLIP"


def test_a_file_of_clip_says_its_size(tmp_path: Path) -> None:
    """ViT-L/14 at 336 pixels is not ViT-L/14."""
    from prune.encoders.clip import architecture

    name, settings = architecture(tmp_path / "ViT-L-14-336.pt")
    assert name == "ViT-L-14-336" and settings["vision_cfg"]["image_size"] == 336
    assert architecture(tmp_path / "ViT-L-14.pt")[0] == "ViT-L-14"


def test_dinov2_gives_its_class_token_as_it_is(images: np.ndarray, tmp_path: Path) -> None:
    import timm
    from safetensors.torch import save_file

    name = "vit_small_patch14_dinov2"
    model = shaken(timm.create_model(name, pretrained=False, num_classes=0, **DINO_ARGS))
    config = {"architecture": name, "num_features": 32, "model_args": DINO_ARGS}
    (tmp_path / "config.json").write_text(json.dumps(config))
    save_file(model.state_dict(), tmp_path / "model.safetensors")
    judge = load_extractor("dinov2", weights=tmp_path)
    found = judge(images)
    norms = np.linalg.norm(found, axis=1)
    assert np.abs(norms - 1).min() > 0.1 and judge.space == "DINOv2"
    expected = open_encoder("dinov2", str(tmp_path)).encode(images)
    assert np.allclose(found / norms[:, None], expected, atol=1e-6)


def test_git_rsclip_is_the_encoders_model(models: Path, images: np.ndarray) -> None:  # noqa: F811
    judge = load_extractor("git-rsclip", weights=models / "whole")
    found = judge(images)
    encoder = open_encoder("git-rsclip", str(models / "whole"))
    expected = encoder.encode(images)
    assert np.allclose(found / np.linalg.norm(found, axis=1)[:, None], expected, atol=1e-6)
    assert same_model(judge.fingerprint, encoder.fingerprint())


def test_lite0_gives_pooled_features(images: np.ndarray, tmp_path: Path) -> None:
    path, model = save_lite0(tmp_path)
    judge = load_extractor("efficientnet-lite0", weights=path)
    found = judge(images)
    assert found.shape == (5, 1280) and judge.distance == "FD-EfficientNetLite0"
    # Its classifier on the pooled features gives what the network gives.
    from PIL import Image

    pixels = np.stack([np.asarray(Image.fromarray(x).resize((224, 224), 3)) for x in images])
    with torch.inference_mode():
        expected = model(torch.from_numpy(pixels).permute(0, 3, 1, 2) / 127.5 - 1)
        given = model.classifier(torch.from_numpy(found).float())
    assert torch.allclose(given, expected, atol=1e-4) and expected.std() > 0.01
    for key in ("name", "preprocessing", "licence", "source", "digest"):
        assert judge.fingerprint[key]
    json.dumps(judge.fingerprint)
