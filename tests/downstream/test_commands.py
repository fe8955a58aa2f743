"""The two commands from end to end, on a tiny pretrained DiT and a tiny VAE."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from core.errors import UserError
from core.stage import read_manifest
from dit.diffusion.gaussian import Diffusion
from dit.training.checkpoint import load_model, load_tensors, resolve, save_checkpoint
from dit.training.order import plan_batch
from dit.vae.autoencoder import load_vae
from downstream import evaluate, train
from downstream.conditioning.model import extend
from downstream.tasks.config import open_listing
from downstream.tasks.pictures import load_png
from downstream.tasks.source import DownstreamSource, open_pairs
from tests.downstream.conftest import DUBAI, evaluate_arguments, train_arguments

ROOT = Path(__file__).parents[2]
FOLDERS = ("generated", "target", "condition")


def pngs(out: Path) -> dict[str, bytes]:
    return {p.relative_to(out).as_posix(): p.read_bytes() for p in sorted(out.rglob("*.png"))}


def test_training_leaves_a_loadable_run(world: Path, trained: tuple[str, Path]) -> None:
    task, run = trained
    manifest = read_manifest(run)
    assert manifest["stage"] == "downstream.train" and manifest["params"]["task"] == task
    raw, state = load_model(run, "raw")
    ema, _ = load_model(run, "ema")
    assert state["step"] == 6 and state["init"] | {"weights": "ema", "step": 40} == state["init"]
    added = raw.dit.x_embedder.proj.weight[:, 4:]
    assert added.abs().max() > 0 and not torch.equal(added, ema.dit.x_embedder.proj.weight[:, 4:])
    if task == "sis":
        assert state["downstream"]["palette"]["name"] == "dubai"
        assert raw.embed.conv.weight.shape == (4, DUBAI.classes, 4, 4)
    lines = [json.loads(line) for line in (run / "stats.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [3, 6]


def test_starts_from_the_averaged_weights(world: Path, tmp_path: Path) -> None:
    arguments = train_arguments(world, "sr", tmp_path / "run", "--learning-rate", "1e-12")
    assert train.main([*arguments, "--steps", "1"]) == 0
    saved = load_tensors(resolve(tmp_path / "run"), "ema")
    base, _ = load_model(world / "pretrained", "ema")
    expected = extend(base, {"kind": "latent", "channels": 4}, 0).state_dict()
    for name, value in expected.items():
        assert torch.allclose(saved[name], value, atol=1e-9), name


def test_a_stopped_run_ends_with_the_same_bytes(
    world: Path, trained: tuple[str, Path], tmp_path: Path
) -> None:
    task, run = trained
    shutil.copytree(run / "checkpoints", tmp_path / "run" / "checkpoints")
    shutil.rmtree(tmp_path / "run" / "checkpoints" / "step-0000006")
    assert train.main(train_arguments(world, task, tmp_path / "run")) == 0
    lines = (tmp_path / "run" / "stats.jsonl").read_text().splitlines()
    assert json.loads(lines[0])["step"] == 6  # it did continue
    for name in ("model.safetensors", "ema.safetensors", "optimizer.safetensors"):
        files = [r / "checkpoints" / "step-0000006" / name for r in (run, tmp_path / "run")]
        assert files[0].read_bytes() == files[1].read_bytes(), name


def test_evaluation(world: Path, trained: tuple[str, Path], tmp_path: Path, capsys) -> None:
    task, run = trained
    arguments = evaluate_arguments(world, run, task, tmp_path / "out")
    assert evaluate.main(arguments) == 0
    out = tmp_path / "out"
    names = [sorted(p.name for p in (out / folder).iterdir()) for folder in FOLDERS]
    assert names[0] == names[1] == names[2]
    summary = read_manifest(out)["summary"]
    split, count = {"sr": ("test", 4), "sis": ("val", 4)}[task]
    assert (summary["n"], summary["split"], summary["step"]) == (len(names[0]), split, 6)
    assert summary["n"] == count
    assert load_png(out / "grid.png").shape == (count * 18 - 2, 3 * 18 - 2, 3)
    for name in names[0]:
        condition = load_png(out / "condition" / name)
        assert load_png(out / "generated" / name).shape == condition.shape == (16, 16, 3)
        if task == "sis":
            assert DUBAI.ids(condition, name)[1] == 0
            apart = np.abs(condition.astype(int) - load_png(out / "target" / name))
            assert np.median(apart) < 20  # images were painted with their own masks

    # A stopped evaluation: what is missing is drawn again, to the last bit, and nothing else.
    before = pngs(out)
    (out / "manifest.json").unlink()
    (out / "generated" / names[0][0]).unlink()
    shutil.rmtree(out / "condition")
    (out / "generated" / "left-over.png").write_bytes(b"from a set that had more images")
    assert evaluate.main(arguments) == 0
    assert pngs(out) == before
    capsys.readouterr()
    assert evaluate.main(arguments) == 0
    assert "already done" in capsys.readouterr().out


def test_evaluation_in_a_grid_and_limited(
    world: Path, trained: tuple[str, Path], tmp_path: Path
) -> None:
    task, run = trained
    arguments = evaluate_arguments(world, run, task, tmp_path / "out", "--crops", "grid")
    # Tiles of 16 cover images of 24 x 28 by overlapping; limit counts images drawn.
    assert evaluate.main([*arguments, "--limit", "4", "--weights", "raw"]) == 0
    names = sorted(path.stem for path in (tmp_path / "out" / "generated").iterdir())
    bare = names[0].removesuffix("_0_0")
    assert names == [f"{bare}_{top}_{left}" for top in (0, 8) for left in (0, 12)]


def test_an_image_does_not_depend_on_its_batch(
    world: Path, trained: tuple[str, Path], tmp_path: Path
) -> None:
    task, run = trained
    outs = [tmp_path / "one", tmp_path / "all"]
    for out, batch in zip(outs, ("1", "4"), strict=True):
        assert evaluate.main(evaluate_arguments(world, run, task, out, "--batch", batch)) == 0
    for path in (outs[0] / "generated").iterdir():
        other = load_png(outs[1] / "generated" / path.name)
        assert np.abs(load_png(path).astype(int) - other).max() <= 1


def test_the_condition_reaches_the_image(
    world: Path, trained: tuple[str, Path], tmp_path: Path
) -> None:
    """Same noise, same weights, other conditions: other images."""
    task, run = trained
    shutil.copytree(world / task, tmp_path / "data")
    pattern = "*/*.png" if task == "sr" else "*/masks/*.png"
    for path in (tmp_path / "data").glob(pattern):
        Image.open(path).convert("RGB").transpose(Image.Transpose.ROTATE_180).save(path)
    outs = []
    for data in (world / task, tmp_path / "data"):
        outs.append(tmp_path / f"out-{len(outs)}")
        arguments = evaluate_arguments(world, run, task, outs[-1], "--data", str(data))
        assert evaluate.main([*arguments, "--weights", "raw"]) == 0
    one, two = (pngs(out / "generated") for out in outs)
    assert one.keys() == two.keys() and all(one[name] != two[name] for name in one)


@pytest.mark.parametrize("task", ["sr", "sis"])
def test_fine_tuning_teaches_the_condition(world: Path, task: str, tmp_path: Path) -> None:
    """On held-out images the own condition predicts the noise better than another's."""
    run = tmp_path / "run"
    steps = ["--steps", "120", "--batch", "16", "--learning-rate", "3e-3", "--log-every", "50"]
    assert train.main([*train_arguments(world, task, run), *steps]) == 0
    model, state = load_model(run, "ema")
    listing = open_listing(task, world / task, "both")
    split = {"sr": "test", "sis": "val"}[task]
    vae = load_vae(world / "vae")
    held_out = open_pairs(
        listing, split, state["downstream"], cache=1 << 30, workers=1, quiet=True
    )
    source = DownstreamSource(held_out, vae)
    plan = plan_batch(seed=9, step=0, batch=64, n=len(source.keys))
    given = source.load(plan)
    x0, own = given["x0"], given["condition"]
    t = torch.full((64,), 600)
    noise = plan.noise(source.latent_shape)
    with torch.no_grad():
        right, wrong = (
            Diffusion().training_losses(model, x0, t, noise, condition=condition)["mse"]
            for condition in (own, own.roll(1, dims=0))
        )
    assert right.mean() < 0.98 * wrong.mean()  # untaught, they are equal


class TestRefusals:
    def test_another_vae(self, world: Path, trained: tuple[str, Path], tmp_path: Path) -> None:
        task, run = trained
        other = ["--vae", str(world / "other-vae")]
        with pytest.raises(UserError, match="not the VAE"):
            train.main(train_arguments(world, task, tmp_path / "run", *other))
        with pytest.raises(UserError, match="not the VAE"):
            evaluate.main(evaluate_arguments(world, run, task, tmp_path / "out", *other))

    def test_another_image_size(self, world: Path, tmp_path: Path) -> None:
        with pytest.raises(UserError, match="--image-size 16"):
            train.main(train_arguments(world, "sr", tmp_path / "run", "--image-size", "24"))

    def test_another_task(self, world: Path, trained: tuple[str, Path], tmp_path: Path) -> None:
        task, run = trained
        other = {"sr": "sis", "sis": "sr"}[task]
        with pytest.raises(UserError, match=f"was trained for {task}"):
            evaluate.main(evaluate_arguments(world, run, task, tmp_path / "out", "--task", other))

    def test_a_run_that_is_no_pretraining(
        self, world: Path, trained: tuple[str, Path], tmp_path: Path
    ) -> None:
        task, run = trained
        with pytest.raises(UserError, match="expected a DiT"):
            train.main(train_arguments(world, task, tmp_path / "run", "--init", str(run)))
        with pytest.raises(UserError, match="not a run of downstream"):
            evaluate.main(evaluate_arguments(world, world / "pretrained", task, tmp_path / "out"))

    @pytest.mark.parametrize(
        "wrong", [("--factor", "1"), ("--image-size", "0"), ("--workers", "0"), ("--steps", "0")]
    )
    def test_out_of_range(self, world: Path, tmp_path: Path, wrong: tuple[str, str]) -> None:
        with pytest.raises(UserError, match=f"{wrong[0]} {wrong[1]}"):
            train.main(train_arguments(world, "sr", tmp_path / "run", *wrong))

    def test_nothing_was_written(self, world: Path, tmp_path: Path) -> None:
        out = tmp_path / "run"
        with pytest.raises(UserError):
            train.main(train_arguments(world, "sr", out, "--hr-size", "512"))
        assert not out.exists()


def test_a_truncated_picture_is_drawn_again(
    world: Path, trained: tuple[str, Path], tmp_path: Path
) -> None:
    task, run = trained
    arguments = evaluate_arguments(world, run, task, tmp_path / "out")
    assert evaluate.main(arguments) == 0
    complete = pngs(tmp_path / "out")
    for folder in FOLDERS:
        path = sorted((tmp_path / "out" / folder).iterdir())[1]
        path.write_bytes(path.read_bytes()[:-20])
    assert evaluate.main(arguments) == 0
    assert pngs(tmp_path / "out") == complete


def test_a_finished_stage_answers_without_what_is_slow_to_import(
    world: Path, trained: tuple[str, Path], tmp_path: Path
) -> None:
    task, run = trained
    arguments = evaluate_arguments(world, run, task, tmp_path / "out")
    assert evaluate.main(arguments) == 0
    code = (
        "import json, sys, importlib\n"
        "for name, argv in json.loads(sys.argv[1]).items():\n"
        "    assert importlib.import_module(name).main(argv) == 0\n"
        "slow = {'torch', 'diffusers', 'accelerate', 'PIL', 'matplotlib'} & set(sys.modules)\n"
        "assert not slow, slow\n"
    )
    asked = {
        "downstream.train": train_arguments(world, task, run, "--is-done"),
        "downstream.evaluate": arguments,
    }
    done = subprocess.run(
        [sys.executable, "-c", code, json.dumps(asked)], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("already done") == 2


def test_a_begun_evaluation_of_before_goes_on(
    world: Path, trained: tuple[str, Path], tmp_path: Path
) -> None:
    """target/ was called reference/."""
    task, run = trained
    out, arguments = tmp_path / "out", evaluate_arguments(world, run, task, tmp_path / "out")
    assert evaluate.main(arguments) == 0
    complete = pngs(out)
    (out / "target").rename(out / "reference")
    assert evaluate.main(arguments) == 0
    assert pngs(out) == complete


def test_a_file_is_no_run_to_start_from(world: Path, tmp_path: Path) -> None:
    torch.save({}, tmp_path / "dit.pt")
    arguments = train_arguments(world, "sr", tmp_path / "out", "--init", str(tmp_path / "dit.pt"))
    with pytest.raises(UserError, match=r"dit\.pt: a file; give a run of dit\.train"):
        train.main(arguments)


def test_a_vaes_training_is_no_run_to_start_from(world: Path, tmp_path: Path) -> None:
    tensors = {"model": {"weight": torch.zeros(1)}}
    save_checkpoint(tmp_path / "training", 1, tensors, {"model": {"class": "AutoencoderKL"}})
    more = ("--init", str(tmp_path / "training"))
    with pytest.raises(UserError, match="holds a AutoencoderKL, expected a DiT"):
        train.main(train_arguments(world, "sr", tmp_path / "out", *more))
