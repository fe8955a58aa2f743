"""The training command: killed, stopped, repeated, refused, and on several processes."""

from __future__ import annotations

import json
import random
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from core.stage import manifest_path, read_manifest
from dit.training import checkpoint
from tests.dit.training import final_bytes, flags, latent_store, seen, start, stats, train

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return latent_store(tmp_path_factory.mktemp("latents") / "store")


@pytest.fixture(scope="module")
def whole(store: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run that nothing disturbed."""
    folder = tmp_path_factory.mktemp("whole")
    code, output = train(flags(store, folder / "run"), folder / "log")
    assert code == 0, output
    return folder


def test_run_folder_is_the_record(whole: Path) -> None:
    run = whole / "run"
    lines = stats(run)
    assert [line["step"] for line in lines] == [4, 8, 12]
    assert [line["samples"] for line in lines] == [32, 64, 96]
    assert lines[-1]["epochs"] == 96 / 50
    assert all(line["loss"] == pytest.approx(line["mse"] + line["vb"]) for line in lines)
    assert json.loads((run / "config.json").read_text())["learning_rate"] == 1e-4
    (session,) = json.loads((run / "env.json").read_text())["sessions"]
    assert session["processes"] == 1 and session["packages"]["torch"]
    names = [path.name for path in checkpoint.checkpoints(run)]
    assert names == ["step-0000010", "step-0000012"]  # keep=2
    model, state = checkpoint.load_model(run)
    assert state["step"] == 12 and state["latent"]["image_size"] == 32
    raw, _ = checkpoint.load_model(run / "checkpoints" / "step-0000012", "raw")
    pairs = zip(model.parameters(), raw.parameters(), strict=True)
    assert any((a - b).abs().max() > 1e-6 for a, b in pairs)  # the average lags


def test_again_does_nothing_and_other_settings_are_refused(store: Path, whole: Path) -> None:
    before = final_bytes(whole / "run")
    code, output = train(flags(store, whole / "run", "--per-device", "2"), whole / "again")
    assert code == 0 and "already done" in output  # a machine setting is not another run
    code, output = train(flags(store, whole / "run", "--seed", "1"), whole / "other")
    assert code == 2 and "seed: 0 there, 1 now" in output
    assert final_bytes(whole / "run") == before


def test_is_done_answers_without_torch(store: Path, whole: Path, tmp_path: Path) -> None:
    def ask(*arguments: str) -> int:
        code = (
            "import sys; from core.command import execute; from dit.train import main\n"
            "def ask():\n    code = main()\n    assert 'torch' not in sys.modules\n"
            "    return code\n"
            "execute(ask)"
        )
        command = [sys.executable, "-c", code, "--is-done", *arguments]
        return subprocess.run(command, cwd=ROOT, capture_output=True).returncode

    assert ask(*flags(store, whole / "run")) == 0
    assert ask(*flags(store, tmp_path / "new")) == 3
    assert ask(*flags(store, whole / "run", "--steps", "13")) == 3  # it would be trained on
    assert ask(*flags(store, whole / "run", "--steps", "11")) == 2


def test_killed_at_random_moments_ends_bit_equal(store: Path, tmp_path: Path) -> None:
    many = ("--steps", "30", "--log-every", "7", "--checkpoint-every", "3")
    code, output = train(flags(store, tmp_path / "whole", *many), tmp_path / "log")
    assert code == 0, output
    run, moment = tmp_path / "killed", random.Random(0)
    kills = 0
    for attempt in range(7):
        process = start(flags(store, run, *many), tmp_path / f"log-{attempt}")
        had = checkpoint.checkpoints(run)
        while process.is_alive() and checkpoint.checkpoints(run)[-1:] == had[-1:]:
            time.sleep(0.002)  # until it has come further: no attempt is in vain
        process.join(moment.uniform(0.0, 0.1) if attempt < 6 else None)
        if not process.is_alive():
            break
        process.kill()  # SIGKILL, within a step or within a checkpoint
        process.join()
        kills += 1
    assert process.exitcode == 0 and kills >= 3
    assert final_bytes(run) == final_bytes(tmp_path / "whole")
    assert stats(run) == stats(tmp_path / "whole")
    assert not list(run.rglob("*.tmp-*"))


def test_what_a_kill_in_the_last_checkpoint_leaves_is_removed(store: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    assert train(flags(store, run), tmp_path / "log")[0] == 0
    before = final_bytes(run)
    manifest_path(run).unlink()
    left = run / "checkpoints" / "step-0000008.old.tmp-1"
    shutil.copytree(run / "checkpoints" / "step-0000012", left)
    assert train(flags(store, run), tmp_path / "log")[0] == 0
    assert not left.exists() and final_bytes(run) == before


def test_sigterm_saves_and_asks_to_be_run_again(store: Path, whole: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    code, output = train(flags(store, run), tmp_path / "log", stop_at=6)
    assert code == 75 and "run the same command again" in output
    saved = checkpoint.step_of(checkpoint.checkpoints(run)[-1])
    assert saved in (6, 7)  # steps are loaded one ahead
    code, output = train(flags(store, run), tmp_path / "log")
    assert code == 0 and f"continuing from step {saved}" in output
    assert final_bytes(run) == final_bytes(whole / "run")
    assert stats(run) == stats(whole / "run")


def test_damaged_newest_checkpoint_is_skipped_loudly(store: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    train(flags(store, run), tmp_path / "log")
    before = final_bytes(run)
    newest = run / "checkpoints" / "step-0000012"
    with open(newest / "ema.safetensors", "r+b") as stream:
        stream.truncate(1000)
    code, output = train(flags(store, run), tmp_path / "log")
    assert code == 0 and "DAMAGED CHECKPOINT SKIPPED" in output
    assert "continuing from step 10" in output
    assert final_bytes(run) == before


def _same_to_rounding(run: Path, reference: Path) -> None:
    """Record, weights, average and moments of two finished runs agree to 1e-5."""
    for there, here in zip(stats(run), stats(reference), strict=True):
        assert there == pytest.approx(here, rel=1e-5)
    a, b = (checkpoint.checkpoints(folder)[-1] for folder in (run, reference))
    for stem in ("model", "ema", "optimizer"):
        left, right = checkpoint.load_tensors(a, stem), checkpoint.load_tensors(b, stem)
        assert left.keys() == right.keys()
        for name, value in left.items():
            assert value.shape == right[name].shape
            assert (value - right[name]).abs().max() <= 1e-5, name


@pytest.mark.parametrize(("world", "more"), [(2, ()), (4, ()), (2, ("--shard",))])
def test_several_processes_see_and_learn_the_same(
    store: Path, whole: Path, tmp_path: Path, world: int, more: tuple[str, ...]
) -> None:
    run = tmp_path / "run"
    micro = ("--per-device", "1")  # and each accumulates over its micro batches
    code, output = train(flags(store, run, *micro, *more), tmp_path / "log", world=world)
    assert code == 0, output
    (session,) = json.loads((run / "env.json").read_text())["sessions"]
    assert session["processes"] == world and session["sharded"] == bool(more)
    assert output.count("step 4/12") == 1  # one process speaks
    assert seen(tmp_path / "log", world) == seen(whole / "log", 1)
    _same_to_rounding(run, whole / "run")
    spent, alone = (read_manifest(at)["made"]["cost"] for at in (run, whole / "run"))
    assert (spent["images"], spent["sessions"]) == (alone["images"], 1)  # of all processes


@pytest.mark.parametrize("sessions", [[(1, ()), (2, ())], [(2, ("--shard",)), (1, ()), (2, ())]])
def test_a_run_goes_on_with_another_number_of_processes(
    store: Path, whole: Path, tmp_path: Path, sessions: list[tuple[int, tuple[str, ...]]]
) -> None:
    """Stopped, and continued otherwise: every step sees and learns what it would have."""
    run, lines = tmp_path / "run", {}
    for i, (world, more) in enumerate(sessions):
        last = i == len(sessions) - 1
        log = tmp_path / f"log{i}"
        stop = None if last else 4 * (i + 1)
        code, output = train(flags(store, run, *more), log, world=world, stop_at=stop)
        assert code == (0 if last else 75), output
        lines |= {tuple(line.split()[:2]): line for line in seen(log, world)}
    assert sorted(lines.values()) == sorted(seen(whole / "log", 1))
    _same_to_rounding(run, whole / "run")


@pytest.mark.parametrize(("world", "more"), [(1, ()), (2, ("--shard",))])
def test_sample_grids_are_the_averages_and_leave_no_trace(
    tmp_path: Path, world: int, more: tuple[str, ...]
) -> None:
    from dit.diffusion.samplers import sample_latents
    from dit.vae.autoencoder import load_vae
    from tests.dit.tiny_vae import save_tiny_vae

    vae = load_vae(str(save_tiny_vae(tmp_path / "vae")), "cpu")
    store = latent_store(tmp_path / "store", vae_fingerprint=vae.fingerprint)
    run, plain = tmp_path / "run", tmp_path / "plain"
    grids = ("--sample-every", "6", "--vae", str(tmp_path / "vae"), "--ema-decay", "0.9")
    code, output = train(flags(store, run, *grids, *more), tmp_path / "log", world=world)
    assert code == 0, output
    code, output = train(flags(store, plain, "--ema-decay", "0.9"), tmp_path / "log2")
    assert code == 0, output
    _same_to_rounding(run, plain)
    names = sorted(path.name for path in (run / "samples").iterdir())
    assert names == ["step-0000006.png", "step-0000012.png"]
    model, _ = checkpoint.load_model(run)
    latents = sample_latents(model, (4, 4, 4), 16, sampler="ddim", steps=50, seed=0)
    side = vae.decode(latents).shape[1]
    tiles = vae.decode(latents).reshape(4, 4, side, side, 3).swapaxes(1, 2)
    with Image.open(run / "samples" / names[-1]) as image:
        drawn = np.asarray(image).astype(int)
    assert np.abs(drawn - tiles.reshape(4 * side, 4 * side, 3)).max() <= 1


@pytest.mark.skipif(shutil.which("g++") is None, reason="the compiler of torch.compile is missing")
def test_compiled_blocks_learn_the_same(store: Path, whole: Path, tmp_path: Path) -> None:
    code, output = train(flags(store, tmp_path / "run", "--compile"), tmp_path / "log")
    assert code == 0, output
    assert "with compiling" in output
    _same_to_rounding(tmp_path / "run", whole / "run")


def test_two_processes_stop_together(store: Path, tmp_path: Path) -> None:
    """SIGTERM to the second of two: both leave after the same step, and nobody hangs."""
    code, output = train(flags(store, tmp_path / "run"), tmp_path / "log", world=2, stop_at=6)
    assert code == 75, output
    assert checkpoint.step_of(checkpoint.checkpoints(tmp_path / "run")[-1]) in (6, 7)


def test_batch_must_divide(store: Path, tmp_path: Path) -> None:
    code, output = train(flags(store, tmp_path / "run", "--per-device", "3"), tmp_path / "log")
    assert code == 2 and "--per-device 3 does not divide" in output
