"""Weights by their plain names: torch.compile and DistributedDataParallel leave traces in them."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from safetensors.torch import load_file, save_file

from core.errors import UserError
from core.weights import plain_name, plain_names
from dit.model.published import load_official
from dit.model.transformer import DiT
from dit.sampling.export import _save_vae
from dit.vae.autoencoder import describe_vae, load_vae
from prune.encoders.network import read_tensors
from tests.dit.tiny_vae import save_tiny_vae

PREFIXES = ["_orig_mod.", "module.", "module._orig_mod.", "_orig_mod.module.", "module.module."]


@pytest.mark.parametrize(
    ("name", "plain"),
    [
        *((f"{prefix}blocks.0.w", "blocks.0.w") for prefix in PREFIXES),
        ("blocks.0._orig_mod.attn.w", "blocks.0.attn.w"),
        ("module.blocks.0._orig_mod._checkpoint_wrapped_module.w", "blocks.0.w"),
        ("blocks.0.w", "blocks.0.w"),
        ("x.module.w", "x.module.w"),  # a module of that name
        ("module", "module"),
    ],
)
def test_plain_name(name, plain):
    assert plain_name(name) == plain


def test_two_tensors_of_one_name_are_refused():
    with pytest.raises(UserError, match=r"'w' twice, once as '_orig_mod.w'"):
        plain_names({"w": 1, "_orig_mod.w": 2}, "file.pt")


def wrap(state, prefix):
    return {f"{prefix}{name.replace('mlp.', '_orig_mod.mlp.')}": v for name, v in state.items()}


@pytest.mark.parametrize("prefix", PREFIXES)
def test_a_compiled_dit_is_read(tmp_path, prefix):
    torch.manual_seed(0)
    model = DiT(4, 2, 4, 32, 2, 2, num_classes=0)
    torch.save({"ema": wrap(model.state_dict(), prefix)}, tmp_path / "dit.pt")
    found = load_official(tmp_path / "dit.pt", num_heads=2)
    assert all(torch.equal(found.state_dict()[n], v) for n, v in model.state_dict().items())


def test_a_compiled_encoder_is_read(tmp_path):
    torch.save({"state_dict": {"module.a._orig_mod.w": torch.ones(2)}}, tmp_path / "e.pt")
    assert list(read_tensors(tmp_path / "e.pt")) == ["a.w"]


@pytest.mark.parametrize("kind", ["safetensors", "bin"])
@pytest.mark.parametrize("prefix", ["_orig_mod.", "module._orig_mod."])
def test_a_compiled_vae_is_read_and_exported_by_plain_names(tmp_path, kind, prefix):
    plain = save_tiny_vae(tmp_path / "plain")
    weights = load_file(plain / "diffusion_pytorch_model.safetensors")
    wrapped = Path(shutil.copytree(plain, tmp_path / "wrapped"))
    (wrapped / "diffusion_pytorch_model.safetensors").unlink()
    named = {f"{prefix}{name}": value for name, value in weights.items()}
    if kind == "bin":
        torch.save(named, wrapped / "diffusion_pytorch_model.bin")
    else:
        save_file(named, wrapped / "diffusion_pytorch_model.safetensors")
    found = load_vae(wrapped).model.state_dict()
    assert all(torch.equal(found[name], value) for name, value in weights.items())
    (tmp_path / "out").mkdir()
    _save_vae(describe_vae(wrapped), tmp_path / "out")
    _, report = AutoencoderKL.from_pretrained(tmp_path / "out", output_loading_info=True)
    assert not any(report[problem] for problem in ("missing_keys", "unexpected_keys"))
    _save_vae(describe_vae(plain), tmp_path / "out")  # the very bytes
    name = "diffusion_pytorch_model.safetensors"
    assert (tmp_path / "out" / name).read_bytes() == (plain / name).read_bytes()
