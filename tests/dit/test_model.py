"""The DiT: published outputs, names, counts, initialisation and checkpoints."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from core.errors import UserError
from dit.model.published import load_official
from dit.model.transformer import MODELS, DiT, build, sincos_2d


@pytest.fixture(scope="module")
def official(golden: Path) -> tuple[DiT, dict[str, torch.Tensor]]:
    model = load_official(golden / "dit_tiny_state.safetensors", num_heads=4)
    return model, load_file(golden / "dit_tiny_outputs.safetensors")


def small(**options) -> DiT:
    torch.manual_seed(0)
    shape = {"input_size": 8, "patch_size": 2, "in_channels": 4, "hidden_size": 32}
    return DiT(**{**shape, "depth": 2, "num_heads": 2, **options})


def randomise(model: torch.nn.Module, std: float = 0.1) -> None:
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * std)


def test_output_is_the_published_one(official, golden):
    model, out = official
    config = json.loads((golden / "dit_tiny_meta.json").read_text())["config"]
    assert {key: model.config[key] for key in config} == config
    with torch.inference_mode():
        ours = model(out["x0"], out["t"], out["y"])
    assert (ours - out["forward"]).abs().max() < 1e-5


def test_other_time_frequencies_differ(official):
    model, out = official
    other = DiT(**{**model.config, "freq_shift": 1}).eval()
    other.load_state_dict(model.state_dict())
    with torch.inference_mode():
        gap = (other(out["x0"], out["t"], out["y"]) - out["forward"]).abs().max()
    assert gap > 1e-3


@pytest.mark.parametrize(
    ("options", "count"),
    [
        ({"num_classes": 1000}, 675_129_632),
        ({"num_classes": 1, "class_dropout_prob": 0.0}, 673_977_632),
        ({"num_classes": 0}, 673_977_632 - 1152),
    ],
)
def test_parameter_counts_of_xl(options, count):
    with torch.device("meta"):
        model = build("DiT-XL/2", 32, 4, **options)
    assert sum(parameter.numel() for parameter in model.parameters()) == count


def test_every_name_builds():
    with torch.device("meta"):
        for name, shape in MODELS.items():
            assert len(build(name, 16, 4).blocks) == shape["depth"]
    with pytest.raises(UserError, match="DiT-XL/2"):
        build("DiT-XXL/2", 16, 4)


def test_initialisation():
    model = build("DiT-mini/2", 16, 4)
    out = model(torch.randn(2, 4, 16, 16), torch.tensor([0, 999]))
    assert torch.equal(out, torch.zeros(2, 8, 16, 16))  # zero final layer
    tokens, c = torch.randn(2, 64, 128), torch.randn(2, 128)
    assert torch.equal(model.blocks[0](tokens, c), tokens)  # adaLN-zero
    bound = (6 / (128 + 3 * 128)) ** 0.5
    weight = model.blocks[3].attn.qkv.weight
    assert bound * 0.99 < weight.abs().max() <= bound
    assert model.t_embedder.mlp[0].weight.std().item() == pytest.approx(0.02, rel=0.03)
    patch_bound = (6 / (16 + 128)) ** 0.5
    assert patch_bound * 0.98 < model.x_embedder.proj.weight.abs().max() <= patch_bound
    assert not model.pos_embed.requires_grad


def test_positions_tell_column_before_row():
    table = sincos_2d(16, 3).reshape(3, 3, 16)
    assert torch.equal(table[0, 2, :8], table[2, 2, :8])  # same column, same first half
    assert torch.equal(table[2, 0, 8:], table[2, 2, 8:])  # same row, same second half
    assert table[0, 2, 0] == pytest.approx(torch.tensor(2.0).sin().item())
    with pytest.raises(ValueError, match="multiple of 4"):
        sincos_2d(18, 3)


def test_unconditional_has_no_label_table():
    model = small(num_classes=0)
    assert not [name for name in model.state_dict() if name.startswith("y_embedder")]
    with pytest.raises(ValueError, match="unconditional"):
        model(torch.randn(1, 4, 8, 8), torch.tensor([3]), torch.tensor([0]))
    with pytest.raises(ValueError, match="null class"):
        _ = model.null_class


def test_labels_and_the_null_class():
    model = small(num_classes=3).eval()
    randomise(model)
    x, t = torch.randn(3, 4, 8, 8), torch.tensor([1, 500, 900])
    y = torch.tensor([0, 1, 2])
    null = model(x, t, torch.full((3,), model.null_class))
    dropped = model(x, t, y, drop=torch.tensor([True, False, True]))
    assert torch.equal(dropped[[0, 2]], null[[0, 2]])
    assert not torch.allclose(dropped[1], null[1], atol=1e-3)
    with pytest.raises(ValueError, match="needs labels"):
        model(x, t)
    single = small(num_classes=1, class_dropout_prob=0.0).eval()
    randomise(single)
    assert torch.equal(single(x, t), single(x, t, torch.zeros(3, dtype=torch.int64)))


def test_label_dropout_in_training():
    model = small(num_classes=2, class_dropout_prob=0.5)
    randomise(model)
    x, t = torch.randn(1, 4, 8, 8).expand(64, -1, -1, -1), torch.full((64,), 10)
    y = torch.zeros(64, dtype=torch.int64)
    outputs = {round(value, 4) for value in model.train()(x, t, y).mean((1, 2, 3)).tolist()}
    assert len(outputs) == 2
    assert len({round(v, 4) for v in model.eval()(x, t, y).mean((1, 2, 3)).tolist()}) == 1


def test_config_rebuilds():
    model = small(num_classes=2, freq_shift=1)
    again = DiT(**json.loads(json.dumps(model.config)))
    again.load_state_dict(model.state_dict())
    assert again.config == model.config


def test_gradient_checkpointing_changes_nothing():
    model = small(num_classes=0).train()
    randomise(model)
    x, t = torch.randn(2, 4, 8, 8), torch.tensor([5, 700])

    def gradients(on: bool) -> list[torch.Tensor]:
        model.gradient_checkpointing = on
        model.zero_grad()
        model(x, t).square().mean().backward()
        return [p.grad.clone() for p in model.parameters() if p.grad is not None]

    assert all(torch.allclose(a, b) for a, b in zip(gradients(False), gradients(True), strict=True))


def test_bfloat16_autocast_keeps_conditioning_exact(official):
    model, out = official
    seen = []
    hook = model.blocks[1].adaLN_modulation.register_forward_hook(lambda m, i, o: seen.append(o))
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        ours = model(out["x0"], out["t"], out["y"])
    hook.remove()
    assert seen[0].dtype == torch.float32
    scale = out["forward"].abs().max()
    assert 0 < (ours.float() - out["forward"]).abs().max() < 0.03 * scale


def test_wrong_shape_is_named():
    with pytest.raises(ValueError, match="4 x 8 x 8, got 4 x 16 x 16"):
        small()(torch.randn(1, 4, 16, 16), torch.tensor([0]))


def test_training_checkpoint_loads(tmp_path, official):
    state = official[0].state_dict()
    other = {key: value + 1 for key, value in state.items()}
    path = tmp_path / "0400000.pt"
    torch.save({"model": other, "ema": state, "opt": {}, "args": argparse.Namespace(a=1)}, path)
    ema = load_official(path, num_heads=4)
    raw = load_official(path, num_heads=4, weights="raw")
    assert torch.equal(ema.x_embedder.proj.bias, state["x_embedder.proj.bias"])
    assert torch.equal(raw.x_embedder.proj.bias, other["x_embedder.proj.bias"])
    torch.save(state, tmp_path / "plain.pt")
    assert torch.equal(
        load_official(tmp_path / "plain.pt", num_heads=4).pos_embed, state["pos_embed"]
    )


def test_bad_checkpoints_are_refused(tmp_path, official):
    with pytest.raises(UserError, match="no such file"):
        load_official(tmp_path / "none.pt")
    (tmp_path / "junk.pt").write_bytes(b"not a checkpoint")
    with pytest.raises(UserError, match="not a readable checkpoint"):
        load_official(tmp_path / "junk.pt")
    state = dict(official[0].state_dict())
    with pytest.raises(UserError, match="num_heads"):
        load_official(state)
    del state["blocks.1.attn.qkv.bias"]
    with pytest.raises(UserError, match=r"blocks\.1\.attn\.qkv\.bias"):
        load_official(state, num_heads=4)
    with pytest.raises(UserError, match="not a DiT"):
        load_official({"weight": torch.zeros(2)})


def test_one_row_table_is_one_class_without_dropout():
    model = small(num_classes=1, class_dropout_prob=0.0)
    loaded = load_official(model.state_dict(), num_heads=2)
    assert loaded.config["num_classes"] == 1
    assert loaded.config["class_dropout_prob"] == 0.0
    assert load_official(small().state_dict(), num_heads=2).config["num_classes"] == 0
