"""A run is trained on to a larger total of steps, as if it had been asked for at the start."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from core.errors import UserError
from core.settings import science
from core.stage import Stage, fingerprint, read_manifest
from dit.training import checkpoint
from dit.training.config import TrainConfig
from dit.training.stage import TrainingStage, earlier_totals, has_ended, run_of
from tests.dit.test_trainer import _environment, _run, _stats
from tests.dit.training import final_bytes

__all__ = ["_environment"]  # the fixture
SETTINGS = {"checkpoint_every": 2, "log_every": 2, "keep": 1}
TENSORS = ("model", "ema", "optimizer")


@pytest.fixture(scope="module")
def straight(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("straight") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("WANDB_MODE", "disabled")
        patch.setenv("ACCELERATE_USE_CPU", "1")
        _run(folder, steps=9, warmup=6, **SETTINGS)
    return folder


def stage_of(out: Path, **settings) -> TrainingStage:
    given = {"batch": 4, "learning_rate": 1e-3, "warmup": 6, **settings}
    return TrainingStage(out, "dit.train", science(TrainConfig(**given)), {})


def last(out: Path) -> dict[str, bytes]:
    """The tensors of the newest checkpoint, file by file."""
    folder = checkpoint.resolve(out)
    return {name: (folder / f"{name}.safetensors").read_bytes() for name in TENSORS}


def spent(out: Path) -> tuple[int, int]:
    """Images and sessions, as the ledger has them."""
    cost = read_manifest(out)["made"]["cost"]
    return cost["images"], cost["sessions"]


def test_in_two_or_three_times_is_in_one(straight: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    _run(out, steps=4, warmup=6, **SETTINGS)
    first = fingerprint(out)
    names = {total: run_of(out, stage_of(out, steps=total).params, {}) for total in (4, 6)}
    assert not stage_of(out, steps=6).done() and stage_of(out, steps=4).done()
    _run(out, steps=6, warmup=6, **SETTINGS)
    second = fingerprint(out)
    _run(out, steps=9, warmup=6, **SETTINGS)
    assert last(out) == last(straight)  # bit for bit: weights, average, moments
    kept = [line for line in _stats(out) if line["step"] % 2 == 0 or line["step"] == 9]
    strip = lambda rows: [{k: v for k, v in r.items() if k != "timing"} for r in rows]  # noqa: E731
    assert strip(kept) == strip(_stats(straight))
    summary = read_manifest(out)["summary"]
    assert summary["step"] == 9 and summary["earlier"] == [
        {"steps": 4, "fingerprint": first},
        {"steps": 6, "fingerprint": second},
    ]
    assert "earlier" not in read_manifest(straight)["summary"]
    assert stage_of(out, steps=9).done() and has_ended(out)
    assert spent(out) == (9 * 4, 3)
    # What later stages may be of is there, though --keep 1 keeps one; and it is one run.
    steps = [checkpoint.step_of(path) for path in checkpoint.checkpoints(out)]
    assert steps == [4, 6, 9]
    states = [checkpoint.read_state(path) for path in checkpoint.checkpoints(out)]
    assert {state["run"] for state in states} == {names[4]} and names[4] != names[6]
    assert [state["config"]["steps"] for state in states] == [4, 6, 9]


def test_a_stopped_run_goes_on_to_more(straight: Path, tmp_path: Path, monkeypatch) -> None:
    """Killed at 4 of 6 steps, and again on its way to 9."""
    out = tmp_path / "run"
    save = checkpoint.save_checkpoint

    def killed(after: int):
        def saves(run, step, *rest, **more):
            found = save(run, step, *rest, **more)
            if step == after:
                raise KeyboardInterrupt
            return found

        return saves

    for total, after in ((6, 4), (9, 8)):
        monkeypatch.setattr(checkpoint, "save_checkpoint", killed(after))
        with pytest.raises(KeyboardInterrupt):
            _run(out, steps=total, warmup=6, **SETTINGS)
        assert not has_ended(out)
    monkeypatch.setattr(checkpoint, "save_checkpoint", save)
    _run(out, steps=9, warmup=6, **SETTINGS)
    assert last(out) == last(straight) and final_bytes(out)
    assert read_manifest(out)["summary"]["earlier"] == [{"steps": 6, "fingerprint": None}]
    assert spent(out) == (9 * 4, 3)


def test_what_is_not_the_beginning_of_a_longer_run_is_refused(tmp_path: Path) -> None:
    out = tmp_path / "run"
    _run(out, steps=2, schedule="cosine")
    before = (out / "manifest.json").read_bytes()
    with pytest.raises(UserError, match=r"--steps 4: .* to 2 steps with --schedule cosine"):
        stage_of(out, steps=4, schedule="cosine", warmup=0).done()
    with pytest.raises(UserError, match=r"--steps 4: .* to 2 steps with --schedule cosine"):
        _run(out, steps=4, schedule="cosine")
    constant = tmp_path / "constant"
    _run(constant, steps=4)
    for settings, message in (
        ({"steps": 2}, "--steps 2: .* to 4 steps, and a run is not shortened"),
        ({"steps": 6, "seed": 1}, r"seed: 0 there, 1 now"),
        ({"steps": 6, "schedule": "cosine"}, r"schedule: .constant. there, .cosine. now"),
    ):
        with pytest.raises(UserError, match=message):
            stage_of(constant, **{"warmup": 0, **settings}).done()
        with pytest.raises(UserError):
            _run(constant, **settings)
    assert (out / "manifest.json").read_bytes() == before and not earlier_totals(constant)
    (constant / "manifest.json").unlink()  # checkpoints alone say what it is
    with pytest.raises(UserError, match="not shortened"):
        _run(constant, steps=2)
    # Begun to more: the former total is no longer its own.
    (constant / "stage.json").write_text(
        json.dumps({"stage": "dit.train", "params": stage_of(out, steps=9).params, "inputs": {}})
    )
    with pytest.raises(UserError, match="not shortened"):
        stage_of(constant, steps=4).done()


def test_a_later_stage_says_what_it_is_of(tmp_path: Path) -> None:
    run, out = tmp_path / "run", tmp_path / "samples"

    def later() -> Stage:
        newest = checkpoint.resolve(run)
        hints = {"checkpoint": checkpoint.trained_on(newest)}
        inputs = {"checkpoint": checkpoint.fingerprint(newest)}
        return Stage(out, "dit.sample", {}, inputs, hints=hints)

    _run(run, steps=2, **SETTINGS)
    stage = later()
    stage.open()
    stage.finish({}, [], line="made")
    assert later().done()
    _run(run, steps=4, **SETTINGS)
    with pytest.raises(UserError, match=r"trained on since: what is there is of .*step-0000002"):
        later().done()
