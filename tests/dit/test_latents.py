"""The latent store: order, mirror images, resuming, and what it refuses."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from core.errors import UserError
from core.stage import Stage, fingerprint, read_manifest
from data.corpus.specs import open_corpus
from data.formats.index import write_index
from dit.encode import main as encode
from dit.latents.shards import shard_names
from dit.latents.store import LatentSource, LatentStore
from dit.training.order import Stream, plan_batch
from dit.vae.autoencoder import describe_vae, load_vae, to_unit
from tests.dit.tiny_vae import save_tiny_vae

SIZE = 16
ROWS = 11


def make_corpus(folder: Path, n: int = ROWS + 2) -> Path:
    rng = np.random.default_rng(5)
    for number in range(n):
        path = folder / f"class{number % 3}" / f"tile_{number:02d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (SIZE, SIZE, 3), dtype=np.uint8)).save(path)
    return folder


def make_subset(
    corpus: Path, path: Path, rows: slice = slice(-ROWS, None), digests: bool = True
) -> Path:
    samples = [s for shard in open_corpus(corpus).shards() for s in open_corpus(corpus).read(shard)]
    samples = samples[rows]
    n = len(samples)
    known = [hashlib.sha256(s.data or b"").hexdigest() if digests else None for s in samples]
    table = pa.table(
        {
            "key": [s.key for s in samples],
            "shard": [s.shard for s in samples],
            "row": pa.array([s.row for s in samples], pa.int64()),
            "digest": pa.array(known, pa.string()),
            "entropy": [7.0] * n,
            "cluster": pa.array([-1] * n, pa.int32()),
            "similarity": pa.array([None] * n, pa.float32()),
            "rank": pa.array(range(n), pa.int64()),
            "chosen": ["random"] * n,
        }
    )
    stage = Stage(path, "prune.select", {"n": n}, {})
    stage.open()
    about = {"method": "random", "params": {}, "inputs": {}, "encoder": None}
    write_index(path, table, {**about, "code": "test", "counts": {"chosen": n}})
    written = pq.read_table(path)
    if "digest" not in written.column_names:
        pq.write_table(written.append_column("digest", table["digest"]), path)
    stage.finish({}, [path.name], "made")
    return path


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A corpus, a subset, a VAE and the store of the subset."""
    root = tmp_path_factory.mktemp("latents")
    make_corpus(root / "corpus")
    make_subset(root / "corpus", root / "subset.parquet")
    save_tiny_vae(root / "vae", scaling_factor=0.5)
    assert encode(arguments(root, root / "store")) == 0
    return root


def arguments(root: Path, out: Path, **changed: str) -> list[str]:
    flags = {
        "corpus": str(root / "corpus"),
        "subset": str(root / "subset.parquet"),
        "vae": str(root / "vae"),
        "image-size": str(SIZE),
        "shard-rows": "4",
        "batch": "3",
        "device": "cpu",
        "out": str(out),
    }
    flags.update(changed)
    return [part for name, value in flags.items() for part in (f"--{name}", value)]


def subset_keys(root: Path) -> list[str]:
    return pq.read_table(root / "subset.parquet")["key"].to_pylist()


def image(root: Path, key: str) -> np.ndarray:
    return np.asarray(Image.open(root / "corpus" / key))


def zeros(n: int, store: LatentStore) -> torch.Tensor:
    return torch.zeros(n, *store.shape)


def test_rows_follow_the_subset_and_hold_image_and_mirror_image(made: Path) -> None:
    store = LatentStore(made / "store")
    keys = subset_keys(made)
    assert list(store.keys) == keys and store.rows == ROWS and store.shape == (4, 4, 4)
    vae = load_vae(made / "vae")
    rows = np.array([9, 0, 4, 3, 9])  # unordered, repeated, over all three shards
    flips = np.array([False, True, False, True, True])
    views = np.stack(
        [
            image(made, keys[row])[:, :: -1 if flip else 1]
            for row, flip in zip(rows, flips, strict=True)
        ]
    )
    mean, std = vae.encode(to_unit(views))
    noise = torch.randn(5, *store.shape, generator=torch.Generator().manual_seed(0))
    read = store.read(rows, flips, noise)
    assert read.dtype == torch.float32
    torch.testing.assert_close(read, 0.5 * (mean + std * noise), atol=3e-3, rtol=2e-3)
    plain = store.read(rows[1:2], np.array([False]), zeros(1, store))
    assert (read[1] - 0.5 * std[1] * noise[1] - plain[0].flip(-1)).abs().max() > 0.01, (
        "the mirror image's latent must come from the VAE, not from mirroring the latent"
    )


def test_resident_and_mapped_stores_read_the_same(made: Path) -> None:
    mapped, resident = LatentStore(made / "store"), LatentStore(made / "store", resident=True)
    assert not mapped.resident and resident.resident
    assert LatentStore(made / "store", resident="auto").resident  # a few kilobytes always fit
    rows, flips = np.arange(ROWS), np.arange(ROWS) % 2 == 0
    noise = torch.randn(ROWS, *mapped.shape)
    assert torch.equal(mapped.read(rows, flips, noise), resident.read(rows, flips, noise))
    with pytest.raises(IndexError):
        mapped.read(np.array([ROWS]), np.array([False]), zeros(1, mapped))


def test_auto_keeps_a_store_on_disk_when_memory_is_short(
    made: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dit.latents.store._free_memory", lambda: 100.0)
    assert not LatentStore(made / "store", resident="auto").resident


def test_source_gives_what_the_picks_say(made: Path) -> None:
    source = LatentSource(LatentStore(made / "store"))
    assert len(source.keys) == ROWS and source.latent_shape == (4, 4, 4)
    facts = source.describe()
    assert facts == {
        "shape": [4, 4, 4],
        "scale": 0.5,
        "vae_fingerprint": describe_vae(made / "vae").fingerprint,
        "image_size": SIZE,
    }
    chosen = plan_batch(seed=3, step=2, batch=6, n=ROWS)
    loaded = source.load(chosen)["x0"]
    noise = chosen.noise((4, 4, 4), Stream.POSTERIOR)
    assert torch.equal(loaded, source.store.read(chosen.indices, chosen.flips, noise))
    parts = [source.load(part)["x0"] for part in chosen.split(2)]
    assert torch.equal(torch.cat(parts), loaded)


def test_manifest_tells_the_spread_of_the_scaled_latents(made: Path) -> None:
    store = LatentStore(made / "store")
    stats = read_manifest(made / "store")["summary"]["latent"]
    rows = np.repeat(np.arange(ROWS), 2)
    flips = np.tile([False, True], ROWS)
    generator = torch.Generator().manual_seed(0)
    draws = torch.cat(
        [
            store.read(rows, flips, torch.randn(len(rows), *store.shape, generator=generator))
            for _ in range(40)
        ]
    )
    assert draws.std().item() == pytest.approx(stats["std"], rel=0.02)
    assert draws.mean().item() == pytest.approx(stats["mean"], abs=0.02)
    assert draws.std(dim=(0, 2, 3)).tolist() == pytest.approx(stats["channel_std"], rel=0.03)


def test_a_wrong_scale_is_warned_of(made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    shutil.copytree(made / "vae", tmp_path / "vae")
    config = json.loads((tmp_path / "vae/config.json").read_text())
    (tmp_path / "vae/config.json").write_text(json.dumps({**config, "scaling_factor": 40.0}))
    encode(arguments(made, tmp_path / "store", vae=str(tmp_path / "vae")))
    assert "far from 1" in capsys.readouterr().out
    with pytest.raises(UserError, match="another VAE or another scale"):
        LatentStore(tmp_path / "store").check_vae(describe_vae(made / "vae").fingerprint)


def folder_bytes(folder: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in sorted(folder.glob("latents-*"))}


def test_a_killed_run_continues_to_the_same_bytes(
    made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "store"
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    slow = (  # the same command, asleep before its third shard, to be killed there
        "import sys, time; from dit.encode import main; from dit.latents import encode\n"
        "real = encode._encode\n"
        "def slow(vae, corpus, images, *more):\n"
        "    latents = real(vae, corpus, images, *more)\n"
        "    if len(images) == 3: print('LAST', flush=True); time.sleep(60)\n"
        "    return latents\n"
        "encode._encode = slow; main(sys.argv[1:])"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", slow, *arguments(made, out)],
        stdout=subprocess.PIPE, text=True, env=environment,
    )  # fmt: skip
    assert process.stdout is not None
    for line in process.stdout:
        if "LAST" in line:
            break
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert (out / shard_names(1)[1]).exists() and not (out / shard_names(2)[0]).exists()
    with pytest.raises(UserError, match="not a finished stage"):
        LatentStore(out)
    before = (out / shard_names(0)[0]).stat().st_mtime_ns
    (out / shard_names(1)[1]).unlink()  # killed between the latents and their keys
    assert encode(arguments(made, out)) == 0
    assert "4 of 11 images are there" in capsys.readouterr().out
    assert (out / shard_names(0)[0]).stat().st_mtime_ns == before
    assert folder_bytes(out) == folder_bytes(made / "store")
    assert fingerprint(out) == fingerprint(made / "store")


def test_a_finished_store_answers_without_the_heavy_imports(made: Path) -> None:
    light = (
        "import sys; from dit.encode import main; main(sys.argv[1:])\n"
        "assert not {'torch', 'diffusers', 'PIL'} & set(sys.modules), 'slow to import'"
    )
    command = [sys.executable, "-c", light, *arguments(made, made / "store")]
    answer = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "already done" in answer.stdout


@pytest.mark.parametrize("damage", ["cut", "gone", "keys gone", "shape"])
def test_a_damaged_shard_is_refused_and_then_repaired(
    made: Path, tmp_path: Path, damage: str
) -> None:
    out = tmp_path / "store"
    shutil.copytree(made / "store", out)
    array, keys = (out / name for name in shard_names(1))
    if damage == "cut":
        os.truncate(array, array.stat().st_size - 7)
    elif damage == "gone":
        array.unlink()
    elif damage == "keys gone":
        keys.unlink()
    else:
        np.save(array, np.load(array)[:3])
    with pytest.raises(UserError, match=r"latents-00001.*again"):
        LatentStore(out)
    encode(arguments(made, out))
    assert folder_bytes(out) == folder_bytes(made / "store")
    assert LatentStore(out).rows == ROWS


def test_latents_that_are_not_finite_are_named(made: Path, tmp_path: Path) -> None:
    """In a store of version 0.1, which has no checksums."""
    shutil.copytree(made / "store", tmp_path / "store")
    path, table = (tmp_path / "store" / name for name in shard_names(1))
    array = np.load(path)
    array[2, 1, 0, 0, 0, 0] = np.nan
    np.save(path, array)
    pq.write_table(pq.read_table(table).drop_columns(["crc", "crc_mirror"]), table)
    store = LatentStore(tmp_path / "store")
    store.read(np.array([6]), np.array([False]), zeros(1, store))
    with pytest.raises(UserError, match=rf"not finite.*{store.keys[6]}"):
        store.read(np.array([1, 6]), np.array([True, True]), zeros(2, store))


@pytest.mark.parametrize("resident", [False, True])
def test_one_bit_of_a_latent_is_noticed_when_it_is_read(
    made: Path, tmp_path: Path, resident: bool
) -> None:
    shutil.copytree(made / "store", tmp_path / "store")
    path = tmp_path / "store" / shard_names(1)[0]
    array = np.load(path)
    array.view(np.uint16)[2, 1, 1, 0, 0, 0] ^= 1  # the mirror image's deviation, the last bit
    np.save(path, array)
    if resident:
        with pytest.raises(UserError, match=r"latents-00001.npy: damaged: .*CRC-32"):
            LatentStore(tmp_path / "store", resident=True)
        return
    store = LatentStore(tmp_path / "store")
    store.read(np.arange(len(store)), np.zeros(len(store), bool), zeros(len(store), store))
    with pytest.raises(UserError, match=rf"latents-00001.npy: damaged.*'{store.keys[6]}'.*CRC"):
        store.read(np.array([1, 6]), np.array([True, True]), zeros(2, store))
    (tmp_path / "store" / shard_names(1)[0]).unlink()  # the way out that the message names
    encode(arguments(made, tmp_path / "store"))
    assert folder_bytes(tmp_path / "store") == folder_bytes(made / "store")


def test_encoding_stops_at_latents_that_overflow(made: Path, tmp_path: Path) -> None:
    save_tiny_vae(tmp_path / "vae", gain=1e6)
    with pytest.raises(UserError, match=r"65,504.*tile_"):
        encode(arguments(made, tmp_path / "store", vae=str(tmp_path / "vae")))


def test_mismatches_are_refused(made: Path, tmp_path: Path) -> None:
    store = LatentStore(made / "store")
    store.check_vae(describe_vae(made / "vae").fingerprint)
    save_tiny_vae(tmp_path / "other", seed=1)
    with pytest.raises(UserError, match="another VAE"):
        store.check_vae(describe_vae(tmp_path / "other").fingerprint)
    with pytest.raises(UserError, match=r"other settings[^$]*vae: "):
        encode(arguments(made, made / "store", vae=str(tmp_path / "other")))
    with pytest.raises(UserError, match="image_size: 16 there, 32 now"):
        encode(arguments(made, made / "store", **{"image-size": "32"}))
    with pytest.raises(UserError, match="multiple of the VAE's factor 4"):
        encode(arguments(made, tmp_path / "odd", **{"image-size": "18"}))


def test_an_image_lost_since_scoring_is_named(made: Path, tmp_path: Path) -> None:
    shutil.copytree(made / "corpus", tmp_path / "corpus")
    lost = subset_keys(made)[5]
    (tmp_path / "corpus" / lost).unlink()
    with pytest.raises(UserError, match=lost):
        encode(arguments(made, tmp_path / "store", corpus=str(tmp_path / "corpus")))
    (tmp_path / "corpus" / lost).write_bytes(b"no image")
    with pytest.raises(UserError, match=lost):
        encode(arguments(made, tmp_path / "other", corpus=str(tmp_path / "corpus")))
