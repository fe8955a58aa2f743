"""Models on the latents of four bands: each band reaches what is measured of them and shown."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from core.errors import UserError
from core.stage import Stage
from data.corpus.specs import open_corpus
from data.formats.index import write_index
from data.images.chips import chip_to_file, decode_chip, encode_chip
from dit.diffusion.gaussian import Diffusion
from dit.diffusion.noise import slot_noise
from dit.sample import main as sample
from dit.vae.autoencoder import load_vae, to_unit
from dit.vae.pictures import image_files, write_image
from eval.distances.frechet import fit, frechet_distance
from eval.judges.extractors import load_extractor
from eval.loss import main as measure_loss
from eval.records.diffusion import noise_of, slots_of
from eval.report import pictures
from eval.report.shown import Shown
from tests.dit.test_sample import save_run, small_dit
from tests.dit.tiny_vae import save_tiny_vae
from tests.eval import test_track as track

SIDE, N = 16, 6
RGB, INFRARED = [0, 1, 2], [3, 0, 1]


class Made(NamedTuple):
    vae: Path
    corpus: str
    holdout: Path
    images: np.ndarray
    rows: pa.Table


def pixels(seed: int) -> np.ndarray:
    """Four bands of other means, so that each has its own share in what a network sees."""
    noise = np.random.default_rng(seed).integers(0, 60, (SIDE, SIDE, 4))
    return (noise + np.array([0, 60, 120, 190]) + seed % 5).astype(np.uint8)


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Made:
    root = tmp_path_factory.mktemp("four")
    (root / "naip").mkdir()
    for n in range(N):
        (root / "naip" / f"{n}.tif").write_bytes(chip_to_file(encode_chip(pixels(n))))
    spec = f"{root}/naip?chip={SIDE}"
    corpus = open_corpus(spec)
    found = [one for shard in corpus.shards() for one in corpus.read(shard)]
    rows = pa.table({
        "key": [s.key for s in found], "shard": [s.shard for s in found],
        "row": [s.row for s in found],
        "digest": [hashlib.sha256(s.data).hexdigest() for s in found], "pool": [True] * N,
    })  # fmt: skip
    pq.write_table(rows, root / "holdout.parquet")
    images = np.stack([decode_chip(one.data) for one in found])
    vae = save_tiny_vae(root / "vae", in_channels=4, scaling_factor=1.0)
    return Made(vae, spec, root / "holdout.parquet", images, rows)


def test_the_loss_is_that_of_latents_of_all_four_bands(made: Made, tmp_path: Path) -> None:
    run, out = save_run(tmp_path / "run", made.vae, small_dit()), tmp_path / "loss.json"
    flags = ["--corpus", made.corpus, "--holdout", str(made.holdout), "--device", "cpu"]
    flags += ["--precision", "fp32", "--weights", "raw", "--bins", "1", "--per-bin", "1"]
    assert measure_loss([*flags, f"--checkpoint={run}", f"--vae={made.vae}", f"--out={out}"]) == 0
    rows = {row["key"]: row for row in pq.read_table(out.with_suffix(".parquet")).to_pylist()}
    keys, vae = made.rows["key"].to_pylist(), load_vae(made.vae)

    def lost(images: np.ndarray) -> list[float]:
        mean, std = vae.encode(to_unit(images))
        latents = mean + std * slot_noise(0, 25, 0, slots_of(keys), mean.shape[1:])
        t = torch.tensor([rows[key]["t"] for key in keys])
        with torch.no_grad():
            noise = noise_of(keys, 0, 0, latents.shape[1:])
            terms = Diffusion().training_losses(small_dit().eval(), latents, t, noise)
        return terms["mse"].tolist()

    found = [rows[key]["mse"] for key in keys]
    assert found == pytest.approx(lost(made.images), rel=1e-5)
    assert found != pytest.approx(lost(made.images[..., [3, 1, 2, 0]]), rel=1e-5)
    three = save_tiny_vae(tmp_path / "three")
    run = save_run(tmp_path / "rgb", three, small_dit())
    with pytest.raises(UserError, match=rf"has four bands .*the VAE {three} takes three"):
        measure_loss([*flags, f"--checkpoint={run}", f"--vae={three}", f"--out={tmp_path}/3.json"])


def test_the_track_is_of_red_green_and_blue_and_its_loss_of_four(
    made: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_MODE", "disabled")
    monkeypatch.setattr(track.eval.records.curves, "draw", lambda _, out, title: out.write_text(""))
    run = track.Run(tmp_path / "run", made.vae).save(4)
    given = track.Made(made.vae, made.corpus, made.holdout)  # type: ignore[arg-type]
    n = ["--n", str(N)]
    assert track.main(track.flags(given, run, tmp_path / "t", *n, "--weights", "raw")) == 0
    (line,) = track.lines(tmp_path / "t")
    flags = ["--checkpoint", str(run.path(4)), "--weights", "raw", "--sampler", "ddim"]
    flags += [*track.SAMPLING, *n, "--vae", str(made.vae), "--device", "cpu"]
    sample([*flags, "--out", str(tmp_path / "s")])
    drawn = np.stack([np.load(tmp_path / "s" / "bands" / f"{i:06d}.npy") for i in range(N)])
    extractor = load_extractor("descriptor")

    def distance(bands: list[int]) -> float:
        sides = [np.ascontiguousarray(side[..., bands]) for side in (drawn, made.images)]
        return frechet_distance(*(fit(extractor(side)) for side in sides))

    assert line["distance"]["value"] == pytest.approx(distance(RGB), rel=1e-4)
    assert line["distance"]["value"] != pytest.approx(distance(INFRARED), rel=1e-3)
    out = tmp_path / "loss.json"
    flags = ["--checkpoint", str(run.path(4)), "--vae", str(made.vae), "--corpus", made.corpus]
    flags += ["--holdout", str(made.holdout), "--out", str(out), "--device", "cpu"]
    measure_loss([*flags, "--per-bin", "1", "--seed", "3"])
    by_hand = json.loads(out.read_text())["raw"]["pool"]["loss"]["value"]
    assert line["loss"]["pool"]["loss"] == pytest.approx(by_hand, rel=1e-6)


def tiles(axis: Any, count: int) -> np.ndarray:
    """The first tiles of a row of a sheet."""
    step = SIDE + 2
    picture = np.asarray(axis.images[0].get_array())
    return np.stack([picture[:SIDE, n * step : n * step + SIDE] for n in range(count)])


def test_sheets_show_samples_and_real_images_in_both_composites(
    made: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, subset = tmp_path / "samples", tmp_path / "subset.parquet"
    drawn = np.stack([pixels(100 + n) for n in range(N)])
    stage = Stage(folder, "dit.sample", {}, {})
    stage.open()
    for n, image in enumerate(drawn):
        write_image(folder, f"{n:06d}", image)
    stage.finish({}, [file for n in range(N) for file in image_files(f"{n:06d}", 4)], "")
    chosen = {"entropy": [5.0] * N, "cluster": [-1] * N, "similarity": [None] * N}
    chosen |= {"rank": list(range(N)), "chosen": ["random"] * N}
    rows = made.rows.drop_columns(["pool"])
    for name, values in chosen.items():
        rows = rows.append_column(name, pa.array(values))
    parts = ("method", "params", "inputs", "encoder", "code", "counts")
    write_index(subset, rows, {name: {} for name in parts})
    figures: dict[str, Any] = {}
    monkeypatch.setattr(pictures, "save_figure", lambda figure, out: figures.update({out: figure}))
    one = Shown("usa1m", tmp_path, None, (("Ours", folder, subset),), {})
    list(pictures._pictures(one, open_corpus(made.corpus), made.rows, tmp_path))
    assert list(figures) == [tmp_path / "samples.png", tmp_path / "samples-infrared.png"]
    for figure, bands in zip(figures.values(), (RGB, INFRARED), strict=True):
        generated, real = figure.axes
        assert np.array_equal(tiles(generated, N), drawn[..., bands])
        shown = {tile.tobytes() for tile in tiles(real, N)}
        assert shown == {image[..., bands].tobytes() for image in made.images}
    # of a corpus of three bands, or of samples without infrared/, there is no second sheet
    figures.clear()
    rgb = open_corpus(f"{made.corpus}&bands=rgb")
    monkeypatch.setattr(pictures, "samples_picture", lambda *given: figures.update({given[2]: 0}))
    list(pictures._pictures(one, rgb, made.rows, tmp_path))
    assert list(figures) == [tmp_path / "samples.png"]
