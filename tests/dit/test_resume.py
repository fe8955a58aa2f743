"""Continuing a run whose folder was harmed in between, or that is asked for something else."""

from __future__ import annotations

import json
import resource
import shutil
import signal
from pathlib import Path

import pytest

from core.errors import UserError
from core.stage import digest_of
from dit.training import checkpoint
from tests.dit.test_trainer import _environment, _run, _stats
from tests.dit.training import final_bytes

__all__ = ["_environment"]  # the fixture
SETTINGS = {"steps": 6, "checkpoint_every": 2, "log_every": 2, "keep": 9}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("whole") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("WANDB_MODE", "disabled")
        patch.setenv("ACCELERATE_USE_CPU", "1")
        _run(folder, **SETTINGS)
    return folder


def cut_short(whole: Path, out: Path) -> Path:
    """The run as it was when it was killed after step 4."""
    shutil.copytree(whole, out)
    begun = json.loads((out / "manifest.json").read_text())
    kept = {name: begun[name] for name in ("stage", "params", "inputs")}
    (out / "stage.json").write_text(json.dumps(kept))
    (out / "manifest.json").unlink()
    shutil.rmtree(checkpoint.folder_of(out, 6))
    return out


@pytest.mark.parametrize("keep", [1, 2])
def test_new_checkpoints_outlive_damaged_later_ones(whole: Path, tmp_path: Path, keep: int) -> None:
    out = cut_short(whole, tmp_path / "run")
    for step in (2, 4):
        (checkpoint.folder_of(out, step) / "model.safetensors").unlink()
    saved = []
    write = checkpoint.save_checkpoint

    def spied(*arguments, **options) -> Path:
        saved.append(write(*arguments, **options))
        assert checkpoint.latest(out) == saved[-1]  # was deleted for the sake of the damaged
        return saved[-1]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(checkpoint, "save_checkpoint", spied)
        _run(out, **{**SETTINGS, "keep": keep})
    assert [checkpoint.step_of(path) for path in saved] == [2, 4, 6]
    assert final_bytes(out) == final_bytes(whole)


def test_a_checkpoint_of_another_format_is_not_trained_over(whole: Path, tmp_path: Path) -> None:
    out = cut_short(whole, tmp_path / "run")
    path = checkpoint.folder_of(out, 4) / "state.json"
    state = json.loads(path.read_text())
    del state["digest"]
    state["format"] += 1
    path.write_text(json.dumps({**state, "digest": digest_of(state)}))
    before = path.read_bytes()
    with pytest.raises(UserError, match="checkpoint format 2, this version reads 1"):
        _run(out, **SETTINGS)
    assert path.read_bytes() == before


def test_other_settings_are_named_and_leave_no_trace(whole: Path, tmp_path: Path) -> None:
    out = cut_short(whole, tmp_path / "run")
    (out / "stage.json").unlink()  # checkpoints alone say what the folder is of
    with pytest.raises(UserError, match=r"step-0000004: .*learning_rate: 0\.001 there, 0\.1 now"):
        _run(out, **SETTINGS, learning_rate=0.1)
    _run(out, **SETTINGS)
    assert final_bytes(out) == final_bytes(whole)


@pytest.mark.parametrize("garbage", [b"\xff\xfe\n", b"[1]\n", b"{}\n", b"{\n"])
def test_a_damaged_line_of_the_record_costs_that_line(
    whole: Path, tmp_path: Path, garbage: bytes, capsys: pytest.CaptureFixture[str]
) -> None:
    out = cut_short(whole, tmp_path / "run")
    lines = (out / "stats.jsonl").read_bytes().splitlines(keepends=True)
    (out / "stats.jsonl").write_bytes(garbage + b"".join(lines[1:]) + b'{"step": 8, "lo')
    _run(out, **SETTINGS)
    assert [line["step"] for line in _stats(out)] == [4, 6]
    assert "stats.jsonl: line 1 is damaged" in capsys.readouterr().err
    assert final_bytes(out) == final_bytes(whole)


def test_a_finished_run_without_its_record_can_be_closed(
    whole: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    shutil.copytree(whole, out)
    (out / "manifest.json").unlink()
    (out / "stats.jsonl").unlink()
    _run(out, **SETTINGS)
    assert final_bytes(out) == final_bytes(whole)
    shown = capsys.readouterr()
    assert "their last line was lost" in shown.out and "stats.jsonl: gone" in shown.err


def test_no_room_for_a_checkpoint_keeps_the_older_ones(
    whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = cut_short(whole, tmp_path / "run")
    before = {p: p.read_bytes() for p in (out / "checkpoints").rglob("*") if p.is_file()}
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))  # a file of 208 kB does not fit
    try:
        with pytest.raises(UserError, match=r"step-0000006: cannot be written .*step-0000004"):
            _run(out, **SETTINGS)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    after = {p: p.read_bytes() for p in (out / "checkpoints").rglob("*") if p.is_file()}
    assert after == before  # nothing half written either, which would keep the disk full
    _run(out, **SETTINGS)
    assert final_bytes(out) == final_bytes(whole)


def test_a_launchers_accumulation_does_not_divide_the_loss(
    whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ACCELERATE_GRADIENT_ACCUMULATION_STEPS", "4")
    _run(tmp_path / "run", **SETTINGS)
    assert final_bytes(tmp_path / "run") == final_bytes(whole)


@pytest.mark.parametrize(
    "settings",
    [{"learning_rate": float("nan")}, {"clip": float("inf")}, {"seed": 2**64}],
)
def test_settings_that_are_no_numbers_are_refused(tmp_path: Path, settings: dict) -> None:
    with pytest.raises(UserError, match=f"--{next(iter(settings)).replace('_', '-')}"):
        _run(tmp_path / "run", **settings)
    assert not (tmp_path / "run").exists()
