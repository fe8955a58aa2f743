"""The conditioned DiT: equal to the pretrained one at step 0, and able to learn from there."""

from __future__ import annotations

import json

import pytest
import torch

from core.errors import UserError
from dit.model.transformer import DiT
from dit.training.checkpoint import load_model, save_checkpoint
from downstream.conditioning.model import (
    ConditionedDiT,
    MaskEmbed,
    extend,
    widen_patch_embedding,
)

TINY = {"input_size": 4, "patch_size": 2, "in_channels": 4, "hidden_size": 16}
SHAPE = {"depth": 2, "num_heads": 2}
LATENT = {"kind": "latent", "channels": 4}
MASK = {"kind": "mask", "channels": 4, "classes": 5, "factor": 8}


def pretrained(seed: int = 0, **options) -> DiT:
    """A DiT none of whose weights is zero: fresh ones answer zero whatever they are asked."""
    model = DiT(**TINY, **SHAPE, **options)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    return model.eval()


def inputs(seed: int = 1):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(3, 4, 4, 4, generator=generator)
    t = torch.tensor([0, 500, 999])
    latent = torch.randn(3, 4, 4, 4, generator=generator)
    mask = torch.randint(0, 5, (3, 32, 32), generator=generator).to(torch.uint8)
    return x, t, {"latent": latent, "mask": mask}


@pytest.mark.parametrize("condition", [LATENT, MASK], ids=["sr", "sis"])
@pytest.mark.parametrize("options", [{}, {"num_classes": 1, "class_dropout_prob": 0.1}])
def test_equals_the_pretrained_net_at_step_0(condition: dict, options: dict) -> None:
    base = pretrained(**options)
    x, t, conditions = inputs()
    model = extend(base, condition, seed=0)
    given = conditions[condition["kind"]]
    expected = base(x, t)
    assert expected.abs().max() > 0.1
    assert torch.equal(model.eval()(x, t, condition=given), expected)
    assert torch.equal(model.train()(x, t, condition=given), expected)  # no label dropout
    assert torch.equal(model(x, t, condition=torch.ones_like(given)), expected)


@pytest.mark.parametrize("condition", [LATENT, MASK], ids=["sr", "sis"])
def test_the_condition_is_learnt(condition: dict) -> None:
    model = extend(pretrained(), condition, seed=0)
    x, t, conditions = inputs()
    given = conditions[condition["kind"]]
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for _ in range(2):  # E's own gradient passes through weights that are zero at first
        optimizer.zero_grad()
        model(x, t, condition=given).square().mean().backward()
        optimizer.step()
    added = model.dit.x_embedder.proj.weight[:, 4:]
    assert added.abs().max() > 0
    if model.embed is not None:
        assert model.embed.conv.weight.grad.abs().max() > 0
    other = torch.zeros_like(given)
    assert not torch.equal(model(x, t, condition=given), model(x, t, condition=other))


def test_widening_copies_weight_and_bias() -> None:
    model = pretrained()
    weight = model.x_embedder.proj.weight.detach().clone()
    bias = model.x_embedder.proj.bias.detach().clone()
    widen_patch_embedding(model, 3)
    assert torch.equal(model.x_embedder.proj.weight[:, :4], weight)
    assert model.x_embedder.proj.weight.shape[1] == 7
    assert not model.x_embedder.proj.weight[:, 4:].any()
    assert torch.equal(model.x_embedder.proj.bias, bias)
    with pytest.raises(ValueError, match="at least 1"):
        widen_patch_embedding(model, 0)


def test_extending_leaves_the_base_alone_and_is_seeded() -> None:
    base = pretrained()
    before = {name: value.clone() for name, value in base.state_dict().items()}
    one, two, three = (extend(base, MASK, seed=seed) for seed in (7, 7, 8))
    assert all(torch.equal(before[name], value) for name, value in base.state_dict().items())
    assert torch.equal(one.embed.conv.weight, two.embed.conv.weight)
    assert not torch.equal(one.embed.conv.weight, three.embed.conv.weight)


def test_mask_embedding_has_unit_variance_on_a_uniform_mask() -> None:
    embed = MaskEmbed(classes=200, channels=50, factor=8)
    embed.initialise(torch.Generator().manual_seed(0))
    masks = torch.arange(200)[:, None, None].expand(200, 8, 8)
    out = embed(masks)
    assert out.shape == (200, 50, 1, 1)
    assert out.std().item() == pytest.approx(1.0, abs=0.05)


def test_config_and_checkpoint_rebuild_it(tmp_path) -> None:
    model = extend(pretrained(), MASK, seed=3)
    config = json.loads(json.dumps(model.config))
    assert ConditionedDiT(**config).config == model.config
    tensors = {"model": model.state_dict(), "ema": model.state_dict()}
    state = {"model": {"class": "ConditionedDiT", **config}, "latent": {}}
    save_checkpoint(tmp_path, 5, tensors, state)
    back, _ = load_model(tmp_path)
    x, t, conditions = inputs()
    assert torch.equal(back(x, t, conditions["mask"]), model.eval()(x, t, conditions["mask"]))


def test_a_base_of_many_classes_is_refused() -> None:
    with pytest.raises(UserError, match="3 classes"):
        extend(pretrained(num_classes=3), LATENT, seed=0)
