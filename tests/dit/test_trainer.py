"""The loop from inside: non-finite steps, the average, accumulation, the record, W&B's failures."""

from __future__ import annotations

import json
import sys
import types
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from core.errors import UserError
from core.settings import science
from core.stage import Stage
from dit.model.ema import Ema
from dit.model.transformer import MODELS, DiT
from dit.training import checkpoint
from dit.training.config import TrainConfig
from dit.training.loop import train
from dit.training.meter import flops_per_sample, log_line
from dit.training.order import BatchPlan, batch_indices
from dit.training.runlog import RunLog
from dit.training.stage import TrainingStage
from dit.training.tracking import WandbLogger, place_of, wandb_mode
from tests.dit.training import ENV, TINY
from tests.wandb_files import read_runs


@pytest.fixture(autouse=True)
def _environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in ENV.items():
        monkeypatch.setenv(name, value)


class Source:
    """Latents that are the sample's number; those in `bad` are NaN."""

    latent_shape = (4, 4, 4)

    def __init__(self, n: int = 20, bad: tuple[int, ...] = ()) -> None:
        self.keys = [f"image-{i}" for i in range(n)]
        self.bad = bad

    def describe(self) -> dict[str, Any]:
        return {"shape": [4, 4, 4], "scale": 1.0, "vae_fingerprint": "v", "image_size": 32}

    def load(self, plan: BatchPlan) -> dict[str, torch.Tensor]:
        x0 = (
            plan.noise(self.latent_shape, 20)
            + torch.from_numpy(plan.indices)[:, None, None, None]
        )
        for row, index in enumerate(plan.indices.tolist()):
            if index in self.bad:
                x0[row] = torch.nan
        return {"x0": x0}


def _model() -> DiT:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return DiT(input_size=4, in_channels=4, **TINY)


def _run(out: Path, source: Source | None = None, hook: Any = None, **settings: Any) -> DiT:
    defaults = {"steps": 4, "batch": 4, "log_every": 2, "learning_rate": 1e-3}
    config = TrainConfig(**{**defaults, **settings})
    model = _model()
    stage = TrainingStage(out, "dit.train", science(config), {})
    described = {"model": {"class": "DiT", **model.config}}
    try:
        result = train(config, model, source or Source(), out, stage, described, hook)
        assert result.exit_code == 0
    finally:
        stage.close()
    return model


def _stats(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (out / "stats.jsonl").read_text().splitlines()]


def test_a_nonfinite_step_is_left_out_and_counted(tmp_path: Path) -> None:
    """n = batch: every step sees the bad sample, so nothing may ever change."""
    model = _run(tmp_path, Source(4, bad=(2,)))
    for trained, initial in zip(model.parameters(), _model().parameters(), strict=True):
        assert torch.equal(trained, initial)
    assert [line["skipped"] for line in _stats(tmp_path)] == [2, 4]
    assert _stats(tmp_path)[-1]["loss"] is None and _stats(tmp_path)[-1]["grad_norm"] is None
    ema, _ = checkpoint.load_model(tmp_path)
    assert all(torch.isfinite(value).all() for value in ema.state_dict().values())
    moments = checkpoint.load_tensors(checkpoint.checkpoints(tmp_path)[-1], "optimizer")
    assert all(value.abs().max() == 0 for value in moments.values())  # as if never called


def test_other_steps_go_on(tmp_path: Path) -> None:
    _run(tmp_path, Source(20, bad=(7,)), steps=10, log_every=10, clip=1.0)
    hit = sum(7 in batch_indices(0, step, 4, 20) for step in range(10))
    (line,) = _stats(tmp_path)
    assert hit == 2 and line["skipped"] == 2
    assert line["loss"] > 0 and line["grad_norm"] > 0  # means over the other eight
    raw, _ = checkpoint.load_model(tmp_path, "raw")
    assert all(torch.isfinite(value).all() for value in raw.state_dict().values())


def test_ten_in_a_row_end_the_run_with_the_samples_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="10 steps in a row, to step 10"):
        _run(tmp_path, Source(4, bad=(2,)), steps=50)
    found = json.loads((tmp_path / "nonfinite.json").read_text())["keys_by_step"]
    assert list(found) == [str(step) for step in range(1, 11)]
    assert all(sorted(keys) == [f"image-{i}" for i in range(4)] for keys in found.values())
    assert not (tmp_path / "manifest.json").exists()


def test_micro_batches_change_nothing(tmp_path: Path) -> None:
    one = _run(tmp_path / "one", steps=6)
    four = _run(tmp_path / "four", steps=6, per_device=1, recompute=True)
    for p, q in zip(one.parameters(), four.parameters(), strict=True):
        assert (p - q).abs().max() < 1e-5
    for line, other in zip(_stats(tmp_path / "one"), _stats(tmp_path / "four"), strict=True):
        assert line["loss"] == pytest.approx(other["loss"], rel=1e-5)
        assert line["grad_norm"] == pytest.approx(other["grad_norm"], rel=1e-4)


def test_the_logged_loss_is_the_interval_mean(tmp_path: Path) -> None:
    _run(tmp_path / "each", log_every=1)
    _run(tmp_path / "all", log_every=4)
    each, (line,) = _stats(tmp_path / "each"), _stats(tmp_path / "all")
    for name in ("loss", "mse", "vb", "grad_norm"):
        assert line[name] == pytest.approx(sum(one[name] for one in each) / 4)


def test_training_learns(tmp_path: Path) -> None:
    _run(tmp_path, steps=150, log_every=50, learning_rate=3e-3)
    losses = [line["loss"] for line in _stats(tmp_path)]
    assert losses[-1] < 0.8 * losses[0]


def test_clipping_bounds_the_step_not_the_logged_norm(tmp_path: Path) -> None:
    _run(tmp_path / "free", steps=1, log_every=1)
    _run(tmp_path / "clipped", steps=1, log_every=1, clip=1e-3)
    (free,), (clipped,) = _stats(tmp_path / "free"), _stats(tmp_path / "clipped")
    assert free["grad_norm"] == clipped["grad_norm"] > 1e-3
    moments = [
        checkpoint.load_tensors(checkpoint.checkpoints(tmp_path / name)[-1], "optimizer")
        for name in ("free", "clipped")
    ]
    norms = [
        torch.cat([v.flatten() for k, v in m.items() if k.startswith("exp_avg.")]).norm() / 0.1
        for m in moments
    ]
    assert norms[0] == pytest.approx(free["grad_norm"], rel=1e-4)
    assert norms[1] == pytest.approx(1e-3, rel=1e-2)


@pytest.mark.parametrize("warmup", [False, True])
def test_ema_is_the_formula(warmup: bool) -> None:
    weight = torch.nn.Parameter(torch.tensor([1.0, -2.0]))
    ema = Ema({"w": weight}, 0.9, warmup)
    expected = weight.detach().double()
    for step in range(1, 30):
        weight.data = torch.tensor([float(step), 2.0 * step])
        ema.update(step)
        decay = min(0.9, (1 + step) / (10 + step)) if warmup else 0.9
        expected = decay * expected + (1 - decay) * weight.detach().double()
        assert torch.allclose(ema.average["w"].double(), expected, rtol=1e-5)
    before = weight.detach().clone()
    with ema.applied():
        assert torch.allclose(weight.double(), expected, rtol=1e-5)
    assert torch.equal(weight, before)


def test_sample_hook_gets_the_average_and_leaves_no_trace(tmp_path: Path) -> None:
    drawn: list[tuple[int, float]] = []

    def hook(model: torch.nn.Module, step: int) -> Path:
        assert not model.training
        torch.randn(3)  # a hook may use the global generator
        drawn.append((step, sum(p.double().sum().item() for p in model.parameters())))
        return tmp_path / "grid.png"

    with_hook = _run(tmp_path / "a", hook=hook, sample_every=2)
    without = _run(tmp_path / "b")
    for p, q in zip(with_hook.parameters(), without.parameters(), strict=True):
        assert torch.equal(p, q)
    ema, _ = checkpoint.load_model(tmp_path / "a")
    assert [step for step, _ in drawn] == [2, 4]
    assert drawn[-1][1] == sum(p.double().sum().item() for p in ema.parameters())


def test_a_run_that_lost_only_its_manifest_finishes_at_once(tmp_path: Path) -> None:
    _run(tmp_path)
    first = (tmp_path / "manifest.json").read_text()
    (tmp_path / "manifest.json").unlink()
    _run(tmp_path)
    again = (tmp_path / "manifest.json").read_text()
    assert json.loads(first)["fingerprint"] == json.loads(again)["fingerprint"]
    assert len(json.loads((tmp_path / "env.json").read_text())["sessions"]) == 2


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"batch": 0}, "--batch 0"),
        ({"ema_decay": 1.0}, "--ema-decay 1.0"),
        ({"learning_rate": 0.0}, "--learning-rate 0.0"),
        ({"per_device": 3}, "--per-device 3 does not divide"),
        ({"seed": -1}, "--seed -1"),
    ],
)
def test_settings_out_of_range_are_refused(
    tmp_path: Path, settings: dict[str, Any], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        _run(tmp_path, **settings)
    with pytest.raises(UserError, match="nothing to train on"):
        _run(tmp_path, Source(0))


@pytest.mark.parametrize("breaks", ["init", "log"])
def test_wandb_may_fail(
    tmp_path: Path, breaks: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    class Broken:
        def define_metric(self, *_: Any, **__: Any) -> None:
            pass

        def log(self, *_: Any, **__: Any) -> None:
            raise OSError("no route to host")

    def init(**_: Any) -> Broken:
        if breaks == "init":
            raise RuntimeError("no route to host")
        return Broken()

    fake = types.SimpleNamespace(init=init, Settings=lambda **_: None)
    monkeypatch.setitem(sys.modules, "wandb", fake)  # type: ignore[arg-type]
    monkeypatch.setenv("WANDB_MODE", "offline")
    _run(tmp_path)
    assert len(_stats(tmp_path)) == 2
    assert capfd.readouterr().err.count("no route to host") == 1


def test_a_resumed_offline_run_is_one_run_to_sync(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_MODE", "dryrun")
    monkeypatch.setenv("WANDB_RUN_GROUP", "table1")
    monkeypatch.setenv("WANDB_TAGS", "corpus:git10m,method:rsprune,ratio:0.7,seed:3, mine")
    assert wandb_mode() == "offline"
    lines = [{"step": n, "loss": n / 8, "timing": {"seconds": 1.0}} for n in (1, 2, 3)]
    Image.new("RGB", (4, 4)).save(picture := tmp_path / "step-0000002.png")
    (tmp_path / "samples").mkdir()
    stage = Stage(tmp_path, "dit.train", {}, {})
    ids = []
    for done in range(3):  # within a second, perhaps: nothing is written over
        log = RunLog(tmp_path, {"seed": 0, "batch": 8}, done, {}, stage)
        log.write(lines[done])
        if done == 1:
            picture.rename(kept := tmp_path / "samples" / picture.name)
            log.logger.image(kept, 2)
        log.close(0)
        (run,) = read_runs(tmp_path)
        ids.append(run.run.run_id)
        losses = [row for row in run.history if "generation/loss" in row]
        assert [(row["at"], row["step"], row["generation/loss"]) for row in losses] == [
            (line["step"], line["step"], line["loss"]) for line in lines[: done + 1]
        ]
        assert [row["at"] for row in run.history if any("samples/_type" in name for name in row)
                or "generation/samples" in row] == ([2] if done else [])  # fmt: skip
        assert all(row["samples_seen"] == 8 * row["at"] for row in run.history)
        assert losses[-1]["generation/timing/seconds"] == 1.0
    assert len(set(ids)) == 1 and ids[0] == json.loads((tmp_path / "wandb.json").read_text())["id"]
    assert run.axes == {"samples_seen": "", "*": "samples_seen"}
    assert (run.run.run_group, run.run.job_type) == ("table1", "dit.train")
    tags = ["corpus:git10m", "method:rsprune", "ratio:0.7", "seed:3", "mine", "table1"]
    assert sorted(run.run.tags) == sorted(tags)
    assert [run.config[name] for name in ("corpus", "method", "ratio")] == [
        "git10m", "rsprune", 0.7,
    ]  # fmt: skip
    assert run.config["seed"] == 0  # the run's own settings are not written over


def test_a_run_begun_anew_replaces_what_was_logged_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed before its first checkpoint it starts at step 0; with its record lost, all stays."""
    monkeypatch.setenv("WANDB_MODE", "offline")
    for step, folders in ((0, 1), (0, 1), (5, 2)):
        log = RunLog(tmp_path, {"batch": 8}, step, {})
        log.close(0)
        (tmp_path / "stats.jsonl").unlink()
        assert len(read_runs(tmp_path)) == folders


def test_runs_of_one_experiment_are_told_apart_by_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("WANDB_NAME", "WANDB_RUN_GROUP", "WANDB_JOB_TYPE", "WANDB_TAGS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)
    kinds = ("dit", "sr", "sis")
    outs = [Path("runs/mine") / kind / method for kind in kinds for method in ("rsprune", "random")]
    assert len({place_of(out, "dit.train").name for out in outs}) == 6
    assert place_of(outs[0], "dit.train").name == "mine/dit/rsprune"
    assert place_of(outs[0], "dit.train").job_type == "dit.train"
    monkeypatch.setenv("WANDB_JOB_TYPE", "mine")
    assert place_of(outs[0], "dit.train").job_type == "mine"


def test_sessions_of_one_second_do_not_share_a_folder(tmp_path: Path) -> None:
    """Without a record of what was logged before, what other sessions wrote stays."""
    for step in (1, 2):
        logger = WandbLogger(tmp_path, {"seed": 0}, "offline")
        logger.log({"step": step, "loss": 0.5, "timing": {"seconds": 1.0}})
        logger.close(0)
    assert len(list((tmp_path / "wandb").glob("offline-run-*/run-*.wandb"))) == 2


def test_online_only_what_is_lacking_is_logged_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: list[tuple[int, Any]] = []
    asked: dict[str, Any] = {}
    log = lambda values, step: given.append((step, values))  # noqa: E731
    run = types.SimpleNamespace(log=log, step=2, define_metric=lambda *_, **__: None)
    init = lambda **how: asked.update(how) or run  # noqa: E731
    fake = types.SimpleNamespace(init=init, Settings=lambda **_: None)
    monkeypatch.setitem(sys.modules, "wandb", fake)  # type: ignore[arg-type]
    earlier = [{"step": n, "loss": 0.1, "timing": {}} for n in (1, 2, 3)]
    WandbLogger(tmp_path, {}, "online", earlier=earlier)
    assert [step for step, _ in given] == [2, 3]
    assert asked["mode"] == "online" and asked["resume"] == "allow"


@pytest.mark.parametrize(
    ("set_to", "mode"),
    [
        ({"WANDB_MODE": "dryrun"}, "offline"),
        ({"WANDB_MODE": "Offline "}, "offline"),
        ({"WANDB_MODE": "run"}, "online"),
        ({"WANDB_MODE": "disabled"}, "disabled"),
        ({"WANDB_DISABLED": "true", "WANDB_API_KEY": "x"}, "disabled"),
        ({"WANDB_DISABLED": "false", "WANDB_API_KEY": "x"}, "online"),
        ({"WANDB_MODE": "", "WANDB_API_KEY": "x"}, "online"),
    ],
)
def test_wandb_is_as_its_variables_say(
    monkeypatch: pytest.MonkeyPatch, set_to: dict[str, str], mode: str
) -> None:
    monkeypatch.delenv("WANDB_MODE", raising=False)
    for name, value in set_to.items():
        monkeypatch.setenv(name, value)
    assert wandb_mode() == mode


def test_an_unknown_wandb_mode_is_refused_before_anything_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_MODE", "ofline")
    with pytest.raises(UserError, match="WANDB_MODE=ofline: expected one of disabled, dryrun"):
        _run(tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_flops_agree_with_the_published_figure() -> None:
    """DiT-XL/2 at 256 px: 119 G multiply-adds forward, so 0.71 TFLOP forward and backward."""
    config = {**MODELS["DiT-XL/2"], "input_size": 32, "in_channels": 4}
    assert flops_per_sample(config) == pytest.approx(3 * 2 * 118.6e9, rel=0.01)
    assert flops_per_sample({"class": "Other"}) is None


def test_log_line_says_what_matters() -> None:
    line = {"step": 400, "epochs": 0.5, "loss": None, "grad_norm": 1.0, "skipped": 3}
    timing = {"images_per_s": 512.4, "data_wait": 0.004, "eta_s": 3700.0, "mfu": 0.36}
    text = log_line(line, timing, 40_000)
    for part in ("step 400/40,000 (1.0 %)", "512 img/s", "MFU 36.0 %", "wait 0.4 %", "1:01:40"):
        assert part in text
    assert "none finite" in text and "SKIPPED 3" in text


def test_rates_climb_and_fall_as_the_schedule_says(tmp_path: Path) -> None:
    constant = TrainConfig(steps=100, learning_rate=2.0)
    assert [constant.rate(step) for step in (1, 50, 100)] == [2.0, 2.0, 2.0]
    cosine = TrainConfig(steps=100, learning_rate=2.0, schedule="cosine", warmup=4)
    assert [cosine.rate(step) / 2.0 for step in (1, 2)] == pytest.approx([0.25, 0.5], abs=1e-3)
    assert cosine.rate(51) == pytest.approx(1.0)
    assert cosine.rate(100) < 0.001
    _run(tmp_path, schedule="cosine")
    expected = TrainConfig(steps=4, learning_rate=1e-3, schedule="cosine")
    assert [line["lr"] for line in _stats(tmp_path)] == [expected.rate(2), expected.rate(4)]
