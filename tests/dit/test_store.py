"""One latent store for a corpus and a VAE: it grows, serves every subset, and keeps them apart."""

from __future__ import annotations

import dataclasses
import errno
import json
import os
import resource
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from core.errors import UserError
from core.stage import Stage, read_manifest, sha256_file
from dit.encode import main as encode
from dit.latents.encode import _posteriors
from dit.latents.shards import latents_fingerprint
from dit.latents.store import LatentStore
from dit.model import transformer
from dit.train import main as train
from dit.training import checkpoint
from dit.vae.autoencoder import Vae, load_vae
from dit.vae.network import build
from dit.vae.recipes import PRESETS
from tests.dit.test_latents import arguments, folder_bytes, make_corpus, make_subset
from tests.dit.tiny_vae import save_tiny_vae
from tests.dit.training import ENV, TINY, flags

FIRST, SECOND = slice(0, 9), slice(4, 15)  # five images in common


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A corpus, a VAE and two subsets."""
    folder = tmp_path_factory.mktemp("store")
    make_corpus(folder / "corpus", 15)
    save_tiny_vae(folder / "vae", scaling_factor=0.5)
    make_subset(folder / "corpus", folder / "first.parquet", FIRST)
    make_subset(folder / "corpus", folder / "second.parquet", SECOND)
    return folder


def add(root: Path, store: Path, name: str, **more: str) -> None:
    assert encode(arguments(root, store, subset=str(root / f"{name}.parquet"), **more)) == 0


@pytest.fixture(scope="module")
def both(root: Path) -> Path:
    """A store that was given the one subset, then the other."""
    add(root, root / "both", "first")
    add(root, root / "both", "second")
    return root / "both"


def latents(store: Path, subset: Path, resident: bool = False) -> np.ndarray:
    opened = LatentStore(store, subset, resident=resident)
    assert list(opened.keys) == pq.read_table(subset)["key"].to_pylist()
    sides = [np.full(opened.rows, flip) for flip in (False, True)]
    return np.stack([opened.posterior(np.arange(opened.rows), side) for side in sides])


def test_only_what_is_missing_is_added(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store = tmp_path / "store"
    add(root, store, "first")
    before = folder_bytes(store)
    add(root, store, "second")
    shown = capsys.readouterr().out
    assert "6 of 11 images to add" in shown and "6 images and their mirrors added, 15" in shown
    after = folder_bytes(store)
    assert {name: after[name] for name in before} == before and len(after) > len(before)
    keys = [key for name in sorted(after) if name.endswith("parquet")
            for key in pq.read_table(store / name)["key"].to_pylist()]  # fmt: skip
    assert len(keys) == len(set(keys)) == 15
    manifest = read_manifest(store)
    assert manifest["summary"]["rows"] == 15 and set(manifest["files"]) == set(after)
    for name, entry in manifest["files"].items():
        assert entry["sha256"] == sha256_file(store / name)
    for name in ("first", "second"):
        add(root, store, name)
        assert "nothing left" in capsys.readouterr().out
    assert folder_bytes(store) == after


def test_latents_do_not_depend_on_what_else_is_encoded(
    root: Path, both: Path, tmp_path: Path
) -> None:
    add(root, tmp_path / "alone", "second")
    add(root, tmp_path / "other", "second", **{"shard-rows": "3"})  # other images beside each
    add(root, tmp_path / "other", "first", **{"shard-rows": "2"})
    for name in ("first", "second"):
        subset = root / f"{name}.parquet"
        expected = latents(both, subset)
        assert np.array_equal(latents(both, subset, resident=True), expected)
        assert np.array_equal(latents(tmp_path / "other", subset), expected)
        stores = [both, tmp_path / "other"]
        assert len({latents_fingerprint(store, subset) for store in stores}) == 1
    assert np.array_equal(latents(tmp_path / "alone", root / "second.parquet"), expected)


def test_rows_are_independent_with_attention_and_threads() -> None:
    recipe = dataclasses.replace(PRESETS["kl-f8"], block_out_channels=(32, 64, 64, 64))
    model = build(recipe, 3, seed=0).to(memory_format=torch.channels_last).eval()
    vae = Vae(Path(), "", 1.0, 8, 4, 3, model)
    images = torch.rand(5, 3, 64, 64, generator=torch.Generator().manual_seed(0)) * 2 - 1
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        together = _posteriors(vae, images, 3)
        for row in range(5):
            alone = _posteriors(vae, images[row : row + 1], 3)
            for values, expected in zip(together, alone, strict=True):
                assert torch.equal(values[row], expected[0])
    finally:
        torch.set_num_threads(threads)


def test_a_training_takes_the_rows_of_its_subset(
    root: Path, both: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Bit-equal to training on a store of the subset alone, memory-resident or mapped."""
    monkeypatch.setitem(transformer.MODELS, "tiny", TINY)
    for name, value in ENV.items():
        monkeypatch.setenv(name, value)
    subset = ("--subset", str(root / "second.parquet"))
    add(root, tmp_path / "alone", "second")
    assert train(flags(tmp_path / "alone", tmp_path / "a")) == 0
    assert train(flags(both, tmp_path / "b", *subset)) == 0
    monkeypatch.setattr("dit.latents.store._free_memory", lambda: 0.0)
    assert train(flags(both, tmp_path / "c", *subset)) == 0
    tensors = [
        {stem: checkpoint.load_tensors(checkpoint.checkpoints(tmp_path / run)[-1], stem)
         for stem in ("model", "ema", "optimizer")} for run in "abc"
    ]  # fmt: skip
    for other in tensors[1:]:
        for stem, named in tensors[0].items():
            assert all(torch.equal(value, other[stem][name]) for name, value in named.items())
    assert train([*flags(both, tmp_path / "d", "--steps", "1")]) == 0  # all of the store
    with pytest.raises(UserError, match="latents: "):
        train(flags(both, tmp_path / "d", "--steps", "1", *subset))


def test_a_run_outlives_the_growth_of_its_store(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(transformer.MODELS, "tiny", TINY)
    for name, value in ENV.items():
        monkeypatch.setenv(name, value)
    store, run = tmp_path / "store", tmp_path / "run"
    asked = flags(store, run, "--subset", str(root / "first.parquet"), "--is-done")
    add(root, store, "first")
    assert train(asked) == 3
    assert train(asked[:-1]) == 0
    add(root, store, "second")
    assert train(asked) == 0


def test_a_subset_that_is_not_there_is_refused(root: Path, tmp_path: Path) -> None:
    add(root, tmp_path / "store", "first")
    missing = pq.read_table(root / "second.parquet")["key"][5].as_py()
    with pytest.raises(UserError, match=rf"lacks 6 of the 11 images .*first '{missing}'"):
        LatentStore(tmp_path / "store", root / "second.parquet")


def recast(path: Path, out: Path, digest: Callable[[int], str | None]) -> Path:
    """A copy of an index with other digests."""
    table = pq.read_table(path)
    digests = pa.array([digest(row) for row in range(table.num_rows)], pa.string())
    at = table.column_names.index("digest")
    pq.write_table(table.set_column(at, "digest", digests), out)
    name = path.with_suffix(".manifest.json").name
    out.with_suffix(".manifest.json").write_text((path.parent / name).read_text())
    return out


def test_another_image_under_a_name_is_refused(root: Path, both: Path, tmp_path: Path) -> None:
    table = pq.read_table(root / "first.parquet")
    known = table["digest"].to_pylist()
    wrong = recast(root / "first.parquet", tmp_path / "wrong.parquet",
                   lambda row: "f" * 64 if row == 3 else known[row])  # fmt: skip
    key = table["key"][3].as_py()
    before = folder_bytes(both)
    with pytest.raises(UserError, match=rf"another image .*'{key}'.*{known[3][:12]}.*ffff"):
        encode(arguments(root, both, subset=str(wrong)))
    with pytest.raises(UserError, match=f"another image .*'{key}'"):
        LatentStore(both, wrong)
    assert folder_bytes(both) == before
    with pytest.raises(UserError, match=f"'{key}': its bytes"):  # the corpus itself is another
        encode(arguments(root, tmp_path / "new", subset=str(wrong)))


def test_unknown_digests_are_taken_from_the_bytes(root: Path, tmp_path: Path) -> None:
    silent = recast(root / "first.parquet", tmp_path / "silent.parquet", lambda row: None)
    store = tmp_path / "store"
    assert encode(arguments(root, store, subset=str(silent))) == 0
    add(root, store, "second")  # compared with what the bytes were
    assert np.array_equal(latents(store, silent), latents(store, root / "first.parquet"))
    stored = pq.read_table(store / "latents-00000.parquet")["digest"].to_pylist()
    assert stored == pq.read_table(root / "first.parquet")["digest"].to_pylist()[:4]


def test_a_fingerprint_is_that_of_the_subsets_images(
    root: Path, both: Path, tmp_path: Path
) -> None:
    def written(name: str, table: pa.Table) -> Path:
        stage = Stage(tmp_path / f"{name}.parquet", "prune.select", {}, {})
        stage.open()
        pq.write_table(table, stage.out)
        stage.finish({}, [stage.out.name], "made")
        return stage.out

    table = pq.read_table(root / "second.parquet")
    unknown = written("unknown", table.drop_columns("digest"))  # as version 0.1 wrote it
    subsets = [root / "first.parquet", root / "second.parquet", written("fewer", table.slice(1))]
    assert len({latents_fingerprint(both, subset) for subset in subsets}) == 3
    other = tmp_path / "other"  # other bytes under the same names
    shutil.copytree(both, other)
    for path in other.glob("*.parquet"):
        shard = pq.read_table(path)
        digests = pa.array(["0" * 64] * len(shard), pa.string())
        pq.write_table(shard.set_column(1, "digest", digests), path)
    assert latents_fingerprint(other, unknown) != latents_fingerprint(both, unknown)
    with pytest.raises(UserError, match="another image under the name"):
        latents_fingerprint(other, subsets[1])


def test_more_shards_than_files_may_be_open(root: Path, tmp_path: Path) -> None:
    store = tmp_path / "store"
    add(root, store, "first", **{"shard-rows": "1"})
    before = folder_bytes(store)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    used = max(int(path.name) for path in Path("/proc/self/fd").iterdir())
    resource.setrlimit(resource.RLIMIT_NOFILE, (used + 6, hard))
    try:
        add(root, store, "second", **{"shard-rows": "1"})
        assert LatentStore(store).rows == 15  # raises the limit for itself
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    after = folder_bytes(store)
    assert {name: after[name] for name in before} == before and len(after) == len(before) + 12


def test_what_the_system_refuses_is_no_damage(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = tmp_path / "store"
    add(root, store, "first", **{"shard-rows": "1"})
    before = folder_bytes(store)
    load = np.load

    def failing(path: Path, *given: object, **more: object) -> object:
        if str(path).endswith("latents-00003.npy"):
            raise OSError(errno.EIO, os.strerror(errno.EIO), str(path))
        return load(path, *given, **more)  # type: ignore[call-overload]

    monkeypatch.setattr(np, "load", failing)
    with pytest.raises(OSError, match="Input/output error"):
        add(root, store, "second", **{"shard-rows": "1"})
    assert folder_bytes(store) == before


def test_two_commands_at_once_end_well(root: Path, both: Path, tmp_path: Path) -> None:
    store = tmp_path / "store"
    threads = str(torch.get_num_threads())  # the last bits depend on them, as on the machine
    environment = {**os.environ, "OMP_NUM_THREADS": threads, "CUDA_VISIBLE_DEVICES": ""}
    running = [
        subprocess.Popen(
            [sys.executable, "-m", "dit.encode",
             *arguments(root, store, subset=str(root / f"{name}.parquet"))],
            env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )
        for name in ("first", "second")
    ]  # fmt: skip
    for process in running:
        _, errors = process.communicate(timeout=120)
        assert process.returncode == 0, errors
    assert LatentStore(store).rows == 15
    for name in ("first", "second"):
        subset = root / f"{name}.parquet"
        assert np.array_equal(latents(store, subset), latents(both, subset))


def test_a_growing_store_that_was_killed_continues(root: Path, both: Path, tmp_path: Path) -> None:
    """Killed in the growth: the new shards are there, and the manifest is the old one."""
    store = tmp_path / "store"
    add(root, store, "first")
    old = (store / "manifest.json").read_text()
    add(root, store, "second")
    new = json.loads((store / "manifest.json").read_text())
    whole = folder_bytes(store)
    (store / "manifest.json").write_text(old)
    (store / "latents-00004.parquet").unlink()
    LatentStore(store, root / "first.parquet")  # serves the first subset all the while
    add(root, store, "second")
    assert folder_bytes(store) == whole
    again = json.loads((store / "manifest.json").read_text())
    assert again["fingerprint"] == new["fingerprint"] and again["files"] == new["files"]


def test_a_damaged_shard_costs_its_images_alone(
    root: Path, both: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store = tmp_path / "store"
    add(root, store, "first")
    add(root, store, "second")
    os.truncate(store / "latents-00000.npy", 100)  # four images of the first subset alone
    add(root, store, "second")
    assert "latents-00000.npy: damaged, removed" in capsys.readouterr().out
    assert LatentStore(store, root / "second.parquet").rows == 11
    with pytest.raises(UserError, match="lacks 4 of the 9 images"):
        LatentStore(store, root / "first.parquet")
    add(root, store, "first")
    for name in ("first", "second"):
        subset = root / f"{name}.parquet"
        assert np.array_equal(latents(store, subset), latents(both, subset))


def test_a_store_of_version_0_1_is_read_and_not_grown(
    root: Path, both: Path, tmp_path: Path
) -> None:
    """One subset, keys only, and the subset's fingerprint among its inputs."""
    store = tmp_path / "store"
    add(root, store, "first")
    for path in store.glob("latents-*.parquet"):
        pq.write_table(pq.read_table(path).select(["key"]), path)
    manifest = json.loads((store / "manifest.json").read_text())
    manifest["inputs"]["subset"] = "s" * 64
    manifest["params"]["shard_rows"] = 4
    for name, entry in manifest["files"].items():
        entry["bytes"] = (store / name).stat().st_size
    (store / "manifest.json").write_text(json.dumps(manifest))
    assert list(LatentStore(store).keys) == pq.read_table(root / "first.parquet")["key"].to_pylist()
    assert np.array_equal(
        latents(store, root / "first.parquet"), latents(both, root / "first.parquet")
    )
    with pytest.raises(UserError, match="subset: "):
        encode(arguments(root, store, subset=str(root / "second.parquet")))


def test_the_spread_of_a_subset_is_measured(root: Path, both: Path) -> None:
    store = LatentStore(both, root / "second.parquet")
    vae = load_vae(root / "vae")
    assert vae.scale == store.scale
    alone = store.statistics()
    mean, std = (latents(both, root / "second.parquet")[:, :, i].astype(float) for i in (0, 1))
    variance = (np.square(mean) + np.square(std)).mean() - mean.mean() ** 2
    assert alone["std"] == pytest.approx(0.5 * np.sqrt(variance), rel=1e-5)
    assert alone["std"] != read_manifest(both)["summary"]["latent"]["std"]
