"""The VAE's training step: what each term teaches, on any number of processes, in any bands."""

from __future__ import annotations

import copy
import dataclasses
import json
import multiprocessing
import os
import socket
import sys
import traceback
import weakref
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from core.errors import UserError
from core.stage import fingerprint, read_manifest
from data.images.chips import encode_chip
from dit.encode import main as encode
from dit.training.order import plan_batch
from dit.training.runlog import RunLog
from dit.vae.autoencoder import load_vae
from dit.vae.infrared import read_infrared
from dit.vae.machine import Machine
from dit.vae.recipes import PRESETS, Recipe
from dit.vae.trainer import VaeTrainer
from tests.dit.test_train_vae import offline
from tests.dit.tiny_vae import save_tiny_vae

TINY = dataclasses.replace(
    PRESETS["mini"], block_out_channels=(16, 16, 16), norm_groups=2, start="random", crop=32,
    batch=8, steps=4, validate_every=4, log_every=1, adversarial_start=1, normalised_together=2,
    kl_weight=1.0,
)  # fmt: skip
IMAGES = np.random.default_rng(0).integers(0, 256, (8, 40, 40, 4), dtype=np.uint8)


def gradients(
    monkeypatch: pytest.MonkeyPatch, **changed: Any
) -> tuple[VaeTrainer, dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """A trainer, and its first step's gradients by parameter: autoencoder's, discriminator's."""
    trainer = VaeTrainer(dataclasses.replace(TINY, **changed), 4, 0)
    found: list[dict[str, torch.Tensor]] = []
    for optimizer, module in (
        (trainer.optimizer, trainer.model), (trainer.critic, trainer.discriminator),
    ):  # fmt: skip
        assert module is not None

        def step(module: torch.nn.Module = module) -> None:
            named = module.named_parameters()
            found.append({n: p.grad.clone() for n, p in named if p.grad is not None})

        monkeypatch.setattr(optimizer, "step", step)
    plan = plan_batch(0, 0, 8, 8)
    trainer._update(trainer._ready((plan, IMAGES[plan.indices])))
    return trainer, *found


def test_each_term_reaches_its_weights_and_no_others(monkeypatch: pytest.MonkeyPatch) -> None:
    """The whole step's gradients are those of the loss as it is written, term by term."""
    trainer, model, critic = gradients(monkeypatch)
    assert trainer.discriminator is not None
    network, judge = copy.deepcopy(trainer.network), copy.deepcopy(trainer.discriminator)
    plan = plan_batch(0, 0, 8, 8)
    ((pixels, noise),) = trainer._ready((plan, IMAGES[plan.indices]))
    x = pixels.float() / 127.5 - 1
    y, mean, std, _ = network(x, noise)
    size = x[0].numel()
    l1 = (x - y).abs().mean()
    kl = (0.5 * (mean**2 + std**2 - 1 - 2 * std.log())).sum() / 8
    rebuilt = size * (l1 + 0.5 * trainer.perceptual(x, y).mean())
    fooled = -judge(y).mean()
    last = network.vae.decoder.conv_out.weight
    of_rebuilt, of_fooled = (
        torch.autograd.grad(value, last, retain_graph=True)[0] for value in (rebuilt, fooled)
    )
    weight = of_rebuilt.norm() / (of_fooled.norm() + 1e-4)
    parameters = dict(network.vae.named_parameters())

    def of(loss: torch.Tensor) -> dict[str, torch.Tensor | None]:
        found = torch.autograd.grad(loss, parameters.values(), retain_graph=True, allow_unused=True)
        return dict(zip(parameters, found, strict=True))

    terms = {"rebuilt": of(rebuilt), "kl": of(kl), "fooled": of(0.5 * weight.detach() * fooled)}
    for name, gradient in model.items():
        whole = sum(term[name] for term in terms.values() if term[name] is not None)
        assert torch.is_tensor(whole)
        torch.testing.assert_close(gradient, whole, rtol=2e-3, atol=1e-3 * gradient.abs().max())
        side = name.partition(".")[0]
        reached = {t for t, found in terms.items() if found[name] is not None}
        # KL is the encoder's alone: the decoder comes after it.
        assert reached == ({"rebuilt", "fooled"} if "dec" in side or "post" in side else {*terms})
    loss = 0.5 * (torch.relu(1 - judge(x)).mean() + torch.relu(1 + judge(y.detach())).mean())
    loss.backward()
    for name, parameter in judge.named_parameters():
        torch.testing.assert_close(critic[name], parameter.grad, rtol=1e-3, atol=1e-6)


def test_near_infrared_is_learned_as_the_others_are(monkeypatch: pytest.MonkeyPatch) -> None:
    _, model, _ = gradients(monkeypatch)
    strength = model["decoder.conv_out.weight"].flatten(1).norm(dim=1)
    assert strength.min() > 0.3 * strength.max()


@pytest.mark.parametrize("start", [0, 1])
def test_micro_batches_teach_the_same(tmp_path: Path, start: int) -> None:
    def trained(per_device: int) -> VaeTrainer:
        recipe = dataclasses.replace(TINY, adversarial_start=start, kl_weight=1e-6)
        trainer = VaeTrainer(recipe, 4, 0, Machine(per_device=per_device))
        plans = (plan_batch(0, step, 8, 8) for step in range(2))
        run = tmp_path / f"{per_device}"
        run.mkdir()
        batches = ((plan, IMAGES[plan.indices]) for plan in plans)
        trainer.train(batches, IMAGES, RunLog(run, {}, 0, {}), run)
        return trainer

    whole, parts = trained(0), trained(2)
    assert (whole.micro, parts.micro) == (8, 2)
    before = VaeTrainer(TINY, 4, 0).model.state_dict()
    for name, value in whole.model.state_dict().items():
        moved = (value - before[name]).abs().max()
        assert (parts.model.state_dict()[name] - value).abs().max() <= 0.05 * moved, name


def test_a_micro_batch_that_parts_the_discriminators_groups_is_refused() -> None:
    for machine in (Machine(per_device=3), Machine(per_device=1)):
        with pytest.raises(UserError, match=r"--per-device"):
            VaeTrainer(TINY, 4, 0, machine)
    VaeTrainer(dataclasses.replace(TINY, adversarial_start=0), 4, 0, Machine(per_device=1))


def test_bf16_learns_about_the_same(tmp_path: Path) -> None:
    """Losses under autocast: weights stay float32, and the loss is that of float32 to 1 %."""
    lines = []
    for half in (False, True):
        trainer = VaeTrainer(TINY, 4, 0, Machine(half=half))
        run = tmp_path / str(half)
        run.mkdir()
        plan = plan_batch(0, 0, 8, 8)
        log = RunLog(run, {}, 0, {})
        trainer.train(iter([(plan, IMAGES[plan.indices])]), IMAGES, log, run)
        lines.append(log.last)
        assert {p.dtype for p in trainer.model.parameters()} == {torch.float32}
    assert lines[0]["loss"] != lines[1]["loss"]
    for name in ("loss", "l1", "perceptual"):
        assert lines[1][name] == pytest.approx(lines[0][name], rel=0.01)


def chips(root: Path, bands: int, count: int = 24, side: int = 32) -> Path:
    """A corpus of four-band chips (one GeoTIFF), or of three-band images, and its score table."""
    from data.images.chips import chip_to_file
    from prune.score import main as score

    rng = np.random.default_rng(1)
    tiles = rng.integers(0, 256, (count, side // 4, side // 4, bands), dtype=np.uint8)
    tiles = tiles.repeat(4, 1).repeat(4, 2)
    (root / "corpus").mkdir(parents=True)
    if bands == 4:
        wide = np.concatenate(list(tiles), axis=1)
        (root / "corpus" / "m_4709963_se_14_1_20200831.tif").write_bytes(
            chip_to_file(encode_chip(wide))
        )
        spec = f"{root / 'corpus'}?chip={side}"
    else:
        from PIL import Image

        for i, tile in enumerate(tiles):
            Image.fromarray(tile).save(root / "corpus" / f"{i:02d}.png")
        spec = str(root / "corpus")
    score(["--corpus", spec, "--out", str(root / "scores"), "--workers", "1"])
    return root


def words(root: Path, out: Path, spec: str, *more: str) -> list[str]:
    flags = ["--corpus", spec, "--scores", str(root / "scores"), "--out", str(out)]
    small = "--image-size 32 --crop 32 --steps 3 --batch 8 --device cpu"
    return [*flags, *small.split(), *more]


@pytest.fixture(scope="module")
def four(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A four-band corpus and the VAE that the command trains on it."""
    from dit.train_vae import main

    root = chips(tmp_path_factory.mktemp("four"), 4)
    out = root / "vae"
    assert main(words(root, out, f"{root / 'corpus'}?chip=32", "--export", "ema")) == 0
    return root, out


def test_bands_come_from_the_corpus_and_every_export_is_a_vae(four: tuple[Path, Path]) -> None:
    _, out = four
    summary = read_manifest(out)["summary"]
    assert summary["channels"] == 4 and summary["exported"] == "ema"
    assert {*summary["exports"]} == {"last", "ema"}
    vaes = [load_vae(folder) for folder in (out, out / "ema", out / "last")]
    assert [vae.in_channels for vae in vaes] == [4, 4, 4]
    assert vaes[0].fingerprint == vaes[1].fingerprint != vaes[2].fingerprint
    for vae, which in zip(vaes, ("ema", "ema", "last"), strict=True):
        assert vae.scale == summary["exports"][which]["scaling_factor"]
    quality = summary["exports"]["ema"]["reconstruction"]
    assert len(quality["psnr_band"]) == len(quality["ssim_band"]) == 4 and quality["infrared"]
    assert len(summary["latent"]["channel_std"]) == 4
    assert set(read_infrared(out).r2) == {"linear", "quadratic"}
    assert read_infrared(out / "ema") == read_infrared(out)


def test_a_vae_of_other_bands_is_an_error_that_names_both(
    four: tuple[Path, Path], tmp_path: Path
) -> None:
    root, out = four
    three = chips(tmp_path / "three", 3)
    rgb = save_tiny_vae(tmp_path / "rgb")
    for corpus, spec, vae, said in (
        (root, f"{root / 'corpus'}?chip=32", rgb, r"m_47.*four bands.*rgb takes three"),
        (three, str(three / "corpus"), out, r"\.png.*vae takes four bands"),
    ):
        index = tmp_path / f"{corpus.name}.parquet"
        from prune.select import main as select

        select(["--method", "full", "--scores", str(corpus / "scores"), "--out", str(index)])
        given = ["--corpus", spec, "--subset", str(index), "--vae", str(vae), "--device", "cpu"]
        with pytest.raises(UserError, match=said):
            encode([*given, "--out", str(tmp_path / f"{corpus.name}-z"), "--image-size", "32"])


def test_without_weights_the_substitute_is_said_and_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from dit.train_vae import main

    root, spec = chips(tmp_path, 3), str(tmp_path / "corpus")
    with monkeypatch.context() as patch:
        offline(patch)
        with pytest.raises(UserError, match="--perceptual lpips-vgg"):
            main(words(root, tmp_path / "no", spec, "--perceptual", "lpips-vgg", "--substitute",
                       "refuse"))  # fmt: skip
        assert main(words(root, tmp_path / "vae", spec, "--perceptual", "lpips-vgg")) == 0
    said = capsys.readouterr().out
    assert said.count("cannot be had") == 1 and "In its place" in said
    summary = read_manifest(tmp_path / "vae")["summary"]
    assert (summary["perceptual"], summary["perceptual_asked"]) == ("gradient", "lpips-vgg")


@pytest.mark.parametrize("gan", [False, True])
def test_two_processes_teach_the_same(four: tuple[Path, Path], tmp_path: Path, gan: bool) -> None:
    root, _ = four
    spec = f"{root / 'corpus'}?chip=32"
    more = ["--adversarial-start", "2"] if gan else []
    for world in (1, 2):
        launch(words(root, tmp_path / f"{world}", spec, *more), tmp_path / "log", world)
    one, two = (load_vae(tmp_path / f"{world}" / "last").model.state_dict() for world in (1, 2))
    start = VaeTrainer(_recipe(), 4, 0).model.state_dict()
    # All weights together: where a gradient is but rounding, Adam's step has any sign.
    moved = sum((value - start[name]).square().sum() for name, value in one.items())
    apart = sum((value - two[name]).square().sum() for name, value in one.items())
    assert apart < 0.05 * moved, (apart, moved)
    lines = [_lines(tmp_path / f"{world}") for world in (1, 2)]
    for mine, theirs in zip(*lines, strict=True):
        assert mine["val_loss"] == pytest.approx(theirs["val_loss"], rel=1e-3)


def _recipe() -> Recipe:
    return dataclasses.replace(PRESETS["mini"], crop=32)


def _lines(out: Path) -> list[dict[str, Any]]:
    text = (out / "training" / "stats.jsonl").read_text()
    return [line for line in map(json.loads, text.splitlines()) if "val_loss" in line]


def launch(arguments: list[str], log: Path, world: int) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["dit.vae.train"])
    ranks = [
        context.Process(target=_child, args=(arguments, f"{log}-{rank}", rank, world, port))
        for rank in range(world)
    ]
    for process in ranks:
        process.start()
    for process in ranks:
        process.join()
    texts = [Path(f"{log}-{rank}").read_text() for rank in range(world)]
    assert [process.exitcode for process in ranks] == [0] * world, "\n".join(texts)


def _child(arguments: list[str], log: str, rank: int, world: int, port: int) -> None:
    os.environ.update(WANDB_MODE="disabled", ACCELERATE_USE_CPU="1")
    if world > 1:
        os.environ.update(
            RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(world), MASTER_ADDR="127.0.0.1",
            MASTER_PORT=str(port),
        )  # fmt: skip
    sys.stdout = sys.stderr = open(log, "w", buffering=1)
    from core.command import execute
    from dit.train_vae import main

    torch.set_num_threads(1)
    try:
        execute(lambda: main(arguments))
    except SystemExit:
        raise
    except BaseException:
        traceback.print_exc()
        raise


def test_the_same_vae_again_has_the_same_fingerprint(
    four: tuple[Path, Path], tmp_path: Path
) -> None:
    from dit.train_vae import main

    root, out = four
    given = words(root, tmp_path / "vae", f"{root / 'corpus'}?chip=32", "--export", "ema")
    assert main(given) == 0
    assert fingerprint(out) == fingerprint(tmp_path / "vae")


def stepped(trainer: VaeTrainer, steps: int) -> None:
    """Steps of a trainer without its loop."""
    for step in range(trainer.step, trainer.step + steps):
        plan = plan_batch(0, step, trainer.recipe.batch, 8)
        trainer._update(trainer._ready((plan, IMAGES[plan.indices])))
        trainer.step += 1


def test_compiled_regions_bear_the_adaptive_weight(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two gradients of the last layer come before the step's own, of one graph; they need the
    compiled discriminator's backward once more, and not the decoder's."""
    from functorch.compile import make_boxed_func
    from torch._dynamo.backends.common import aot_autograd

    runs: list[int] = []

    def counted(graph: torch.fx.GraphModule, _: Any) -> Any:
        def run(*given: Any) -> Any:
            runs.append(1)
            return graph(*given)

        return make_boxed_func(run)

    backend = aot_autograd(
        fw_compiler=lambda graph, _: make_boxed_func(graph.forward), bw_compiler=counted
    )
    plain = torch.nn.Module.compile
    monkeypatch.setattr(
        torch.nn.Module, "compile", lambda self, **more: plain(self, backend=backend, **more)
    )
    monkeypatch.setattr(torch._functorch.config, "donated_buffer", True)
    made = []
    for compiled in (False, True):
        trainer = VaeTrainer(TINY, 4, 0, Machine(compiled=compiled))
        stepped(trainer, 2)
        made.append((trainer.meter.state(), trainer.model.decoder.conv_in.weight.detach()))
    # Of a step: encoder and decoder once, the discriminator at the weight, in the step and for
    # both of its own images.
    assert len(runs) == 2 * (1 + 1 + 2 + 2)
    assert not torch._functorch.config.donated_buffer  # a kept graph's buffers are asked for again
    torch.testing.assert_close(made[0][1], made[1][1], rtol=1e-3, atol=1e-4)
    assert made[1][0] == pytest.approx(made[0][0], rel=1e-2)


def test_a_step_that_is_left_out_leaves_nothing_in_the_adaptive_weight() -> None:
    trainer = VaeTrainer(TINY, 4, 0)
    stepped(trainer, 1)
    assert trainer.discriminator is not None
    modules = (trainer.model, trainer.discriminator)  # the critic's own gradient stays finite
    before = trainer._adaptive.clone(), [copy.deepcopy(m.state_dict()) for m in modules]
    held = trainer.perceptual.forward
    trainer.perceptual.forward = lambda x, y: held(x, y) * float("nan")
    stepped(trainer, 1)
    trainer.perceptual.forward = held
    assert torch.equal(trainer._adaptive, before[0]) and trainer.meter.look()[0] == 1
    for module, kept in zip(modules, before[1], strict=True):
        for name, value in module.state_dict().items():
            assert torch.equal(value, kept[name])
    assert np.isfinite(trainer.evaluate(IMAGES)["val_loss"])  # else the run would end here


def test_one_micro_batch_at_a_time_has_its_graph(monkeypatch: pytest.MonkeyPatch) -> None:
    trainer = VaeTrainer(TINY, 4, 0, Machine(per_device=2))
    forward, alive = trainer._forward, []
    seen: list[weakref.ref[torch.Tensor]] = []

    def watched(micro: Any, adversarial: bool) -> dict[str, torch.Tensor]:
        # In the second round a batch's graph has been freed by its backward pass.
        alive.append(sum(made() is not None for made in seen[:4]))
        found = forward(micro, adversarial)
        seen.append(weakref.ref(found["generator"]))
        return found

    monkeypatch.setattr(trainer, "_forward", watched)
    stepped(trainer, 1)
    assert alive == [0] * 8


def test_a_crop_that_the_discriminator_cannot_judge_is_refused() -> None:
    from dit.vae.config import TrainVaeConfig
    from dit.vae.losses import PatchDiscriminator

    def recipe(crop: int, start: int) -> Recipe:
        given: dict[str, Any] = {"image_size": 64, "crop": crop, "adversarial_start": start}
        return TrainVaeConfig(corpus="c", out=Path("o"), scores=Path("s"), **given).recipe()

    with pytest.raises(UserError, match="--crop 20"):
        recipe(20, 5)
    assert recipe(20, 0).crop == 20
    side = recipe(24, 5).crop
    assert PatchDiscriminator(4)(torch.zeros(2, 4, side, side)).shape == (2, 1, 1, 1)
