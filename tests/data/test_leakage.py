"""What sets share: planted copies and near-duplicates are found, and nothing else is."""

from __future__ import annotations

import hashlib
import io
import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

import data.curation.nearest as nearest
from core.errors import UserError
from core.stage import Stage
from data.curation.holdout import pool, read_holdout
from data.curation.leakage import held_in_index
from data.formats.embeddings import write_embeddings
from data.formats.index import read_index, write_index
from data.formats.scores import SCORES
from data.formats.tables import read_parts, write_part
from data.holdout import main as holdout
from data.leakage import main

N = 40  # corpus images, in parts of 16


def jpeg(seed: int, quality: int = 90) -> bytes:
    stream = io.BytesIO()
    pixels = np.random.default_rng(seed).integers(0, 256, (12, 12, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(stream, "JPEG", quality=quality)
    return stream.getvalue()


class World:
    """A scored corpus of N images, a hold-out of 5, an index of 10, and sets that share images."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.images = [jpeg(i) for i in range(N)]
        self.images[7] = self.images[3]  # a copy inside the corpus
        self.scores = root / "scores"
        stage = Stage(self.scores, "prune.score", {}, {})
        stage.open()
        names = []
        for number, start in enumerate(range(0, N, 16)):
            rows = range(start, min(start + 16, N))
            columns = {
                "key": [f"k{i:02}" for i in rows], "shard": ["s"] * len(rows), "row": list(rows),
                "digest": [hashlib.sha256(self.images[i]).hexdigest() for i in rows],
                "bytes": [1] * len(rows), "width": [12] * len(rows), "height": [12] * len(rows),
                "entropy": [float(i) for i in rows], "status": ["ok"] * len(rows),
                "reason": [""] * len(rows), "detail": [""] * len(rows),
            }  # fmt: skip
            names.append(write_part(self.scores, number, columns, SCORES).name)
        stage.finish({}, names, "")
        self.held = root / "holdout.parquet"
        flags = ["--scores", str(self.scores), "--n", "5", "--holdouts", "pool"]
        holdout([*flags, "--out", str(self.held)])
        self.held_keys = read_holdout(self.held)["key"].to_pylist()
        table = pool(read_parts(self.scores), read_holdout(self.held))
        self.pool_keys = table["key"].to_pylist()

    def index(self, keys: list[str]) -> Path:
        rows = read_parts(self.scores, ["key", "shard", "row", "entropy"])
        rows = rows.filter(pa.array([key in keys for key in rows["key"].to_pylist()]))
        n = rows.num_rows
        for name, values in (
            ("cluster", pa.array([-1] * n, pa.int32())), ("similarity", pa.nulls(n, pa.float32())),
            ("rank", pa.array(range(n), pa.int64())), ("chosen", pa.array(["random"] * n)),
        ):  # fmt: skip
            rows = rows.append_column(name, values)
        out = self.root / f"index-{len(keys)}.parquet"
        stage = Stage(out, "prune.select", {"keys": keys}, {})
        stage.open()
        blank = {"params": {}, "inputs": {}, "encoder": None, "code": "", "counts": {}}
        write_index(out, rows, {"method": "random", **blank})
        stage.finish({}, [out.name], "")
        return out

    def write(self, place: str, data: bytes) -> Path:
        path = self.root / place
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        return path

    def embed(self, name: str, keys: list[str], rows: np.ndarray) -> str:
        out = self.root / f"embed-{name}"
        stage = Stage(out, "prune.embed", {"name": name}, {})
        stage.open()
        outputs = []
        rows = rows / np.linalg.norm(rows, axis=1, keepdims=True)
        for number, start in enumerate(range(0, len(keys), 16)):
            part = keys[start : start + 16]
            table = pa.table({"key": part, "shard": ["s"] * len(part)})
            write_embeddings(out, number, rows[start : start + 16].astype(np.float32), table)
            outputs += [f"part-{number:05d}.npy", f"part-{number:05d}.parquet"]
        encoder = {"name": "fake", "dim": rows.shape[1]}
        summary = {"encoder": encoder, "dim": rows.shape[1], "rows": len(keys)}
        stage.finish({**summary, "parts": len(outputs) // 2}, outputs, "")
        return f"{name}={out}"

    def run(self, *flags: str, out: str = "leak") -> int | None:
        base = ["--scores", str(self.scores), "--holdout", str(self.held)]
        return main([*base, "--out", str(self.root / out), *flags])

    def report(self, out: str = "leak") -> dict:
        return json.loads((self.root / out / "leakage.json").read_text())


@pytest.fixture
def world(tmp_path) -> World:
    return World(tmp_path)


def number(key: str) -> int:
    return int(key[1:])


def shared(report: dict, kind: str = "exact") -> dict[tuple[str, str], tuple[int, int]]:
    return {(e["a"], e["b"]): (e["images_a"], e["images_b"]) for e in report[kind]}


def test_planted_copies_are_found_and_nothing_else(world, capsys):
    pooled, held = world.pool_keys, world.held_keys
    chosen = [key for key in pooled if key not in ("k03", "k07")][:10]
    other = [key for key in pooled if key not in (*chosen, "k03", "k07")]
    for place, data in {
        "ref/a/1.jpg": world.images[number(chosen[0])],
        "ref/a/2.jpg": world.images[number(held[0])],
        "ref/b/3.jpg": jpeg(900),
        "ref/b/3b.jpg": jpeg(900),  # the same twice in one set is no overlap of two
        "sr/im1/1.jpg": jpeg(901), "sr/im2/1.jpg": jpeg(902),
        "sr/test/im1/2.jpg": jpeg(901), "sr/test/im2/2.jpg": jpeg(903),
        "sis/t1/images/1.jpg": jpeg(900), "sis/t1/masks/1.jpg": jpeg(3),
        "sis/t2/images/1.jpg": world.images[number(other[0])], "sis/t2/masks/1.jpg": jpeg(3),
    }.items():  # fmt: skip
        world.write(place, data)
    flags = ["--index", str(world.index(chosen)), "--reference", f"ucm:{world.root / 'ref'}",
             "--sr", str(world.root / "sr"), "--sis", str(world.root / "sis")]  # fmt: skip
    assert world.run(*flags) == 0
    report = world.report()
    assert shared(report) == {
        ("corpus", "reference"): (1, 1),
        ("index", "reference"): (1, 1),
        ("holdout", "reference"): (1, 1),
        ("sr/train", "sr/test"): (1, 1),
        ("reference", "sis/train"): (2, 1),
        ("corpus", "sis/val"): (1, 1),
    }
    sizes = {name: size["images"] for name, size in report["sets"].items()}
    assert sizes == {
        "holdout": 5, "reference": 4, "sr/train": 2, "sr/test": 2, "sis/train": 1, "sis/val": 1,
        "corpus": N - 5, "index": 10,
    }  # fmt: skip
    pairs = pq.read_table(world.root / "leak/pairs.parquet").to_pylist()
    assert {"kind": "exact", "a": "index", "key_a": chosen[0], "b": "reference",
            "key_b": "ucm/a/1.jpg", "similarity": None} in pairs  # fmt: skip
    printed = capsys.readouterr().out
    assert "the index holds no held-out image" in printed and "ucm/a/1.jpg" in printed
    assert world.run(*flags) == 0 and "already done" in capsys.readouterr().out


def test_a_held_out_image_in_the_index_is_a_failure(world, capsys):
    bad = world.index([*world.pool_keys[:8], world.held_keys[2]])
    assert world.run("--index", str(bad)) == 1
    assert world.report()["held_in_index"] == 1
    assert f"LEAK: 1 held-out images in the index, {world.held_keys[2]}" in capsys.readouterr().out
    assert world.run("--index", str(bad)) == 1  # and again, when it is already done


def test_a_copy_of_a_held_out_image_is_one_too(world, tmp_path):
    held = tmp_path / "one.parquet"
    rows = read_parts(world.scores, ["key", "shard", "row", "digest"]).slice(3, 1)
    stage = Stage(held, "data.holdout", {}, {})
    stage.open()
    pq.write_table(rows, held)
    stage.finish({}, [held.name], "")
    index = world.index(["k07", "k11"])
    assert held_in_index(index, held, world.scores) == ["k07"]
    assert held_in_index(index, held, None) == []
    table = pool(read_parts(world.scores), rows)
    assert "k07" not in table["key"].to_pylist()
    assert held_in_index(world.index(table["key"].to_pylist()), held, world.scores) == []
    assert read_index(index)[0].num_rows == 2


@pytest.mark.parametrize("block", [5, 4096])
def test_near_images_by_their_embeddings(world, monkeypatch, block, capsys):
    monkeypatch.setattr(nearest, "BLOCK", block)
    random = np.random.default_rng(5)
    keys = [f"k{i:02}" for i in range(N)]
    rows = random.normal(size=(N, 64))
    pooled, held = world.pool_keys, world.held_keys
    chosen = pooled[:10]
    rows[number(pooled[20])] = rows[number(held[1])] + 0.01 * random.normal(size=64)
    other = random.normal(size=(30, 64))
    other[17] = rows[number(chosen[4])] + 0.01 * random.normal(size=64)
    other[18] = rows[number(chosen[4])] + 0.05 * random.normal(size=64)
    names = [f"r{i}" for i in range(30)]
    flags = ["--index", str(world.index(chosen)), "--embeddings", world.embed("corpus", keys, rows),
             world.embed("reference", names, other), "--threshold", "0.95",
             "--drop", str(world.root / "near.parquet")]  # fmt: skip
    assert world.run(*flags) == 0
    report = world.report()
    assert shared(report, "near") == {
        ("corpus", "holdout"): (1, 1),
        ("corpus", "reference"): (1, 2),
        ("index", "reference"): (1, 1),
    }
    pairs = pq.read_table(world.root / "leak/pairs.parquet").to_pylist()
    near = {(p["key_a"], p["key_b"]): p["similarity"] for p in pairs if p["kind"] == "near"}
    assert set(near) == {(pooled[20], held[1]), (chosen[4], "r17")}
    assert all(0.98 < value <= 1.001 for value in near.values())
    assert "5 of 5 held-out images have an embedding" in capsys.readouterr().out
    drop = world.root / "near.parquet"
    assert read_holdout(drop)["key"].to_pylist() == [pooled[20]]
    both = world.root / "both.parquet"
    holdout(["--join", str(world.held), str(drop), "--out", str(both)])
    # What only leaves the pool is nothing to be judged against.
    assert read_holdout(both, "pool")["key"].to_pylist() == held
    left = pool(read_parts(world.scores), read_holdout(both))["key"].to_pylist()
    assert sorted({*pooled} - {*left}) == [pooled[20]]


def test_only_the_nearest_pairs_are_kept_but_all_are_counted(world):
    rows = np.ones((N, 8)) + 0.01 * np.random.default_rng(0).normal(size=(N, 8))
    keys = [f"k{i:02}" for i in range(N)]
    more = [world.embed("one", keys, rows), world.embed("two", keys[:9], rows[:9])]
    out = world.root / "leak"
    assert main(["--embeddings", *more, "--most", "4", "--out", str(out)]) == 0
    (entry,) = world.report()["near"]
    assert (entry["a"], entry["b"]) == ("one", "two")
    assert entry["images_a"] == N and entry["images_b"] == 9
    pairs = pq.read_table(out / "pairs.parquet").to_pylist()
    similarity = [pair["similarity"] for pair in pairs]
    assert len(pairs) == 4 and similarity == sorted(similarity, reverse=True)


def test_a_stopped_comparison_goes_on(world, monkeypatch):
    monkeypatch.setattr(nearest, "BLOCK", 7)
    monkeypatch.setattr(nearest, "SAVE_EVERY", 0.0)
    rows = 0.7 + 0.05 * np.random.default_rng(0).normal(size=(N, 8))
    keys = [f"k{i:02}" for i in range(N)]
    more = ["--embeddings", world.embed("one", keys, rows),
            world.embed("two", keys[::-1][:9], rows[:9] * [1, 1, 1, 1, 1, 1, 1, 0.8]),
            "--threshold", "0.995", "--device", "cpu"]  # fmt: skip
    main([*more, "--out", str(world.root / "whole")])
    best, calls = nearest.numpy_best, []

    def stop(*arguments):
        calls.append(1)
        if len(calls) == 5:
            raise KeyboardInterrupt
        return best(*arguments)

    monkeypatch.setattr(nearest, "numpy_best", stop)
    with pytest.raises(KeyboardInterrupt):
        main([*more, "--out", str(world.root / "cut")])
    monkeypatch.setattr(nearest, "numpy_best", best)
    done = json.loads((world.root / "cut" / ".near-one-two.json").read_text())
    assert 0 < done["rows"] < N
    main([*more, "--out", str(world.root / "cut")])
    one, two = (
        {p.name: p.read_bytes() for p in (world.root / n).iterdir() if p.name[0] in "lp"}
        for n in ("whole", "cut")
    )
    assert one == two and set(one) == {"leakage.json", "pairs.parquet"}
    assert 0 < world.report("cut")["near"][0]["images_a"] < N
    assert not list((world.root / "cut").glob(".near*"))


def test_torch_and_numpy_find_the_same():
    random = np.random.default_rng(1)
    rows, others = (random.normal(size=(n, 16)).astype(np.float32) for n in (40, 23))
    others[5] = rows[7]
    rows, others = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in (rows, others))
    expected = nearest.numpy_best(rows, others, 0.6)
    found = nearest.torch_best("cpu")(rows, others, 0.6)
    assert expected[1][7] == 5 and 0 < expected[2].sum() < 23
    for one, two in zip(found, expected, strict=True):
        np.testing.assert_allclose(one, two, atol=1.1e-4)


def test_flags_that_make_no_sense(world, tmp_path):
    one = world.embed("corpus", ["a"], np.ones((1, 4)))
    for flags, message in (
        (["--embeddings", "corpus"], "expected NAME=FOLDER"),
        (["--embeddings", one, one], "given twice"),
        (["--embeddings", one, "--threshold", "2"], "--threshold 2.0: input should be less"),
        (["--embeddings", one, "--most", "0"], "--most 0: input should be greater"),
        (["--drop", str(tmp_path / "x.parquet")], "--drop needs"),
        (["--reference", str(tmp_path / "nowhere")], "no such folder"),
    ):
        with pytest.raises(UserError, match=message):
            world.run(*flags)
    with pytest.raises(UserError, match="give at least two sets"):
        main(["--out", str(tmp_path / "o"), "--holdout", str(world.held)])
    with pytest.raises(UserError, match="give the --scores"):
        main(["--out", str(tmp_path / "o"), "--index", str(world.index(["k01"]))])


def test_an_empty_comparison_is_an_error(world):
    """Embeddings that were made without the hold-out have no image of it to compare."""
    rows = np.random.default_rng(0).normal(size=(N, 16))
    pooled = world.embed("corpus", world.pool_keys, rows[: len(world.pool_keys)])
    with pytest.raises(UserError, match=r"0 of 5 held-out images have.*without --hold"):
        world.run("--embeddings", pooled, world.embed("other", ["a"], rows[:1]))
    index = world.index(world.pool_keys[:4])
    table, metadata = read_index(index)
    elsewhere = table.set_column(0, "key", pa.array([f"x{n}" for n in range(4)]))
    out = world.root / "elsewhere.parquet"
    stage = Stage(out, "prune.select", {}, {})
    stage.open()
    write_index(out, elsewhere, metadata)
    stage.finish({}, [out.name], "")
    with pytest.raises(UserError, match="index: 4 images, and none that are in --scores"):
        world.run("--index", str(out))
    assert not (world.root / "leak" / "manifest.json").exists()
