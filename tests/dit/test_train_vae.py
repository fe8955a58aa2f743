"""Training a VAE: its losses, its bookkeeping, and a run that is killed."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch
from PIL import Image
from safetensors import safe_open

from core.errors import UserError
from core.stage import fingerprint, read_manifest, sha256_file
from data.formats.scores import SCORES
from data.formats.tables import write_part
from dit.train_vae import TrainVaeConfig, main
from dit.training import checkpoint
from dit.training.order import plan_batch
from dit.training.runlog import RunLog
from dit.vae.autoencoder import load_vae, to_unit, weights_file
from dit.vae.images import augment
from dit.vae.listing import Listing
from dit.vae.losses import (
    GROUPS,
    GradientDistance,
    NetworkDistance,
    PatchDiscriminator,
    adaptive_weight,
    hinge_loss,
    make_perceptual,
)
from dit.vae.network import build, latent_statistics
from dit.vae.perceptual import Perceptual
from dit.vae.quality import compare
from dit.vae.recipes import PRESETS
from dit.vae.train import split
from dit.vae.trainer import VaeTrainer
from tests.dit.training import stats

TINY = dataclasses.replace(
    PRESETS["mini"],
    block_out_channels=(8, 8, 8),
    norm_groups=1,
    crop=8,
    batch=4,
    steps=9,
    validate_every=3,
    log_every=1,
)


def test_gradient_distance_sees_blur_and_not_brightness() -> None:
    x = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    distance = GradientDistance()
    assert torch.allclose(distance(x, x + 0.3), torch.zeros(2), atol=1e-6)
    blurred = torch.nn.functional.avg_pool2d(x, 3, 1, 1)
    assert (distance(x, blurred) > 0.1).all()
    step = torch.zeros(1, 1, 8, 8)
    step[..., 4:] = 1.0  # one edge of height 1 in 7, 3 and 1 differences of a row
    expected = (1 / 7 + 1 / 3 + 1) / 3
    assert distance(torch.zeros_like(step), step).item() == pytest.approx(expected)


def test_lpips_without_its_weights_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    offline(monkeypatch)
    with pytest.raises(UserError, match=r"vgg16-397923af\.pth.*efficientnet-lite0"):
        make_perceptual("lpips-vgg", "cpu")
    with pytest.raises(UserError, match="how 6 bands are shown"):
        make_perceptual("lpips-vgg", "cpu", channels=6)


def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*arguments: object, **options: object) -> None:
        raise OSError("no network")

    monkeypatch.setattr("torch.hub.load_state_dict_from_url", fails)
    monkeypatch.setattr("torch.hub.get_dir", lambda: "/nowhere")


def test_a_network_sees_four_bands_as_rgb_and_as_infrared() -> None:
    def weighted(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return ((x - y).abs().mean((2, 3)) * torch.tensor([1.0, 10.0, 100.0])).sum(1)

    distance = NetworkDistance(Perceptual("p", {}, weighted, None), GROUPS[4])
    x, y = torch.zeros(1, 4, 4, 4), torch.zeros(1, 4, 4, 4)
    y[:, 3] = 1.0  # an error in the near infrared alone: first band of (NIR, R, G)
    assert distance(x, y).tolist() == [0.5]
    y[:, 3], y[:, 0] = 0.0, 1.0  # red: first of R, G, B and second of NIR, R, G
    assert distance(x, y).tolist() == [5.5]


def test_adversarial_parts() -> None:
    discriminator = PatchDiscriminator(4, width=8)
    assert discriminator(torch.rand(2, 4, 64, 64)).shape == (2, 1, 6, 6)
    assert hinge_loss(torch.tensor([0.0, 2.0]), torch.tensor([0.0, -2.0])).item() == 0.5
    weight = adaptive_weight(torch.full((3,), 4.0), torch.full((3,), 2.0).requires_grad_())
    assert weight.item() == pytest.approx(2.0, rel=1e-3) and not weight.requires_grad
    assert adaptive_weight(torch.ones(3), torch.zeros(3)).item() == 1e4


def test_crops_and_flips_follow_the_picks() -> None:
    chosen = plan_batch(seed=1, step=0, batch=16, n=16)
    images = np.arange(16 * 6 * 6, dtype=np.uint8).reshape(16, 6, 6, 1).repeat(3, axis=3)
    out = augment(images, chosen, 4)
    corners = set()
    for row in range(16):
        top, left = (int(u * 3) for u in chosen.uniforms[row, :2])
        corners.add((top, left))
        part = images[row, top : top + 4, left : left + 4]
        assert (out[row] == (part[:, ::-1] if chosen.flips[row] else part)).all()
    assert len(corners) > 4 and 0 < chosen.flips.sum() < 16


def test_validation_split_is_a_function_of_the_key() -> None:
    images = Listing([(f"image{i}", "files-00000", i) for i in range(100)], [None] * 100)
    training, held = split(images, 10, seed=0)
    assert len(held) == 10 and not set(held.keys) & set(training.keys) and len(training) == 90
    assert split(images.take(range(99, -1, -1)), 10, seed=0)[1] == held
    assert split(images, 10, seed=1)[1] != held
    gone = set(training.keys[:40])
    fewer = images.take(i for i, key in enumerate(images.keys) if key not in gone)
    assert split(fewer, 10, seed=0)[1] == held


def test_validation_is_of_ground_that_training_does_not_show() -> None:
    """Two dates of 50 places: whichever date is held out, the other is in neither part."""
    images = Listing([(f"image{i}", "files-00000", i) for i in range(100)], [None] * 100)
    boxes = [[10.0 * (i % 50), 0.0, 10.0 * (i % 50) + 10.0, 10.0] for i in range(100)]
    places = pa.table({"crs": ["EPSG:26914"] * 100, "bounds": boxes})
    training, held = split(images, 10, seed=0, places=places)
    assert held == split(images, 10, seed=0)[1]
    shown = {int(key.removeprefix("image")) % 50 for key in held.keys}
    assert not shown & {int(key.removeprefix("image")) % 50 for key in training.keys}
    assert len(training) == 100 - 2 * len(shown)


def test_quality_figures() -> None:
    images = np.full((2, 4, 4, 3), 100, dtype=np.uint8)
    rebuilt = images.copy()
    rebuilt[..., 1] += 10
    figures = compare(images, rebuilt)
    assert figures["psnr_band"] == [60.0, pytest.approx(28.1308), 60.0]
    assert figures["l1_band"] == [0.0, 10.0, 0.0]
    assert figures["psnr"] == pytest.approx(32.9020, abs=1e-3)


def test_presets_build_what_they_say() -> None:
    mini = build(PRESETS["mini"], 3, seed=0)
    assert mini.encode(torch.zeros(1, 3, 64, 64)).latent_dist.mean.shape == (1, 4, 16, 16)
    same, other = build(PRESETS["mini"], 3, seed=0), build(PRESETS["mini"], 3, seed=1)
    name = "encoder.conv_in.weight"
    assert torch.equal(mini.state_dict()[name], same.state_dict()[name])
    assert not torch.equal(mini.state_dict()[name], other.state_dict()[name])
    with torch.device("meta"):
        large = build(PRESETS["kl-f8"], 3, seed=0)
    assert sum(p.numel() for p in large.parameters()) == 83_653_863  # Stable Diffusion's VAE


@pytest.mark.parametrize(
    ("channels", "latents", "widths", "groups"),
    [(3, 4, (16, 32, 64), 2), (4, 4, (16, 16, 32), 2), (3, 3, (8, 8), 1)],
)
def test_the_pyramid_start_passes_colours_through(
    channels: int, latents: int, widths: tuple[int, ...], groups: int
) -> None:
    """Untrained, the latent is the reduced image and the decoder enlarges it again."""
    recipe = dataclasses.replace(
        PRESETS["mini"], block_out_channels=widths, norm_groups=groups, latent_channels=latents
    )
    model = build(recipe, channels, seed=0)
    factor = 2 ** (len(widths) - 1)
    wave = torch.linspace(0, 2 * torch.pi, 64)
    image = torch.stack(
        [0.6 * torch.sin(wave + band).outer(torch.cos(0.5 * wave)) for band in range(channels)]
    )[None]
    with torch.no_grad():
        posterior = model.encode(image).latent_dist
        rebuilt = model.decode(posterior.mean).sample
    reduced = torch.nn.functional.avg_pool2d(image, factor)
    inside = (..., slice(2, -2), slice(2, -2))  # the network pads with zeros
    assert (posterior.mean[:, :channels] / 2 - reduced)[inside].abs().max() < 0.12
    inside = (..., slice(12, -12), slice(12, -12))
    assert (rebuilt - image)[inside].abs().mean() < 0.06
    assert posterior.logvar.unique().tolist() == [-6.0]


def test_a_model_too_narrow_for_the_pyramid_is_refused() -> None:
    recipe = dataclasses.replace(PRESETS["mini"], block_out_channels=(8, 8), norm_groups=1)
    with pytest.raises(ValueError, match="4 bands need 16 channels"):
        build(recipe, 4, seed=0)


def test_flags_override_the_preset(tmp_path: Path) -> None:
    config = TrainVaeConfig(corpus=tmp_path, out=tmp_path, steps=7, perceptual="none")
    assert config.recipe() == dataclasses.replace(PRESETS["mini"], steps=7, perceptual="none")
    small = TrainVaeConfig(corpus=tmp_path, out=tmp_path, image_size=16)
    assert small.recipe().crop == 16
    for wrong in ({"crop": 128}, {"crop": 30}, {"image_size": 62}, {"steps": 0}, {"batch": -1}):
        with pytest.raises(UserError):
            TrainVaeConfig(**{"corpus": tmp_path, "out": tmp_path, **wrong}).recipe()


@pytest.mark.parametrize("channels", [3, 4])
def test_training_learns_with_gan_and_any_bands(tmp_path: Path, channels: int) -> None:
    widths = (8, 8, 8) if channels == 3 else (16, 16, 16)
    recipe = dataclasses.replace(TINY, block_out_channels=widths, norm_groups=channels - 2)
    recipe = dataclasses.replace(recipe, crop=32, steps=6, adversarial_start=5, validate_every=6)
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (4, 1, 1, channels), dtype=np.uint8).repeat(32, 1).repeat(32, 2)
    trainer = VaeTrainer(recipe, channels, 0)
    before = trainer.evaluate(images)["val_l1"]
    batches = ((chosen := plan_batch(0, s, 4, 4), images[chosen.indices]) for s in range(6))
    assert trainer.train(batches, images, RunLog(tmp_path, {}, 0, {}), tmp_path)
    lines = [json.loads(line) for line in (tmp_path / "stats.jsonl").read_text().splitlines()]
    assert [("discriminator" in line) for line in lines] == [False] * 4 + [True] * 2
    assert lines[-1]["val_l1"] < before and lines[-1]["kl"] > 0
    assert trainer.best["step"] == 6
    resumed = VaeTrainer(recipe, channels, 5)
    assert resumed.resume(tmp_path) and resumed.step == 6
    assert resumed.discriminator is not None and trainer.discriminator is not None
    for mine, theirs in zip(
        resumed.discriminator.state_dict().values(),
        trainer.discriminator.state_dict().values(),
        strict=True,
    ):
        assert torch.equal(mine, theirs)


def test_best_weights_are_those_of_the_lowest_validation_loss(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    losses, at = iter([3.0, 1.0, 2.0]), {}
    name = "decoder.conv_out.weight"

    def evaluate(self: VaeTrainer, images: np.ndarray) -> dict[str, float]:
        at[self.step] = self.model.state_dict()[name].clone()
        return {"val_loss": next(losses), "val_psnr": 0.0}

    monkeypatch.setattr(VaeTrainer, "evaluate", evaluate)
    images = np.random.default_rng(0).integers(0, 256, (4, 8, 8, 3), dtype=np.uint8)
    trainer = VaeTrainer(TINY, 3, 0)
    batches = ((plan_batch(0, step, 4, 4), images) for step in range(9))
    trainer.train(batches, images, RunLog(tmp_path, {}, 0, {}), tmp_path)
    assert trainer.best["step"] == 6
    assert torch.equal(trainer.weights("best")[name], at[6])
    assert torch.equal(trainer.weights("last")[name], at[9])
    ema = trainer.weights("ema")
    assert torch.equal(ema[name], trainer.ema.average[name]) and not torch.equal(ema[name], at[9])
    assert not torch.equal(at[6], at[9])


def test_a_best_before_the_discriminator_is_no_best_with_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    losses = iter([1.0, 3.0, 2.0])
    figures = {"val_psnr": 0.0}
    monkeypatch.setattr(
        VaeTrainer, "evaluate", lambda self, images: {"val_loss": next(losses), **figures}
    )
    recipe = dataclasses.replace(TINY, crop=32, adversarial_start=4)
    images = np.random.default_rng(0).integers(0, 256, (4, 32, 32, 3), dtype=np.uint8)
    trainer = VaeTrainer(recipe, 3, 0)
    batches = ((plan_batch(0, step, 4, 4), images) for step in range(9))
    trainer.train(batches, images, RunLog(tmp_path, {}, 0, {}), tmp_path)
    assert trainer.best == {"step": 9, "val_loss": 2.0, "val_psnr": 0.0}


def test_latent_scale_is_one_over_the_spread_of_samples() -> None:
    trainer = VaeTrainer(TINY, 3, 0)
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (64, 8, 8, 3), dtype=np.uint8)
    scale, found = latent_statistics(trainer.model, iter([images[:40], images[40:]]))
    with torch.no_grad():
        posterior = trainer.model.encode(to_unit(images)).latent_dist
        samples = torch.cat([posterior.mean + posterior.std * torch.randn(64, 4, 2, 2)] * 1)
    assert scale * samples.std().item() == pytest.approx(1.0, rel=0.1)
    assert found["std"] == pytest.approx(1 / scale, abs=1e-6)
    assert found["channel_std"] == pytest.approx(samples.std((0, 2, 3)).tolist(), rel=0.15)
    assert found["channel_mean"] == pytest.approx(samples.mean((0, 2, 3)).tolist(), abs=0.1)


@pytest.mark.parametrize("stop", [1, 4])
def test_a_gan_goes_on_to_the_same_bytes(tmp_path: Path, stop: int) -> None:
    """Model, discriminator, both optimizers' moments and the best weights, which step 3 gave."""
    recipe = dataclasses.replace(TINY, crop=32, steps=6, adversarial_start=2, validate_every=3)
    images = np.random.default_rng(0).integers(0, 256, (4, 32, 32, 3), dtype=np.uint8)

    def trained(run: Path, until: int) -> VaeTrainer:
        trainer = VaeTrainer(recipe, 3, 0)
        trainer.evaluate = lambda _: {"val_loss": float(trainer.step), "val_psnr": 0.0}  # type: ignore[method-assign]
        trainer.resume(run)
        plans = (plan_batch(0, step, 4, 4) for step in range(trainer.step, until))
        batches = ((plan, images[plan.indices]) for plan in plans)
        log = RunLog(run, {}, trainer.step, {})
        trainer.train(batches, images, log, run, checkpoint_every=1)
        return trainer

    whole = trained(tmp_path / "whole", 6)
    trained(tmp_path / "stopped", stop)
    resumed = trained(tmp_path / "stopped", 6)
    assert whole.best["step"] == resumed.best["step"] == 3
    for one, other in (
        (whole.model.state_dict(), resumed.model.state_dict()),
        (whole.discriminator.state_dict(), resumed.discriminator.state_dict()),
        (whole.best_weights, resumed.best_weights),
    ):
        assert one.keys() == other.keys()
        assert all(torch.equal(value, other[name]) for name, value in one.items())
    assert stats(tmp_path / "whole") == stats(tmp_path / "stopped")


def test_a_discriminator_that_diverges_is_one_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Steps that are not finite change nothing; ten in a row end the run."""
    recipe = dataclasses.replace(TINY, crop=32, adversarial_start=1, steps=20, validate_every=20)
    images = np.random.default_rng(0).integers(0, 256, (4, 32, 32, 3), dtype=np.uint8)
    trainer = VaeTrainer(recipe, 3, 0)
    before = {name: value.clone() for name, value in trainer.model.state_dict().items()}

    def infinite(real: torch.Tensor, fake: torch.Tensor) -> torch.Tensor:
        return hinge_loss(real, fake) * float("inf")

    monkeypatch.setattr("dit.vae.trainer.hinge_loss", infinite)
    batches = ((plan_batch(0, step, 4, 4), images) for step in range(20))
    with pytest.raises(UserError, match=r"step 10: the loss or gradient, 10 steps in a row"):
        trainer.train(batches, images, RunLog(tmp_path, {}, 0, {}), tmp_path)
    assert all(torch.equal(v, before[n]) for n, v in trainer.model.state_dict().items())


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """30 images and their score table, one rejected."""
    root = tmp_path_factory.mktemp("vae-corpus")
    rng = np.random.default_rng(0)
    columns: dict[str, list] = {name: [] for name in SCORES.names}
    for row in range(30):
        pixels = rng.integers(0, 256, (4, 4, 3), dtype=np.uint8).repeat(3, 0).repeat(3, 1)
        (root / "corpus").mkdir(exist_ok=True)
        Image.fromarray(pixels).save(root / "corpus" / f"{row:02d}.png")
        status = "rejected" if row == 7 else "ok"
        digest = sha256_file(root / "corpus" / f"{row:02d}.png")
        values = (f"{row:02d}.png", "files-00000", row, digest, 10, 12, 12, 7.0, status)
        for name, value in zip(SCORES.names, (*values, "", ""), strict=True):
            columns[name].append(value)
    from core.stage import Stage

    stage = Stage(root / "scores", "prune.score", {}, {})
    stage.open()
    part = write_part(root / "scores", 0, columns, SCORES)
    stage.finish({}, [part.name], "scored")
    return root


def command(root: Path, out: Path, *more: str) -> list[str]:
    flags = f"--corpus {root / 'corpus'} --scores {root / 'scores'} --out {out} --image-size 12"
    return [*f"{flags} --crop 8 --steps 8 --batch 4 --device cpu".split(), *more]


EVERY = ("--validate-every", "3")


def test_a_killed_training_ends_with_the_same_bytes(corpus: Path, tmp_path: Path) -> None:
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    slow = (  # killed in step 6: after the checkpoint of step 3 and the stats of step 5
        "import sys; from dit import train_vae\n"
        "from dit.vae import config, trainer as vae_trainer\n"
        "real = vae_trainer.VaeTrainer._update\n"
        "def update(self, *given):\n"
        "    if self.step == 5: print('FIVE', flush=True); import time; time.sleep(60)\n"
        "    return real(self, *given)\n"
        "vae_trainer.VaeTrainer._update = update; config.PRESETS['mini'] = "
        "__import__('dataclasses').replace(config.PRESETS['mini'], log_every=1)\n"
        "train_vae.main(sys.argv[1:])"
    )
    environment = {**os.environ, "OMP_NUM_THREADS": str(torch.get_num_threads())}
    process = subprocess.Popen(
        [sys.executable, "-c", slow, *command(corpus, broken, *EVERY)],
        stdout=subprocess.PIPE, text=True, env=environment,
    )  # fmt: skip
    assert process.stdout is not None
    assert any("FIVE" in line for line in process.stdout)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert [line["step"] for line in stats(broken / "training")] == [1, 2, 3, 4, 5]
    (saved,) = checkpoint.checkpoints(broken / "training")
    assert checkpoint.step_of(saved) == 3
    assert not (broken / "config.json").exists()
    preset = dataclasses.replace(PRESETS["mini"], log_every=1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(PRESETS, "mini", preset)
        assert main(command(corpus, broken, *EVERY)) == 0
        assert main(command(corpus, whole, *EVERY)) == 0
    assert fingerprint(whole) == fingerprint(broken)
    for name in ("config.json", "diffusion_pytorch_model.safetensors", "reconstructions.png"):
        assert (whole / name).read_bytes() == (broken / name).read_bytes(), name
    assert stats(whole / "training") == stats(broken / "training")
    record = json.loads((whole / "training" / "config.json").read_text())
    assert record["steps"] == 8 and record["beta1"] == 0.5  # the recipe as it was resolved
    manifest = read_manifest(whole)
    assert manifest["summary"]["images"] == {"training": 27, "validation": 2}  # 29 usable
    assert manifest["summary"]["perceptual"] == "gradient"
    scale = manifest["summary"]["scaling_factor"]
    vae = load_vae(whole)
    assert vae.scale == scale and vae.factor == 4
    assert not (whole / "training" / "checkpoints").exists()


def test_images_that_do_not_fit_in_memory_teach_the_same(
    corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert main(command(corpus, tmp_path / "kept")) == 0
    monkeypatch.setattr("dit.vae.train._RESIDENT_BYTES", 0)
    assert main(command(corpus, tmp_path / "read")) == 0
    assert fingerprint(tmp_path / "kept") == fingerprint(tmp_path / "read")


def test_half_weights_are_those_measured_and_another_training_starts_from_them(
    corpus: Path, tmp_path: Path
) -> None:
    words = ["--preset", "mini-f8", "--crop", "8", "--image-size", "8", "--steps", "2"]
    first, second = tmp_path / "first", tmp_path / "second"
    assert main(command(corpus, first, *words)) == 0
    with safe_open(weights_file(first), framework="pt") as file:
        assert {file.get_tensor(name).dtype for name in file.keys()} == {torch.float16}  # noqa: SIM118
    vae = load_vae(first)
    assert vae.factor == 8 and vae.model.dtype == torch.float32
    config = TrainVaeConfig(corpus=corpus, out=first, preset="mini-f8", crop=8, image_size=8)
    trainer = VaeTrainer(config.recipe(), 3, seed=0)
    trainer.start_from(vae)
    state = vae.model.state_dict()
    assert all(torch.equal(value, state[n]) for n, value in trainer.model.state_dict().items())
    words = [*words, "--init", str(first)]
    assert main(command(corpus, second, *words, "--learning-rate", "1e-12")) == 0
    for name, value in load_vae(second).model.state_dict().items():
        torch.testing.assert_close(value, state[name], rtol=1e-2, atol=1e-6)
    assert read_manifest(second)["inputs"]["init"] == vae.fingerprint
    with pytest.raises(UserError, match=r"--init .*another network"):
        main(command(corpus, tmp_path / "other", "--init", str(first)))


def test_the_command_refuses_what_makes_no_sense(corpus: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="either --scores"):
        main(["--corpus", str(corpus / "corpus"), "--out", str(tmp_path / "v")])
    (tmp_path / "odd").mkdir()
    with pytest.raises(UserError, match="not a finished stage"):
        main(command(corpus, tmp_path / "v", "--scores", str(tmp_path / "odd")))
    (tmp_path / "old").mkdir()
    (tmp_path / "old" / "checkpoint.pt").touch()
    with pytest.raises(UserError, match=r"old: a training that version 0\.1 began"):
        main(command(corpus, tmp_path / "old"))


def test_tiles_of_one_ground_leave_nothing_to_train_on(
    corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dit.vae.train.overlapping", lambda places, chosen: ~chosen)
    with pytest.raises(UserError, match="all of its 29 images show the ground of those"):
        main(command(corpus, tmp_path / "vae"))


def test_a_finished_vae_answers_without_the_heavy_imports(corpus: Path, tmp_path: Path) -> None:
    out = tmp_path / "vae"
    arguments = command(corpus, out, "--perceptual", "none")
    main(arguments)
    light = (
        "import sys; from dit.train_vae import main; main(sys.argv[1:])\n"
        "assert not {'torch', 'diffusers', 'PIL'} & set(sys.modules), 'slow to import'"
    )
    run = [sys.executable, "-c", light, *arguments]
    answer = subprocess.run(run, capture_output=True, text=True, check=True)
    assert "already done" in answer.stdout
    with pytest.raises(UserError, match="other settings"):
        main([*arguments, "--seed", "3"])


def test_asked_to_stop_it_saves_itself(
    corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    update = VaeTrainer._update

    def asked(self: VaeTrainer, *given: object) -> dict:
        if self.step == 4:
            os.kill(os.getpid(), signal.SIGTERM)
        return update(self, *given)  # type: ignore[arg-type]

    with monkeypatch.context() as patch:
        patch.setattr(VaeTrainer, "_update", asked)
        assert main(command(corpus, tmp_path / "stopped", *EVERY)) == 75
    assert "stopped at step 5 of 8" in capsys.readouterr().out
    assert main(command(corpus, tmp_path / "stopped", *EVERY)) == 0
    assert "continuing at step 5" in capsys.readouterr().out
    assert main(command(corpus, tmp_path / "whole", *EVERY)) == 0
    assert fingerprint(tmp_path / "stopped") == fingerprint(tmp_path / "whole")


def test_another_image_under_a_name_is_refused(corpus: Path, tmp_path: Path) -> None:
    shutil.copytree(corpus, tmp_path / "other")
    Image.new("RGB", (12, 12)).save(tmp_path / "other" / "corpus" / "11.png")
    with pytest.raises(UserError, match=r"'11\.png': its bytes"):
        main(command(tmp_path / "other", tmp_path / "vae"))
