"""Files in the published format, as they come: half precision, cut short, not what they say."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from core.errors import UserError
from dit.model.published import load_official
from dit.model.transformer import DiT
from dit.sample import main
from dit.sampling.export import to_diffusers
from tests.dit.tiny_vae import save_tiny_vae


def state(**options: Any) -> dict[str, torch.Tensor]:
    torch.manual_seed(3)
    model = DiT(8, 2, 4, 36, 2, 3, **options)
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data.add_(torch.randn_like(parameter) * 0.1)
    return model.state_dict()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_keeps_the_position_embeddings_exact(dtype: torch.dtype) -> None:
    whole = state(num_classes=3)
    half = {name: value.to(dtype) for name, value in whole.items()}
    model = load_official(half, num_heads=3)
    assert torch.equal(model.pos_embed, whole["pos_embed"])
    to_diffusers(model)  # refuses others than the fixed ones
    moved = {**half, "pos_embed": half["pos_embed"] + 0.1}
    assert not torch.equal(load_official(moved, num_heads=3).pos_embed, whole["pos_embed"])


class _Runs:
    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.mkdir, ("ran",)


def test_what_is_no_checkpoint_is_one_error(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    good = state()
    save_file(good, tmp_path / "good.safetensors")
    content = (tmp_path / "good.safetensors").read_bytes()
    (tmp_path / "cut.safetensors").write_bytes(content[:-100])
    for suffix in ("pt", "safetensors"):
        (tmp_path / f"page.{suffix}").write_text("<!DOCTYPE html><html></html>" * 20)
        (tmp_path / f"empty.{suffix}").touch()
    torch.save({"model": _Runs(), "ema": good}, tmp_path / "runs.pt")
    broken = {**good, "blocks.0.mlp.fc1.bias": torch.full((144,), torch.nan)}
    faults = {
        "flat": ({**good, "pos_embed": torch.zeros(3)}, "not a DiT state dict"),
        "scalar": ({**good, "final_layer.linear.weight": torch.ones(())}, "not a DiT state dict"),
        "nan": (broken, "blocks.0.mlp.fc1.bias holds values that are not finite"),
        "whole": ({**good, "pos_embed": torch.ones(1, 16, 36).int()}, "holds torch.int32"),
        "raw": ({"model": good}, "holds no 'ema', only 'model'"),
    }
    for name, (content_of, message) in faults.items():
        torch.save(content_of, tmp_path / f"{name}.pt")
        with pytest.raises(UserError, match=message):
            load_official(tmp_path / f"{name}.pt", num_heads=3)
    for name in ("cut.safetensors", "page.safetensors", "empty.safetensors", "page.pt", "empty.pt"):
        with pytest.raises(UserError, match=f"{name}: not a readable checkpoint"):
            load_official(tmp_path / name, num_heads=3)
    with pytest.raises(UserError, match="run code of its own"):
        load_official(tmp_path / "runs.pt", num_heads=3)
    assert not (tmp_path / "ran").exists()
    with pytest.raises(UserError, match="no multiple of num_heads 5"):
        load_official(tmp_path / "good.safetensors", num_heads=5)


def test_heads_of_a_shape_that_was_never_published_can_be_said(tmp_path: Path) -> None:
    vae = save_tiny_vae(tmp_path / "vae")
    torch.save(state(), tmp_path / "odd.pt")
    torch.save(state(learn_sigma=False), tmp_path / "plain.pt")
    small = ["--vae", str(vae), "--n", "1", "--steps", "2", "--out", str(tmp_path / "out")]
    odd = ["--checkpoint", str(tmp_path / "odd.pt"), *small]
    with pytest.raises(UserError, match="--num-heads"):
        main(odd)
    assert main([*odd, "--num-heads", "3"]) == 0
    with pytest.raises(UserError, match="noise and variance"):
        out = ["--num-heads", "3", "--out", str(tmp_path / "other")]
        main(["--checkpoint", str(tmp_path / "plain.pt"), *small, *out])
