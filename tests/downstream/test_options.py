"""Condition dropout and guidance, images kept for validation, and which checkpoint is drawn."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from core.errors import UserError
from core.stage import read_manifest
from dit.training.checkpoint import load_model, load_tensors, save_checkpoint
from dit.training.order import plan_batch
from dit.vae.autoencoder import load_vae
from downstream import evaluate, train
from downstream.conditioning.model import ConditionedDiT
from downstream.tasks.config import DownstreamConfig, EvaluateConfig, open_listing
from downstream.tasks.evaluate import conditioned
from downstream.tasks.pictures import load_png
from downstream.tasks.source import DownstreamSource, open_pairs
from tests.downstream.conftest import evaluate_arguments, train_arguments

OPTIONS = ("--condition-dropout", "0.5", "--validation", "0.3", "--keep-every", "3")


@pytest.fixture(scope="module", params=["sr", "sis"])
def dropped(world: Path, request: pytest.FixtureRequest) -> tuple[str, Path]:
    """A run of six steps with both options, its checkpoints at 3 and 6 kept."""
    task, run = request.param, world / f"dropped-{request.param}"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("WANDB_MODE", "disabled")
        patch.setenv("ACCELERATE_USE_CPU", "1")
        assert train.main(train_arguments(world, task, run, *OPTIONS)) == 0
    return task, run


class TestDropout:
    def test_a_dropped_sample_sees_the_null_condition(self) -> None:
        dit = {"input_size": 4, "patch_size": 2, "in_channels": 4, "hidden_size": 16}
        dit |= {"depth": 1, "num_heads": 2}
        model = ConditionedDiT(dit, {"kind": "latent", "channels": 4, "null": True}).eval()
        assert model.null is not None
        generator = torch.Generator().manual_seed(0)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
        x, condition = torch.randn(2, 3, 4, 4, 4, generator=generator)
        t = torch.full((3,), 500)
        out = model(x, t, condition, drop=torch.tensor([True, False, True]))
        assert torch.allclose(out[1], model(x, t, condition)[1], atol=1e-6)
        null = model.null.expand(3, 4, 4, 4)
        assert torch.allclose(out[::2], model(x, t, null)[::2], atol=1e-6)
        assert not torch.allclose(out[0], model(x, t, condition)[0], atol=1e-3)
        plain = ConditionedDiT(dit, {"kind": "latent", "channels": 4})
        with pytest.raises(ValueError, match="without a null condition"):
            plain(x, t, condition, drop=torch.ones(3, dtype=torch.bool))

    def test_decisions_are_a_function_of_seed_step_and_slot(
        self, world: Path, dropped: tuple[str, Path]
    ) -> None:
        task, run = dropped
        _, state = load_model(run)
        listing = open_listing(task, world / task, "both")
        reading = {"cache": 1 << 30, "workers": 1, "quiet": True}
        pairs = open_pairs(listing, "train", state["downstream"], **reading)
        source = DownstreamSource(pairs, load_vae(world / "vae"), 0.25)
        plan = plan_batch(seed=2, step=5, batch=400, n=len(pairs))
        whole = torch.cat([source.load(part)["drop"] for part in plan.split(100)])
        assert 70 < int(whole.sum()) < 130 and whole.dtype == torch.bool
        mine = plan_batch(seed=2, step=5, batch=400, n=len(pairs), slots=slice(100, 200))
        assert torch.equal(source.load(mine)["drop"], whole[100:200])
        other = plan_batch(seed=2, step=6, batch=400, n=len(pairs), slots=slice(100, 200))
        assert not torch.equal(source.load(other)["drop"], whole[100:200])
        assert "drop" not in DownstreamSource(pairs, source.vae).load(mine)

    def test_a_stopped_run_ends_with_the_same_bytes(
        self, world: Path, dropped: tuple[str, Path], tmp_path: Path
    ) -> None:
        task, run = dropped
        first = run / "checkpoints" / "step-0000003"
        shutil.copytree(first, tmp_path / "run" / "checkpoints" / first.name)
        assert train.main(train_arguments(world, task, tmp_path / "run", *OPTIONS)) == 0
        for name in ("model.safetensors", "ema.safetensors", "optimizer.safetensors"):
            ends = [r / "checkpoints" / "step-0000006" / name for r in (run, tmp_path / "run")]
            assert ends[0].read_bytes() == ends[1].read_bytes(), name

    def test_the_null_condition_is_learnt(self, dropped: tuple[str, Path]) -> None:
        null = load_tensors(dropped[1] / "checkpoints" / "step-0000006", "model")["null"]
        assert null.shape == (4, 1, 1) and null.abs().min() > 0


class TestWhatWasMadeBefore:
    def test_default_options_are_no_settings(
        self, world: Path, trained: tuple[str, Path], tmp_path: Path
    ) -> None:
        """So a run that was finished or begun without them is still what is asked for."""
        task, run = trained
        params = read_manifest(run)["params"]
        assert not {"condition_dropout", "validation"} & set(params)
        assert "null" not in load_tensors(run / "checkpoints" / "step-0000006", "model")
        out = tmp_path / "out"
        assert evaluate.main(evaluate_arguments(world, run, task, out)) == 0
        params = read_manifest(out)["params"]
        assert not {"guidance", "checkpoint", "overlap", "segmenter"} & set(params)

    def test_options_are(self, dropped: tuple[str, Path]) -> None:
        params = read_manifest(dropped[1])["params"]
        assert (params["condition_dropout"], params["validation"]) == (0.5, 0.3)


class TestGuidance:
    def test_it_is_the_formula(self, dropped: tuple[str, Path]) -> None:
        task, run = dropped
        model, _ = load_model(run, "raw")
        generator = torch.Generator().manual_seed(0)
        x = torch.randn(3, 4, 4, 4, generator=generator)
        t = torch.tensor([10, 500, 990])
        condition = torch.randn(3, 4, 4, 4, generator=generator)
        if task == "sis":
            condition = torch.randint(0, 6, (3, 16, 16), generator=generator)
        with torch.no_grad():
            own = model(x, t, condition)
            null = model(x, t, condition, drop=torch.ones(3, dtype=torch.bool))
            found = conditioned(model, 2.5)(x, t, condition=condition)
        assert torch.allclose(found[:, :4], null[:, :4] + 2.5 * (own - null)[:, :4], atol=1e-5)
        assert torch.allclose(found[:, 4:], own[:, 4:], atol=1e-6)  # the variance is its own
        assert conditioned(model, 1.0) is model

    def test_it_moves_the_images(
        self, world: Path, dropped: tuple[str, Path], tmp_path: Path
    ) -> None:
        task, run = dropped
        shown = []
        for scale in ("1", "5"):
            out = tmp_path / scale
            more = ["--guidance", scale, "--weights", "raw", "--limit", "1"]
            assert evaluate.main([*evaluate_arguments(world, run, task, out), *more]) == 0
            (path,) = (out / "generated").iterdir()
            shown.append(load_png(path).astype(int))
        assert np.abs(shown[0] - shown[1]).max() > 0

    def test_a_run_without_dropout_is_refused(
        self, world: Path, trained: tuple[str, Path], tmp_path: Path
    ) -> None:
        task, run = trained
        arguments = evaluate_arguments(world, run, task, tmp_path / "out", "--guidance", "2")
        with pytest.raises(UserError, match=r"--guidance 2: .*--condition-dropout 0\.1"):
            evaluate.main(arguments)
        assert not (tmp_path / "out").exists()


class TestValidation:
    def test_it_is_not_trained_on(self, world: Path, dropped: tuple[str, Path]) -> None:
        task, run = dropped
        plain, held = (open_listing(task, world / task, "both", f) for f in (0.0, 0.3))
        kept, out = ({i.key for i in held.items(s)} for s in ("train", "validation"))
        assert kept | out == {i.key for i in plain.items("train")} and not kept & out
        assert len(out) == round(0.3 * 16)  # each a group; of a single tile, each image
        held_out = {"sr": "test", "sis": "val"}[task]
        assert held.items(held_out) == plain.items(held_out)
        assert load_model(run)[1]["downstream"]["validation"] == 0.3
        assert read_manifest(run)["inputs"]["data"] == held.fingerprint("train")

    def test_groups_stay_together(self, world: Path, tmp_path: Path) -> None:
        for split, tile in (("train", 1), ("train", 2), ("val", 2)):
            shutil.copytree(world / f"sis/tile{tile}", tmp_path / split / f"tile{tile}")
        held = open_listing("sis", tmp_path, "both", 0.2)
        groups = [{i.group for i in held.items(split)} for split in ("train", "validation")]
        assert [len(one) for one in groups] == [1, 1] and groups[0] != groups[1]

    def test_a_single_image_cannot_be_divided(self, world: Path, tmp_path: Path) -> None:
        for n in (0, 1):
            (tmp_path / "im").mkdir(exist_ok=True)
            shutil.copy(world / f"sr/im/{n}.png", tmp_path / "im")
        with pytest.raises(UserError, match=r"--validation 0\.2: .* a single image"):
            open_listing("sr", tmp_path, "both", 0.2)


class TestCheckpoint:
    @pytest.mark.parametrize("rule", ["best-validation", "best-test"])
    def test_the_best_is_drawn_and_labelled(
        self, world: Path, dropped: tuple[str, Path], tmp_path: Path, rule: str
    ) -> None:
        """A last checkpoint that is spoilt is not the best."""
        task, run = dropped
        shutil.copytree(run, tmp_path / "run")
        spoil(tmp_path / "run", 6)
        out = tmp_path / "out"
        arguments = evaluate_arguments(world, tmp_path / "run", task, out, "--checkpoint", rule)
        assert evaluate.main(arguments) == 0
        manifest = read_manifest(out)
        found = manifest["summary"]["checkpoint"]
        losses = {one["step"]: one["loss"] for one in found["candidates"]}
        assert losses[3] < losses[6]
        assert (manifest["summary"]["step"], found["step"], found["rule"]) == (3, 3, rule)
        split = {"sr": "test", "sis": "val"}[task] if rule == "best-test" else "validation"
        assert found["split"] == split and manifest["params"]["checkpoint"] == rule
        assert evaluate.main(arguments) == 0  # already done
        last = tmp_path / "last"
        assert evaluate.main(evaluate_arguments(world, tmp_path / "run", task, last)) == 0
        assert read_manifest(last)["summary"]["step"] == 6
        assert "checkpoint" not in read_manifest(last)["summary"]
        first = [next(iter(sorted((o / "generated").iterdir()))) for o in (out, last)]
        assert first[0].read_bytes() != first[1].read_bytes()

    def test_a_single_one_is_said(
        self, world: Path, trained: tuple[str, Path], tmp_path: Path, capsys
    ) -> None:
        task, run = trained
        shutil.copytree(run, tmp_path / "run")
        shutil.rmtree(tmp_path / "run" / "checkpoints" / "step-0000003")
        more = ("--checkpoint", "best-test", "--limit", "1")
        run = tmp_path / "run"
        assert evaluate.main(evaluate_arguments(world, run, task, tmp_path / "out", *more)) == 0
        assert "one checkpoint, nothing to choose from" in capsys.readouterr().out

    def test_refusals(self, world: Path, trained: tuple[str, Path], tmp_path: Path) -> None:
        task, run = trained
        out = tmp_path / "out"
        with pytest.raises(UserError, match=r"kept no images for validation; .* --validation 0\.1"):
            evaluate.main(
                evaluate_arguments(world, run, task, out, "--checkpoint", "best-validation")
            )
        one = run / "checkpoints" / "step-0000003"
        with pytest.raises(UserError, match="no run folder with several"):
            evaluate.main(evaluate_arguments(world, one, task, out, "--checkpoint", "best-test"))
        assert not out.exists()


def spoil(run: Path, step: int) -> None:
    """Give a checkpoint of a run random weights."""
    folder = run / "checkpoints" / f"step-{step:07d}"
    state = json.loads((folder / "state.json").read_text())
    for name in ("format", "files", "digest", "step"):
        del state[name]
    generator = torch.Generator().manual_seed(0)
    tensors = {stem: load_tensors(folder, stem) for stem in ("model", "ema", "optimizer")}
    for stem in ("model", "ema"):
        for value in tensors[stem].values():
            value.add_(torch.randn(value.shape, generator=generator))
    save_checkpoint(run, step, tensors, state, keep=9)


def test_settings_are_checked(world: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="--overlap"):
        EvaluateConfig(run=world, data=world, out=tmp_path, overlap=1.0)
    with pytest.raises(UserError, match="--condition-dropout"):
        DownstreamConfig(task="sr", init=world, data=world, out=tmp_path, condition_dropout=1.0)


@pytest.mark.parametrize("factor", [4, 8, 16])
def test_every_factor_of_super_resolution(world: Path, tmp_path: Path, factor: int) -> None:
    """x4, x8 and x16 from training to images; the condition has as little detail as it says."""
    run, out = tmp_path / "run", tmp_path / "out"
    sizes = ["--factor", str(factor), "--hr-size", "16", "--steps", "1"]
    assert train.main([*train_arguments(world, "sr", run), *sizes]) == 0
    assert evaluate.main(evaluate_arguments(world, run, "sr", out, "--limit", "2")) == 0
    for path in (out / "condition").iterdir():
        seen, real = load_png(path).astype(float), load_png(out / "target" / path.name)
        assert seen.shape == real.shape == (16, 16, 3)
        detail = [np.abs(np.diff(one.astype(float), axis=0)).mean() for one in (seen, real)]
        assert detail[0] < detail[1]
        if factor == 16:  # one pixel is all it saw
            assert np.ptp(seen, axis=(0, 1)).max() == 0
