"""The held-out loss: the training's own, the same questions for every model, honest sets."""

from __future__ import annotations

import json
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from core.errors import UserError
from core.stage import Stage, read_manifest, sha256_file
from data.corpus.specs import open_corpus
from data.formats.index import write_index
from dit.diffusion.gaussian import Diffusion
from dit.model.transformer import DiT
from dit.vae.autoencoder import load_vae, to_unit
from dit.vae.images import read_images
from eval.loss import main
from eval.records.diffusion import encode, losses, noise_of, timesteps
from eval.records.loss import read_sets
from tests.data.pictures import encode as encoded
from tests.data.pictures import scene
from tests.dit.test_sample import save_run, small_dit
from tests.dit.tiny_vae import save_tiny_vae

HELD, TRAINED = range(8), range(8, 12)


class Made(NamedTuple):
    vae: Path
    corpus: Path
    holdout: Path
    subset: Path
    run: Path


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Made:
    root = tmp_path_factory.mktemp("loss")
    corpus = root / "corpus"
    corpus.mkdir()
    for i in range(12):
        (corpus / f"{i:02}.png").write_bytes(encoded(scene(i, 16, 16), "PNG"))
    vae = save_tiny_vae(root / "vae", scaling_factor=1.0)
    return Made(
        vae,
        corpus,
        hold_out(root / "holdout.parquet", corpus, HELD),
        subset_of(root / "subset.parquet", corpus, TRAINED),
        save_run(root / "run", vae, small_dit()),
    )


def places(corpus: Path, rows: range) -> dict[str, list]:
    keys = [f"{i:02}.png" for i in rows]
    found = {"key": keys, "shard": ["files-00000"] * len(keys), "row": list(rows)}
    return {**found, "digest": [sha256_file(corpus / key) for key in keys]}


def hold_out(path: Path, corpus: Path, rows: range) -> Path:
    """The first six are the pool hold-out, all but the first two the informative one."""
    count = len(rows)
    which = {"pool": [i < 6 for i in range(count)], "informative": [i > 1 for i in range(count)]}
    table = {**places(corpus, rows), **which, "balanced": [False] * count}
    pq.write_table(pa.table({**table, "class": pa.nulls(count, pa.string())}), path)
    return path


def subset_of(path: Path, corpus: Path, rows: range) -> Path:
    count = len(rows)
    columns = {"entropy": [5.0] * count, "cluster": [-1] * count, "similarity": [None] * count}
    columns |= {"rank": list(range(count)), "chosen": ["random"] * count}
    about = {"method": "random", "params": {}, "inputs": {}, "encoder": None, "code": "0"}
    stage = Stage(path, "prune.select", {}, {})
    stage.open()
    table = pa.table({**places(corpus, rows), **columns})
    write_index(path, table, {**about, "counts": {"N": count, "B": count}})
    stage.finish({}, [path.name], "chosen")
    return path


def flags(made: Made, out: Path, *more: str, run: Path | None = None) -> list[str]:
    given = {"checkpoint": run or made.run, "vae": made.vae, "corpus": made.corpus}
    given |= {"holdout": made.holdout, "out": out}
    words = [word for name, value in given.items() for word in (f"--{name}", str(value))]
    return [*words, "--device", "cpu", "--precision", "fp32", *more]


def measure(made: Made, out: Path, *more: str, run: Path | None = None) -> dict:
    assert main(flags(made, out, *more, run=run)) == 0
    return json.loads(out.read_text())


def test_each_value_is_the_training_loss_of_the_same_latent_timestep_and_noise(made, tmp_path):
    out = tmp_path / "loss.json"
    result = measure(made, out, "--bins", "4", "--per-bin", "2", "--seed", "7")
    rows = pq.read_table(tmp_path / "loss.parquet").to_pylist()
    assert len(rows) == 2 * 8 * 8 and {row["weights"] for row in rows} == {"ema", "raw"}
    sets = read_sets(made.holdout, None, 0, 7)
    keys = sets.images.keys
    assert keys == sorted(keys) and len(keys) == 8
    assert [list(rows) for rows in sets.rows.values()] == [[0, 1, 2, 3, 4, 5], [2, 3, 4, 5, 6, 7]]
    vae, corpus = load_vae(made.vae), open_corpus(str(made.corpus))
    latents = encode(vae, corpus, sets.images, 16, 7)
    mean, std = vae.encode(to_unit(np.stack([*read_images(corpus, sets.images, 16)])))
    deviations = (latents - mean) / std  # a fixed posterior sample, as training draws one
    assert 0.8 < deviations.std() < 1.2 and abs(deviations.mean()) < 0.2

    model, t = small_dit(), timesteps(keys, 7, 8, 1000)
    assert ((t // 125) == np.arange(8)).all() and len(np.unique(t[:, 0])) > 1
    for draw in (0, 5):
        noise = noise_of(keys, 7, draw, (4, 4, 4))
        with torch.no_grad():
            terms = Diffusion().training_losses(model, latents, torch.from_numpy(t[:, draw]), noise)
        found = [row for row in rows if row["weights"] == "raw"][draw::8]
        assert [row["t"] for row in found] == t[:, draw].tolist()
        assert [row["key"] for row in found] == keys
        for name in ("mse", "vb"):
            values = [row[name] for row in found]
            assert values == pytest.approx(terms[name].tolist(), rel=1e-5)
    # The figures are means of those values over a hold-out's images.
    for name in ("pool", "informative"):
        mine = [row for row in rows if row["weights"] == "raw" and row[name]]
        entry = result["raw"][name]
        assert entry["n"] == 6 and "balanced" not in result["raw"]
        for term in ("mse", "vb"):
            expected = np.mean([row[term] for row in mine])
            assert entry[term]["value"] == pytest.approx(expected, rel=1e-9)
        low, high = entry["loss"]["interval_95"]
        assert low < entry["loss"]["value"] < high
        assert entry["bins"][1]["timesteps"] == [250, 499]
        second = np.mean([row["mse"] for row in mine if 250 <= row["t"] < 500])
        assert entry["bins"][1]["mse"] == pytest.approx(second, rel=1e-9)
    assert result["ema"]["pool"]["loss"] != result["raw"]["pool"]["loss"]


def test_batches_neighbours_and_repetition_change_nothing(made, tmp_path):
    words = ["--weights", "raw", "--per-bin", "1"]
    one = measure(made, tmp_path / "a.json", *words)
    measure(made, tmp_path / "b.json", *words)
    for name in ("a", "b"):  # byte for byte
        assert (tmp_path / f"{name}.json").read_bytes() == (tmp_path / "a.json").read_bytes()
        same = (tmp_path / f"{name}.parquet").read_bytes()
        assert same == (tmp_path / "a.parquet").read_bytes()
    small = measure(made, tmp_path / "c.json", *words, "--batch", "3")
    for name in ("pool", "informative"):
        expected = one["raw"][name]["loss"]["value"]
        assert small["raw"][name]["loss"]["value"] == pytest.approx(expected, rel=1e-6)
    # An image's values do not depend on which others are measured.
    measure(made, tmp_path / "d.json", *words, "--n", "3")
    values = {}
    for name in ("a", "d"):
        table = pq.read_table(tmp_path / f"{name}.parquet").to_pylist()
        values[name] = {(row["key"], row["t"]): row["mse"] for row in table}
    assert 3 * 10 <= len(values["d"]) < len(values["a"])
    for place, value in values["d"].items():
        assert value == pytest.approx(values["a"][place], rel=1e-5)
    other = measure(made, tmp_path / "e.json", *words, "--seed", "1")
    assert other["raw"]["pool"]["loss"]["value"] != one["raw"]["pool"]["loss"]["value"]


def test_it_estimates_what_training_minimises(made):
    """Stratified draws have the mean of uniform ones."""
    torch.manual_seed(0)
    latents, model = torch.randn(16, 4, 4, 4), small_dit()
    keys = [str(i) for i in range(16)]
    found = losses(model, latents, keys, seed=0, draws=20)
    t, many = torch.randint(0, 1000, (6000,)), latents.repeat(375, 1, 1, 1)
    with torch.no_grad():
        terms = Diffusion().training_losses(model, many, t, torch.randn(many.shape))
    error = terms["loss"].std().item() / 6000**0.5 + found.loss.std() / 320**0.5
    assert abs(found.loss.mean() - terms["loss"].mean().item()) < 4 * error


@pytest.fixture(scope="module")
def overfitted(made, tmp_path_factory) -> Path:
    """A model that has seen four training images four thousand times each, and nothing else."""
    torch.manual_seed(0)
    vae, corpus = load_vae(made.vae), open_corpus(str(made.corpus))
    trained = read_sets(made.holdout, made.subset, 0, 0)
    rows = trained.rows["subset"]
    x0 = encode(vae, corpus, trained.images.take(rows), 16, 0).repeat(16, 1, 1, 1)
    model, diffusion = DiT(4, 2, 4, 32, 2, 2), Diffusion()
    optimizer = torch.optim.Adam(model.parameters(), lr=5e-3)
    for _ in range(250):
        t = torch.randint(0, 1000, (len(x0),))
        loss = diffusion.training_losses(model, x0, t, torch.randn(x0.shape))["loss"].mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return save_run(tmp_path_factory.mktemp("over") / "run", made.vae, model)


def test_an_overfitted_model_is_seen_by_its_gap(made, overfitted, tmp_path):
    with_subset = ["--weights", "raw", "--subset", str(made.subset)]
    result = measure(made, tmp_path / "over.json", *with_subset, run=overfitted)["raw"]
    untrained = measure(made, tmp_path / "fresh.json", *with_subset)["raw"]
    assert result["subset"]["n"] == 4 and "gap" not in result["subset"]
    for name in ("pool", "informative"):
        gap = result[name]["gap"]
        difference = result[name]["loss"]["value"] - result["subset"]["loss"]["value"]
        assert gap["value"] == pytest.approx(difference)
        assert gap["interval_95"][0] > 0.1 * result["subset"]["loss"]["value"]
        low, high = untrained[name]["gap"]["interval_95"]
        assert low < 0.05 * untrained["subset"]["loss"]["value"] and gap["value"] > high


def test_two_models_are_compared_image_by_image(made, overfitted, tmp_path):
    first = tmp_path / "first.json"
    before = measure(made, first)
    words = ["--baseline", str(first)]
    result = measure(made, tmp_path / "second.json", *words, run=overfitted)
    for weights in ("ema", "raw"):
        for name in ("pool", "informative"):
            entry, other = result[weights][name], before[weights][name]
            difference = entry["loss"]["value"] - other["loss"]["value"]
            assert entry["difference"]["value"] == pytest.approx(difference)
    # In pairs the interval knows nothing of how much images differ from each other.
    own = result["raw"]["pool"]["loss"]["interval_95"]
    pairs = measure(made, tmp_path / "self.json", *words)["raw"]["pool"]["difference"]
    assert pairs == {"value": 0.0, "interval_95": [0.0, 0.0]} and own[0] < own[1]
    inputs = read_manifest(tmp_path / "second.json")["inputs"]
    assert inputs["baseline"] == read_manifest(first)["fingerprint"]
    for more in (["--seed", "1"], ["--bins", "5"]):
        with pytest.raises(UserError, match="not of the same images, timesteps and noise"):
            main(flags(made, tmp_path / "no.json", *words, *more))
    measure(made, tmp_path / "raw.json", "--weights", "raw")
    with pytest.raises(UserError, match="has no ema weights"):
        main(flags(made, tmp_path / "no.json", "--baseline", str(tmp_path / "raw.json")))


def test_class_conditional_models_are_asked_for_their_null_class(made, tmp_path):
    model = small_dit(num_classes=3, class_dropout_prob=0.1)
    latents, keys = torch.randn(2, 4, 4, 4), ["a", "b"]
    found = losses(model.eval(), latents, keys, seed=0, draws=1)
    t = torch.from_numpy(timesteps(keys, 0, 1, 1000)[:, 0])
    with torch.no_grad():
        expected = Diffusion().training_losses(
            model, latents, t, noise_of(keys, 0, 0, (4, 4, 4)), y=torch.tensor([3, 3])
        )
    assert found.mse[:, 0] == pytest.approx(expected["mse"].numpy(), rel=1e-5)
    without = small_dit(num_classes=3, class_dropout_prob=0.0)
    with pytest.raises(UserError, match="without a null class"):
        losses(without, latents, keys, seed=0, draws=1)
    with pytest.raises(UserError, match="learn_sigma"):
        losses(small_dit(learn_sigma=False), latents, keys, seed=0, draws=1)


def test_bad_inputs_are_refused_before_anything_is_written(made, tmp_path):
    out = tmp_path / "metrics" / "loss.json"
    other = save_tiny_vae(tmp_path / "other", scaling_factor=1.0, seed=1)
    with pytest.raises(UserError, match="not the VAE that"):
        main([*flags(made, out), "--vae", str(other)])
    both = subset_of(tmp_path / "both.parquet", made.corpus, range(7, 10))
    with pytest.raises(UserError, match=r"1 of its images are held out .*'07.png'"):
        main(flags(made, out, "--subset", str(both)))
    with pytest.raises(UserError, match="no such file; make it"):
        main([*flags(made, out), "--holdout", str(tmp_path / "none.parquet")])
    with pytest.raises(UserError, match=r"must end in .json"):
        main(flags(made, tmp_path / "loss.csv"))
    with pytest.raises(UserError, match="there are 1,000 timesteps"):
        main(flags(made, out, "--per-bin", "101"))
    with pytest.raises(UserError, match="inside --corpus"):
        main(flags(made, made.corpus / "loss.json"))
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    for i in range(12):
        (elsewhere / f"{i:02}.png").write_bytes(encoded(scene(99 + i, 16, 16), "PNG"))
    with pytest.raises(UserError, match=r"00.png|another|digest"):
        main([*flags(made, out), "--corpus", str(elsewhere)])
    broken = small_dit()
    with torch.no_grad():
        broken.final_layer.linear.bias.fill_(float("nan"))
    run = save_run(tmp_path / "broken", made.vae, broken)
    assert not out.parent.exists()
    with pytest.raises(UserError, match="raw weights give a loss that is not finite"):
        main(flags(made, out, "--weights", "raw", run=run))
    assert not out.exists()
