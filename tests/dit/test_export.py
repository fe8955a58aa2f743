"""The diffusers export gives our outputs; a plain conversion does not."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import DiffusionPipeline, DiTTransformer2DModel
from PIL import Image

from core.errors import UserError
from dit.diffusion.gaussian import respaced_timesteps
from dit.diffusion.noise import slot_noise
from dit.diffusion.samplers import STREAM, denoise
from dit.export import main
from dit.model.transformer import DiT
from dit.sampling.export import to_diffusers
from dit.vae.autoencoder import load_vae
from tests.dit.test_sample import save_run
from tests.dit.tiny_vae import save_tiny_vae

SHAPE = (4, 6, 6)


def dit(**options) -> DiT:
    """Random in every parameter that training moves; outputs of order 1."""
    torch.manual_seed(11)
    model = DiT(6, 2, 4, 48, 3, 4, **{"num_classes": 0, **options})
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name != "pos_embed":
                parameter.copy_(torch.randn(parameter.shape) * 0.1)
    return model.eval()


def pair(model: DiT, other: DiTTransformer2DModel, y: torch.Tensor) -> float:
    x = slot_noise(0, STREAM, 0, range(4), SHAPE)
    t = torch.tensor([0, 3, 500, 999])
    with torch.no_grad():
        ours = model(x, t, y if model.num_classes else None)
        theirs = other(x, timestep=t, class_labels=y).sample
    assert ours.std() > 0.1
    return (ours - theirs).abs().max().item()


@pytest.mark.parametrize(
    "options",
    [
        {"num_classes": 0},
        {"num_classes": 1, "class_dropout_prob": 0.0},
        {"num_classes": 5},
        {"num_classes": 3, "freq_shift": 1},
        {"learn_sigma": False},
    ],
)
def test_outputs_are_equal(options):
    model = dit(**options)
    y = torch.arange(4) % max(model.num_classes, 1)
    assert pair(model, to_diffusers(model), y) < 1e-5


def test_null_class_goes_along():
    model = dit(num_classes=5)
    assert pair(model, to_diffusers(model), torch.full((4,), model.null_class)) < 1e-5


def test_plain_loading_is_off(tmp_path):
    """Why the pipeline travels along: the reason is still there in the installed diffusers."""
    model = dit()
    to_diffusers(model).save_pretrained(tmp_path)
    plain = DiTTransformer2DModel.from_pretrained(tmp_path).eval()
    assert pair(model, plain, torch.zeros(4, dtype=torch.int64)) > 1e-3


def test_what_diffusers_cannot_hold_is_refused():
    model = dit()
    with torch.no_grad():
        model.pos_embed.add_(0.1)
    with pytest.raises(UserError, match="position"):
        to_diffusers(model)
    with pytest.raises(UserError, match="mlp_ratio"):
        to_diffusers(dit(mlp_ratio=2.0))


@pytest.fixture(scope="module")
def exported(tmp_path_factory) -> tuple[DiT, Path, Path]:
    """(model whose weights are the EMA ones, VAE folder, exported folder)."""
    root = tmp_path_factory.mktemp("export")
    vae = save_tiny_vae(root / "vae", scaling_factor=None)
    model = dit()
    save_run(root / "run", vae, model)
    flags = ["--checkpoint", str(root / "run"), "--vae", str(vae), "--out", str(root / "out")]
    assert main(flags) == 0
    with torch.no_grad():  # save_run's EMA is half the weights
        for name, parameter in model.named_parameters():
            parameter.mul_(1.0 if name == "pos_embed" else 0.5)
    return model, vae, root / "out"


@pytest.fixture(scope="module")
def pipe(exported):
    pipeline = DiffusionPipeline.from_pretrained(exported[2], trust_remote_code=True)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def test_loaded_pipeline_predicts_as_we_do(exported, pipe):
    assert pair(exported[0], pipe.transformer, torch.zeros(4, dtype=torch.int64)) < 1e-5


def test_pipeline_samples_as_we_do(exported, pipe):
    model = exported[0]
    start = slot_noise(3, STREAM, 0, range(2), SHAPE)
    with torch.no_grad():
        ddim = denoise(model, start, sampler="ddim", steps=10)
        generator = torch.Generator().manual_seed(4)
        noise = lambda step: torch.randn(start.shape, generator=generator)  # noqa: E731
        ddpm = denoise(model, start, sampler="ddpm", steps=12, noise=noise)
    theirs = pipe(latents=start, steps=10, sampler="scheduler", output_type="latent").images
    assert (theirs - ddim).abs().max() < 1e-4 * ddim.abs().max()
    generator = torch.Generator().manual_seed(4)
    theirs = pipe(latents=start, steps=12, generator=generator, output_type="latent").images
    assert (theirs - ddpm).abs().max() < 1e-4 * ddpm.abs().max()


@pytest.mark.parametrize("steps", [1, 2, 21, 23, 250, 999, 1000])
def test_pipeline_visits_the_published_timesteps(pipe, monkeypatch, steps):
    seen = []

    def predict(x, t, labels):
        seen.append(int(t))
        return torch.zeros(len(x), 8, *x.shape[2:])

    monkeypatch.setattr(pipe, "_predict", predict)
    pipe(steps=steps, output_type="latent")
    assert seen[::-1] == respaced_timesteps(1000, str(steps))


def test_pipeline_refuses_steps_that_cannot_be(pipe):
    for steps in (0, 1001):
        with pytest.raises(ValueError, match="expected 1 to 1000"):
            pipe(steps=steps)


def test_pipeline_decodes_as_we_do(exported, pipe):
    """The VAE's config has no scaling_factor; the export writes it out."""
    start = slot_noise(3, STREAM, 0, range(2), SHAPE)
    options = {"latents": start, "steps": 5, "sampler": "scheduler"}
    latents = pipe(**options, output_type="latent").images
    ours = load_vae(exported[1]).decode(latents)
    assert np.array_equal(pipe(**options, output_type="np").images, ours)
    image = pipe(**options).images[1]
    assert isinstance(image, Image.Image)
    assert np.array_equal(np.asarray(image), ours[1])
    assert len(pipe(num_images=3, steps=2).images) == 3


def test_pipeline_of_four_bands_gives_all_and_shows_red_green_and_blue(tmp_path):
    vae = save_tiny_vae(tmp_path / "vae", in_channels=4)
    run = save_run(tmp_path / "run", vae, dit())
    assert main(["--checkpoint", str(run), "--vae", str(vae), "--out", str(tmp_path / "out")]) == 0
    pipeline = DiffusionPipeline.from_pretrained(tmp_path / "out", trust_remote_code=True)
    start = slot_noise(3, STREAM, 0, range(2), SHAPE)
    options = {"latents": start, "steps": 3, "sampler": "scheduler"}
    ours = load_vae(vae).decode(pipeline(**options, output_type="latent").images)
    assert ours.shape[3] == 4 and (ours[..., 3] != ours[..., 0]).any()
    assert np.array_equal(pipeline(**options, output_type="np").images, ours)
    shown = [np.asarray(image) for image in pipeline(**options).images]
    assert np.array_equal(np.stack(shown), ours[..., :3])


def test_folder_says_how_to_use_it(exported, capsys):
    card = (exported[2] / "README.md").read_text()
    assert "24 x 24 pixels, unconditional" in card and "trust_remote_code" in card
    root = exported[2].parent
    flags = ["--checkpoint", str(root / "run"), "--vae", str(exported[1])]
    assert main([*flags, "--out", str(exported[2])]) == 0
    assert "already done" in capsys.readouterr().out


def test_class_conditional_pipeline(tmp_path):
    vae = save_tiny_vae(tmp_path / "vae")
    model = dit(num_classes=3)
    save_run(tmp_path / "run", vae, model)
    out = tmp_path / "out"
    flags = ["--checkpoint", str(tmp_path / "run"), "--vae", str(vae), "--weights", "raw"]
    assert main([*flags, "--out", str(out)]) == 0
    pipeline = DiffusionPipeline.from_pretrained(out, trust_remote_code=True)
    start, y = slot_noise(0, STREAM, 0, range(2), SHAPE), [0, 2]
    options = {"latents": start, "steps": 4, "sampler": "scheduler", "output_type": "latent"}
    with torch.no_grad():
        ours = denoise(model, start, sampler="ddim", steps=4, y=torch.tensor(y))
    theirs = pipeline(class_labels=y, **options).images
    assert (theirs - ours).abs().max() < 1e-4 * ours.abs().max()
    with pytest.raises(ValueError, match="class_labels needed"):
        pipeline(**options)
    assert "pipe(class_labels=[0, 1], sampler=" in (out / "README.md").read_text()


ALONE = """
import importlib.util, sys
import numpy as np, torch
from diffusers import DiffusionPipeline
assert importlib.util.find_spec("dit") is None and importlib.util.find_spec("core") is None
torch.set_num_threads(1)
first, saved, again = sys.argv[1:]
def draw(pipe, **how):
    made = dict(class_labels=["13", "3"], steps=3, output_type="np", **how)
    return pipe(generator=torch.Generator().manual_seed(0), **made).images
pipe = DiffusionPipeline.from_pretrained(first, trust_remote_code=True)
images = draw(pipe)
pipe.save_pretrained(saved)
other = DiffusionPipeline.from_pretrained(saved, trust_remote_code=True)
assert np.array_equal(draw(other), images)
assert other.config.id2label == {"0": "3", "1": "13", "2": "23"}
other.save_pretrained(again, safe_serialization=False)
third = DiffusionPipeline.from_pretrained(again, trust_remote_code=True)
assert np.array_equal(draw(third), images)
assert np.array_equal(draw(third, sampler="scheduler"), draw(pipe, sampler="scheduler"))
assert np.array_equal(images, pipe(class_labels=[1, 0], steps=3, output_type="np",
    generator=torch.Generator().manual_seed(0)).images)
for wrong in (["sea"], [3], [-1]):
    try:
        pipe(class_labels=wrong, steps=1)
    except ValueError as error:
        assert "0 = 3, 1 = 13, 2 = 23" in str(error), error
    else:
        raise AssertionError(wrong)
print("the same")
"""


def test_what_is_saved_again_loads_without_this_project(tmp_path):
    vae = save_tiny_vae(tmp_path / "vae")
    save_run(tmp_path / "run", vae, dit(num_classes=3, freq_shift=0), ["3", "13", "23"])
    out = tmp_path / "out"
    assert main(["--checkpoint", str(tmp_path / "run"), "--vae", str(vae), "--out", str(out)]) == 0
    card = (out / "README.md").read_text()
    assert "pipe(class_labels=['3', '13'])" in card and "0 = 3, 1 = 13, 2 = 23" in card
    (tmp_path / "elsewhere").mkdir()
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    folders = [str(out), str(tmp_path / "saved"), str(tmp_path / "again")]
    found = subprocess.run(
        [sys.executable, "-c", ALONE, *folders],
        cwd=tmp_path / "elsewhere",
        env={**environment, "HF_HOME": str(tmp_path / "hf"), "HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
    )
    assert found.returncode == 0, found.stderr
    assert "the same" in found.stdout
