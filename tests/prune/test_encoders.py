from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from core.errors import UserError
from data.images.descriptor import describe
from prune.encoders.base import ENCODERS, open_encoder
from prune.encoders.pixels import squash
from prune.encoders.siglip import locate

SIDE, WIDTH = 32, 48


@pytest.fixture(scope="module")
def models(tmp_path_factory) -> Path:
    """A tiny seeded SigLIP model: whole, vision tower alone, in shards, and as a pickle."""
    import torch
    from transformers import SiglipConfig, SiglipModel, SiglipVisionModel

    root = tmp_path_factory.mktemp("siglip")
    torch.manual_seed(0)
    tower = {"hidden_size": WIDTH, "intermediate_size": 96, "num_hidden_layers": 2,
             "num_attention_heads": 4}  # fmt: skip
    text = {**tower, "vocab_size": 64, "max_position_embeddings": 8, "projection_size": WIDTH,
            "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}  # fmt: skip
    config = SiglipConfig(
        vision_config={**tower, "image_size": SIDE, "patch_size": 8}, text_config=text
    )
    whole = SiglipModel(config)
    for parameter in whole.parameters():  # far from any initialisation's zeros and ones
        parameter.data.add_(torch.randn_like(parameter) * 0.1)
    whole.save_pretrained(root / "whole")
    whole.save_pretrained(root / "shards", max_shard_size="60KB")
    vision = SiglipVisionModel(config.vision_config)
    inner = getattr(vision, "vision_model", vision)
    inner.load_state_dict(whole.vision_model.state_dict())
    vision.save_pretrained(root / "vision")
    (root / "pickle").mkdir()
    shutil.copy(root / "whole" / "config.json", root / "pickle")
    torch.save(whole.state_dict(), root / "pickle" / "pytorch_model.bin")
    return root


@pytest.fixture
def images() -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    sizes = [(32, 32), (40, 90), (64, 64), (17, 33)]
    return [rng.integers(0, 256, (*size, 3), dtype=np.uint8) for size in sizes]


def reference(folder: Path, images) -> np.ndarray:
    """The same features by transformers' own loading and image processor."""
    import torch
    from transformers import AutoModel

    try:
        from transformers import SiglipImageProcessorPil as Processor
    except ImportError:  # transformers 4
        from transformers import SiglipImageProcessor as Processor
    model = AutoModel.from_pretrained(folder).eval()
    processor = Processor(size={"height": SIDE, "width": SIDE})
    pixels = processor(images=list(images), return_tensors="pt")["pixel_values"]
    with torch.no_grad():
        out = model.get_image_features(pixel_values=pixels)
    out = getattr(out, "pooler_output", out)  # a tensor in transformers 4
    return torch.nn.functional.normalize(out, dim=-1).numpy()


def edited(source: Path, target: Path, change) -> Path:
    """A copy of a model with its tensors changed by `change(dict)`."""
    from safetensors.torch import load_file, save_file

    shutil.copytree(source, target)
    tensors = load_file(target / "model.safetensors")
    change(tensors)
    save_file(tensors, target / "model.safetensors", metadata={"format": "pt"})
    return target


def test_features_are_those_of_transformers(models, images):
    encoder = open_encoder("git-rsclip", str(models / "whole"))
    encoder.load("cpu", "fp32")
    rows = encoder.encode(images)
    assert encoder.dim == WIDTH and rows.shape == (len(images), WIDTH)
    assert rows.dtype == np.float32
    np.testing.assert_allclose(rows, reference(models / "whole", images), atol=2e-6)
    assert np.abs(rows - rows[0])[1:].max() > 0.01  # and they do depend on the image


@pytest.mark.parametrize("layout", ["whole", "shards", "pickle"])
def test_a_compiled_model_is_read(models, images, tmp_path, layout):
    import torch
    from safetensors.torch import load_file, save_file

    folder = Path(shutil.copytree(models / layout, tmp_path / "wrapped"))
    for path in folder.iterdir():
        if path.suffix == ".safetensors":
            named = {f"_orig_mod.{n}": tensor for n, tensor in load_file(path).items()}
            save_file(named, path, metadata={"format": "pt"})
        elif path.suffix == ".bin":
            state = torch.load(path, weights_only=True)
            torch.save({f"module._orig_mod.{n}": tensor for n, tensor in state.items()}, path)
        elif path.name.endswith("index.json"):
            index = json.loads(path.read_text())
            index["weight_map"] = {f"_orig_mod.{n}": f for n, f in index["weight_map"].items()}
            path.write_text(json.dumps(index))
    encoder, plain = (open_encoder("git-rsclip", str(f)) for f in (folder, models / layout))
    np.testing.assert_array_equal(encoder.encode(images), plain.encode(images))


def test_half_precision_moves_features_by_rounding_only(models, images):
    rows = []
    for precision in ("fp32", "bf16"):
        encoder = open_encoder("git-rsclip", str(models / "whole"))
        encoder.load("cpu", precision)
        rows.append(encoder.encode(images))
    assert not np.array_equal(rows[0], rows[1])
    assert np.einsum("nd,nd->n", *rows).min() > 0.999


@pytest.mark.parametrize("layout", ["vision", "shards", "pickle"])
def test_every_layout_gives_the_same_features(models, images, layout):
    rows = []
    for name in ("whole", layout):
        encoder = open_encoder("git-rsclip", str(models / name))
        encoder.load("cpu", "fp32")
        rows.append(encoder.encode(images))
    assert np.array_equal(*rows)


def test_the_text_tower_is_not_read(models, images, tmp_path):
    def drop_text(tensors):
        for name in [n for n in tensors if not n.startswith("vision_model.")]:
            del tensors[name]

    encoder = open_encoder("git-rsclip", str(edited(models / "whole", tmp_path / "m", drop_text)))
    encoder.load("cpu")
    assert encoder.encode(images).shape == (len(images), WIDTH)


@pytest.mark.parametrize("layout,prefix", [("whole", "vision_model."), ("vision", "")])
def test_a_missing_tensor_is_an_error_not_a_random_one(models, tmp_path, layout, prefix):
    from safetensors.torch import load_file

    stored = load_file(models / layout / "model.safetensors")
    prefix = prefix if any(name.startswith(prefix) for name in stored) else "vision_model."
    name = f"{prefix}head.probe"
    folder = edited(models / layout, tmp_path / "m", lambda tensors: tensors.pop(name))
    with pytest.raises(UserError, match=r"missing: head\.probe"):
        open_encoder("git-rsclip", str(folder)).load("cpu")


def test_an_unexpected_or_misshapen_tensor_is_an_error(models, tmp_path):
    import torch

    def add(tensors):
        tensors["vision_model.encoder.layers.2.extra"] = torch.zeros(2)

    def cut(tensors):
        name = "vision_model.embeddings.position_embedding.weight"
        tensors[name] = tensors[name][:9].clone()

    with pytest.raises(UserError, match=r"unexpected: encoder\.layers\.2\.extra"):
        open_encoder("git-rsclip", str(edited(models / "whole", tmp_path / "a", add))).load("cpu")
    with pytest.raises(UserError, match=r"position_embedding.*\(9, 48\), .* \(16, 48\)"):
        open_encoder("git-rsclip", str(edited(models / "whole", tmp_path / "b", cut))).load("cpu")


def test_a_cut_short_file_and_weights_that_are_not_finite(models, images, tmp_path):
    folder = tmp_path / "short"
    shutil.copytree(models / "whole", folder)
    data = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(data[: len(data) // 2])
    with pytest.raises(UserError, match="unreadable weights"):
        open_encoder("git-rsclip", str(folder)).load("cpu")

    def spoil(tensors):
        tensors["vision_model.post_layernorm.bias"][0] = float("nan")

    encoder = open_encoder("git-rsclip", str(edited(models / "whole", tmp_path / "nan", spoil)))
    encoder.load("cpu")
    with pytest.raises(UserError, match="norm nan"):
        encoder.encode(images)


def test_identity_follows_the_weights_and_not_their_place(models, tmp_path):
    import torch

    core = open_encoder("git-rsclip", str(models / "whole")).core()
    shutil.copytree(models / "whole", tmp_path / "moved")
    assert open_encoder("git-rsclip", str(tmp_path / "moved")).core() == core

    def nudge(tensors):
        tensors["vision_model.head.probe"] += torch.tensor(1e-3)

    folder = edited(models / "whole", tmp_path / "other", nudge)
    assert open_encoder("git-rsclip", str(folder)).core()["weights"] != core["weights"]
    full = open_encoder("git-rsclip", str(models / "whole")).fingerprint()
    assert full["name"] == "git-rsclip" and full["dim"] == WIDTH
    assert set(full["libraries"]) == {"transformers", "torch", "pillow"}
    json.dumps(full)


def test_remembered_digests_are_used_until_the_file_changes(models, tmp_path, monkeypatch):
    import prune.encoders.vision

    folder = tmp_path / "m"
    shutil.copytree(models / "whole", folder)
    digests = tmp_path / "digests.json"
    first = open_encoder("git-rsclip", str(folder), digests=digests).core()["weights"]
    with monkeypatch.context() as patch:
        patch.setattr(prune.encoders.vision, "sha256_file", lambda _: pytest.fail("hashed again"))
        assert open_encoder("git-rsclip", str(folder), digests=digests).core()["weights"] == first
    shutil.rmtree(folder)
    edited(models / "whole", folder, lambda t: t["vision_model.head.probe"].add_(1))
    assert open_encoder("git-rsclip", str(folder), digests=digests).core()["weights"] != first


def preprocessor(models, tmp_path, **values) -> str:
    folder = tmp_path / "p"
    shutil.copytree(models / "whole", folder)
    (folder / "preprocessor_config.json").write_text(json.dumps(values))
    return str(folder)


def test_preprocessing_is_read_from_its_file(models, images, tmp_path):
    size = {"height": SIDE, "width": SIDE}
    folder = preprocessor(
        models, tmp_path, size=size, resample=2, image_mean=[0.4] * 3, image_std=[0.2] * 3
    )
    encoder = open_encoder("git-rsclip", folder)
    plain = open_encoder("git-rsclip", str(models / "whole"))
    assert plain.core()["preprocessing"]["resample"] == 3
    assert encoder.core()["preprocessing"]["resample"] == 2
    assert np.array_equal(encoder.prepare(images[1]), squash(images[1], SIDE, 2))
    assert not np.array_equal(encoder.prepare(images[1]), plain.prepare(images[1]))
    encoder.load("cpu")
    plain.load("cpu")
    assert np.abs(encoder.encode(images[:1]) - plain.encode(images[:1])).max() > 1e-3  # no resize


@pytest.mark.parametrize(
    "values,message",
    [
        ({"size": {"height": 64, "width": 64}}, "the model takes 32 x 32"),
        ({"size": {"shortest_edge": 32}}, "shortest_edge"),
        ({"do_center_crop": True}, "do_center_crop"),
        ({"do_normalize": False}, "do_normalize is false"),
        ({"resample": 17}, "resample 17"),
        ({"image_std": [0.5, 0.0, 0.5]}, "image_std"),
    ],
)
def test_preprocessing_that_is_not_understood_is_refused(models, tmp_path, values, message):
    with pytest.raises(UserError, match=message):
        open_encoder("git-rsclip", preprocessor(models, tmp_path, **values))


def test_offline_hub_says_the_way_out(tmp_path, monkeypatch):
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(UserError, match=r"(?s)hub.*hf download .*--weights FOLDER.*descriptor"):
        locate("nobody/no-such-model")


def test_pickled_weights_are_fetched_where_a_repository_has_no_others(models, monkeypatch):
    import huggingface_hub

    asked = []

    def snapshot(repository, *, allow_patterns, local_files_only, **_):
        asked.append((local_files_only, "pytorch_model*" in allow_patterns))
        if local_files_only:
            raise OSError("not in the cache")
        return str(models / "pickle" if asked[-1][1] else models / "pickle" / "..")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot)
    assert locate("owner/model") == models / "pickle"
    assert asked == [(True, False), (False, False), (False, True)]


def test_weights_that_are_not_there_or_of_another_kind(models, tmp_path):
    with pytest.raises(UserError, match="no such file or folder"):
        open_encoder("git-rsclip", str(tmp_path / "nowhere"))
    with pytest.raises(UserError, match=r"config\.json: missing"):
        open_encoder("git-rsclip", str(tmp_path))
    shutil.copy(models / "whole" / "config.json", tmp_path)
    with pytest.raises(UserError, match=r"neither model\.safetensors nor"):
        open_encoder("git-rsclip", str(tmp_path))
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "clip"}))
    with pytest.raises(UserError, match="model_type clip"):
        open_encoder("git-rsclip", str(tmp_path))
    with pytest.raises(UserError, match="is a local path"):
        open_encoder("git-rsclip", str(models / "whole"), revision="main")


def test_the_descriptor_as_an_encoder(images):
    encoder = open_encoder("descriptor")
    encoder.load()
    np.testing.assert_allclose(encoder.encode(images), describe(images), atol=1e-6)
    assert encoder.fingerprint()["dim"] == encoder.dim == describe(images).shape[1]
    assert encoder.finish([]).shape == (0, encoder.dim)
    with pytest.raises(UserError, match="has no weights"):
        open_encoder("descriptor", "somewhere")
    with pytest.raises(UserError, match="descriptor, git-rsclip"):
        open_encoder("resnet")
    assert list(ENCODERS)[:2] == ["descriptor", "git-rsclip"]


def test_embed_command_with_a_model_and_mended_weights(models, images, tmp_path, monkeypatch):
    from PIL import Image

    import prune.encoders.siglip
    import prune.encoders.vision
    from data.formats.embeddings import Embeddings
    from prune.embed import main as embed

    for i, image in enumerate(images):
        (tmp_path / "set" / f"class{i % 2}").mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(tmp_path / "set" / f"class{i % 2}" / f"{i}.png")
    folder = tmp_path / "model"
    edited(models / "whole", folder, lambda tensors: tensors.pop("vision_model.head.probe"))
    flags = ["--reference", str(tmp_path / "set"), "--out", str(tmp_path / "out"), "--workers", "1"]
    flags += ["--encoder", "git-rsclip", "--weights", str(folder), "--device", "cpu"]
    with pytest.raises(UserError, match=r"head\.probe"):
        embed(flags)
    shutil.copy(models / "whole" / "model.safetensors", folder)
    embed(flags)
    found = Embeddings(tmp_path / "out")
    expected = reference(models / "whole", [images[i] for i in (0, 2, 1, 3)])
    np.testing.assert_allclose(found.matrix(), expected, atol=1e-3)
    assert found.encoder["weights"] == open_encoder("git-rsclip", str(folder)).core()["weights"]
    # Done: neither hashed nor loaded again, nor when the model has moved.
    siglip = prune.encoders.siglip.GitRSCLIP
    monkeypatch.setattr(siglip, "build", lambda _: pytest.fail("loaded"))
    with monkeypatch.context() as patch:
        patch.setattr(prune.encoders.vision, "sha256_file", lambda _: pytest.fail("hashed again"))
        assert embed(flags) == 0
    folder.rename(tmp_path / "moved")
    flags[flags.index(str(folder))] = str(tmp_path / "moved")
    assert embed(flags) == 0
