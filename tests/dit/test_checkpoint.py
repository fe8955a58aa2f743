"""Checkpoints: whole or not there, vouched for, and kept as asked."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch

from core.errors import UserError
from dit.model.transformer import DiT
from dit.training import checkpoint

CONFIG = {"input_size": 4, "patch_size": 2, "in_channels": 4, "hidden_size": 32}
STATE = {
    "model": {"class": "DiT", **CONFIG, "depth": 1, "num_heads": 2},
    "latent": {"shape": [4, 4, 4], "scale": 0.5, "vae_fingerprint": "v", "image_size": 32},
}


def _model(value: float) -> DiT:
    model = DiT(**CONFIG, depth=1, num_heads=2)
    with torch.no_grad():
        model.final_layer.linear.bias.fill_(value)
    return model


def _save(run: Path, step: int, **keep: int) -> Path:
    tensors = {"model": _model(step).state_dict(), "ema": _model(-step).state_dict()}
    tensors["optimizer"] = {"step.a": torch.tensor(3.0)}
    return checkpoint.save_checkpoint(run, step, tensors, STATE, **keep)


def _steps(run: Path) -> list[int]:
    return [checkpoint.step_of(path) for path in checkpoint.checkpoints(run)]


def test_load_model_takes_the_weights_asked_for(tmp_path: Path) -> None:
    folder = _save(tmp_path, 400)
    assert folder.name == "step-0000400"
    for path in (tmp_path, folder, str(folder)):
        ema, state = checkpoint.load_model(path)
        raw, _ = checkpoint.load_model(path, "raw")
        assert ema.final_layer.linear.bias[0] == -400 and raw.final_layer.linear.bias[0] == 400
        assert not ema.training
        assert state["step"] == 400 and state["latent"] == STATE["latent"]
    assert checkpoint.fingerprint(tmp_path) == checkpoint.fingerprint(folder)
    with pytest.raises(UserError, match="weights 'best'"):
        checkpoint.load_model(folder, "best")  # type: ignore[arg-type]


def test_same_content_same_bytes(tmp_path: Path) -> None:
    torch.manual_seed(0)
    one = _save(tmp_path / "a", 5)
    torch.manual_seed(0)
    other = _save(tmp_path / "b", 5)
    for path in sorted(one.iterdir()):
        assert path.read_bytes() == (other / path.name).read_bytes(), path.name
    assert len(list(one.iterdir())) == 4


def test_keeps_the_newest_and_every_mth(tmp_path: Path) -> None:
    for step in range(10, 80, 10):
        _save(tmp_path, step, keep=2, keep_every=30)
    assert _steps(tmp_path) == [30, 60, 70]
    _save(tmp_path, 80, keep=1)
    assert _steps(tmp_path) == [80]
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["step-0000080"]


@pytest.mark.parametrize("name", ["model", "ema", "optimizer"])
@pytest.mark.parametrize("fault", ["truncated", "flipped", "missing"])
def test_latest_skips_a_damaged_newest(
    tmp_path: Path, name: str, fault: str, capfd: pytest.CaptureFixture[str]
) -> None:
    good, newest = _save(tmp_path, 1), _save(tmp_path, 2)
    path = newest / f"{name}.safetensors"
    content = bytearray(path.read_bytes())
    if fault == "truncated":
        path.write_bytes(content[:-1])
    elif fault == "flipped":
        content[-1] ^= 1
        path.write_bytes(content)
    else:
        path.unlink()
    assert checkpoint.latest(tmp_path) == good
    error = capfd.readouterr().err
    assert "DAMAGED CHECKPOINT SKIPPED" in error and str(path) in error
    if name == "ema":
        with pytest.raises(UserError, match="damaged checkpoint"):
            checkpoint.load_model(newest)
        checkpoint.load_model(newest, "raw")  # its own file is whole


@pytest.mark.parametrize("content", ["", "{}", '{"step": 2', '{"step": 3, "digest": "x"}'])
def test_latest_skips_a_damaged_state(tmp_path: Path, content: str) -> None:
    good, newest = _save(tmp_path, 1), _save(tmp_path, 2)
    (newest / "state.json").write_text(content)
    assert checkpoint.latest(tmp_path) == good


def test_an_edited_state_is_noticed(tmp_path: Path) -> None:
    folder = _save(tmp_path, 1)
    state = json.loads((folder / "state.json").read_text())
    state["latent"]["scale"] = 1.0
    (folder / "state.json").write_text(json.dumps(state))
    with pytest.raises(UserError, match="not as it was written"):
        checkpoint.load_model(folder)
    assert checkpoint.latest(tmp_path) is None


def test_leftovers_of_a_killed_writer_are_ignored_and_cleared(tmp_path: Path) -> None:
    good = _save(tmp_path, 1)
    half = tmp_path / "checkpoints" / "step-0000002.tmp-12345"
    shutil.copytree(good, half)
    assert checkpoint.latest(tmp_path) == good and _steps(tmp_path) == [1]
    _save(tmp_path, 2)
    assert not half.exists() and _steps(tmp_path) == [1, 2]


def test_a_damaged_checkpoint_of_the_same_step_is_replaced(tmp_path: Path) -> None:
    folder = _save(tmp_path, 2)
    (folder / "model.safetensors").write_bytes(b"")
    assert _save(tmp_path, 2) == folder == checkpoint.latest(tmp_path)


def test_unknown_model_class_and_missing_run_are_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no complete checkpoint"):
        checkpoint.load_model(tmp_path / "nowhere")
    with pytest.raises(UserError, match="no such checkpoint"):
        checkpoint.load_model(tmp_path / "step-0000009")
    state = {**STATE, "model": {"class": "Other"}}
    tensors = {"model": {"a": torch.zeros(1)}, "ema": {"a": torch.zeros(1)}}
    checkpoint.save_checkpoint(tmp_path, 1, tensors, state)
    with pytest.raises(UserError, match="holds a Other"):
        checkpoint.load_model(tmp_path)
