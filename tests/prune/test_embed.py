from __future__ import annotations

import hashlib
import io
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

import data.corpus.verified as checks
from core.errors import UserError
from core.stage import read_manifest
from data.curation.holdout import draw, pool, read_holdout
from data.formats.embeddings import Embeddings, require_same_encoder, write_embeddings
from data.formats.tables import read_parts
from data.holdout import main as holdout
from data.images.descriptor import describe
from prune.descriptor_accuracy import main as accuracy
from prune.embed import main as embed
from prune.encoders import embed as library
from prune.score import main as score
from prune.stage1.threshold import stage1
from prune.studies.descriptor_accuracy import knn_predict

IMAGES = 60


def encoded(seed: int, kind: str = "PNG", size: tuple[int, int] = (24, 24)) -> bytes:
    rng = np.random.default_rng(seed)
    pixels = rng.normal(rng.uniform(60, 200, 3), rng.uniform(1, 40), (*size, 3))
    stream = io.BytesIO()
    Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8)).save(stream, kind)
    return stream.getvalue()


@pytest.fixture
def corpus(tmp_path) -> Path:
    root = tmp_path / "corpus"
    for i in range(IMAGES):
        path = root / f"{i % 3}" / f"{i:03d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encoded(i, size=(20 + i % 4, 24)))
    (root / "broken.png").write_bytes(encoded(99)[:60])
    return root


@pytest.fixture
def scored(corpus, tmp_path) -> tuple[Path, Path]:
    """(scores, holdout) of the corpus."""
    score(["--corpus", str(corpus), "--out", str(tmp_path / "scores"), "--workers", "1"])
    held = tmp_path / "holdout.parquet"
    flags = ["--n", "7", "--holdouts", "pool", "--out", str(held)]
    holdout(["--scores", str(tmp_path / "scores"), *flags])
    return tmp_path / "scores", held


@pytest.fixture(autouse=True)
def small_parts(monkeypatch):
    monkeypatch.setattr(library, "PART", 8)


def run(corpus: Path, scored: tuple[Path, Path], out: Path, *flags: str) -> int | None:
    places = ["--corpus", str(corpus), "--scores", str(scored[0]), "--holdout", str(scored[1])]
    return embed(
        [*places, "--out", str(out), "--workers", "1", "--keep", "0.5", "--batch", "3", *flags]
    )


def contents(folder: Path) -> dict[str, str]:
    return {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.glob("part-*"))
    }


def test_embeds_what_stage1_keeps_in_order(corpus, scored, tmp_path):
    run(corpus, scored, tmp_path / "e")
    found = Embeddings(tmp_path / "e")
    expected = stage1(pool(read_parts(scored[0]), read_holdout(scored[1])), 0.5)
    assert found.rows == expected.num_rows == (IMAGES - 7) // 2
    names = expected.select(["key", "shard", "row", "entropy"])
    assert found.table().to_pylist() == names.to_pylist()
    pixels = [np.asarray(Image.open(corpus / key)) for key in expected["key"].to_pylist()]
    np.testing.assert_allclose(found.matrix(), describe(pixels), atol=1e-3)
    sizes = [len(array) for array, _ in found.parts()]
    assert sizes == [8, 8, 8, 2]
    summary = read_manifest(tmp_path / "e")["summary"]
    assert summary["pool"] == IMAGES - 7
    assert summary["tau"] == min(expected["entropy"].to_pylist())
    assert summary["encoder"]["name"] == "descriptor" and summary["dim"] == found.dim


def test_workers_and_batch_leave_the_bytes_alone_and_again_is_nothing(
    corpus, scored, tmp_path, capsys
):
    run(corpus, scored, tmp_path / "a")
    run(corpus, scored, tmp_path / "b", "--workers", "2", "--batch", "5")
    assert contents(tmp_path / "a") == contents(tmp_path / "b")
    capsys.readouterr()
    assert run(corpus, scored, tmp_path / "a") == 0
    assert "nothing left to do" in capsys.readouterr().out
    with pytest.raises(UserError, match=r"keep: 0\.5 there, 0\.4 now"):
        run(corpus, scored, tmp_path / "a", "--keep", "0.4")


_KILLED = """
import os, signal, sys
import data.formats.embeddings as embeddings, prune.encoders.embed as embed
from prune.embed import main
embed.PART = 8
write_part, parts = embeddings.write_part, []
def kill_in_third(folder, number, table):
    parts.append(number)
    if len(parts) == 3:  # its array is written, its table is not
        os.kill(os.getpid(), signal.SIGKILL)
    write_part(folder, number, table)
embeddings.write_part = kill_in_third
main(sys.argv[1:])
"""


def test_a_killed_run_continues_to_the_same_bytes(corpus, scored, tmp_path, monkeypatch):
    run(corpus, scored, tmp_path / "whole")
    flags = ["--corpus", corpus, "--scores", scored[0], "--holdout", scored[1], "--out",
             tmp_path / "killed", "--workers", "1", "--keep", "0.5", "--batch", "3"]  # fmt: skip
    process = subprocess.run(
        [sys.executable, "-c", _KILLED, *map(str, flags)],
        cwd=Path(__file__).parents[2],
        capture_output=True,
    )
    assert process.returncode == -signal.SIGKILL
    left = contents(tmp_path / "killed")
    assert len(left) == 5 and "part-00002.parquet" not in left
    with pytest.raises(UserError, match="not a finished stage"):
        Embeddings(tmp_path / "killed")

    import prune.encoders.passes as embed_pass

    seen = []
    inner = embed_pass.prepare_task
    monkeypatch.setattr(
        embed_pass, "prepare_task", lambda task, work: seen.append(task) or inner(task, work)
    )
    run(corpus, scored, tmp_path / "killed")
    assert contents(tmp_path / "killed") == contents(tmp_path / "whole")
    assert sum(len(images) for images, _ in seen) == (IMAGES - 7) // 2 - 16  # not all again


def test_a_damaged_part_is_made_again(corpus, scored, tmp_path):
    run(corpus, scored, tmp_path / "e")
    before = contents(tmp_path / "e")
    path = tmp_path / "e" / "part-00001.npy"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(UserError, match=r"part-00001\.npy"):
        Embeddings(tmp_path / "e").matrix()
    run(corpus, scored, tmp_path / "e")
    assert contents(tmp_path / "e") == before


@pytest.mark.parametrize("workers", ["1", "2"])
def test_an_image_that_vanished_or_changed_is_named(
    corpus, scored, tmp_path, monkeypatch, workers
):
    monkeypatch.setattr(checks, "TRIED", 1)  # only the pass itself can find it
    kept = stage1(pool(read_parts(scored[0]), read_holdout(scored[1])), 0.5)
    key = kept["key"][20].as_py()
    data = (corpus / key).read_bytes()
    (corpus / key).unlink()
    with pytest.raises(UserError, match=f"{key} was readable"):
        run(corpus, scored, tmp_path / "e", "--workers", workers)
    (corpus / key).write_bytes(encoded(1234))
    with pytest.raises(UserError, match=rf"'{key}': its bytes .* are not those that were scored"):
        run(corpus, scored, tmp_path / "e", "--workers", workers)
    (corpus / key).write_bytes(data)
    run(corpus, scored, tmp_path / "e", "--workers", workers)
    assert Embeddings(tmp_path / "e").rows == kept.num_rows


@pytest.fixture
def reference(tmp_path) -> Path:
    root = tmp_path / "reference"
    for label in ("forest", "Port", "Ä field"):
        for i in range(6):
            path = root / label / "sub" / f"{i}.jpg" if i == 5 else root / label / f"{i}.jpg"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(encoded(i, "JPEG"))
    (root / "empty").mkdir()
    (root / "Port" / "cut.jpg").write_bytes(encoded(1, "JPEG")[:200])
    (root / "forest" / "notes.txt").write_text("not an image")
    (root / "stray.jpg").write_bytes(encoded(2, "JPEG"))
    return root


def test_reference_set_with_its_rejects(reference, tmp_path):
    out = tmp_path / "r"
    embed(["--reference", str(reference), "--out", str(out), "--workers", "1"])
    found = Embeddings(out)
    table = found.table()
    assert found.rows == 18
    assert table["key"].to_pylist() == sorted(table["key"].to_pylist())
    assert all(r["key"].split("/")[0] == r["label"] for r in table.to_pylist())
    assert sorted(set(table["label"].to_pylist())) == ["Port", "forest", "Ä field"]
    rejects = pa.parquet.read_table(out / "rejects.parquet").to_pylist()
    assert {r["key"]: r["reason"] for r in rejects} == {
        "stray.jpg": "no-class", "Port/cut.jpg": "corrupt", "forest/notes.txt": "not-an-image",
    }  # fmt: skip
    summary = read_manifest(out)["summary"]
    assert summary["rejected"] == 3 and summary["empty_classes"] == ["empty"]
    assert summary["classes"] == 3
    # The manifest gone and one part too: the other parts' rejects are still known.
    before = contents(out)
    (out / "manifest.json").unlink()
    (out / "part-00001.npy").unlink()
    embed(["--reference", str(reference), "--out", str(out), "--workers", "1"])
    assert contents(out) == before
    assert pa.parquet.read_table(out / "rejects.parquet").to_pylist() == rejects


@pytest.mark.parametrize("workers", ["1", "2"])
def test_reference_of_several_sets(reference, tmp_path, capsys, workers):
    images = [encoded(i, "JPEG") for i in (70, 71, 72)]
    table = pa.table({"image": pa.array(images), "label": ["port", "river", "port"]})
    pa.parquet.write_table(table, tmp_path / "whu.parquet")
    out = tmp_path / "r"
    places = [f"ucm:{reference}", f"whurs19:{tmp_path / 'whu.parquet'}"]
    embed(["--reference", *places, "--out", str(out), "--workers", workers, "--batch", "4"])
    found = Embeddings(out)
    assert found.rows == 21
    labels = dict(zip(*(found.table()[n].to_pylist() for n in ("key", "label")), strict=True))
    assert labels["ucm/Port/0.jpg"] == "ucm/Port" and labels["whurs19/whu.parquet#1"] == (
        "whurs19/river"
    )
    pixels = [np.asarray(Image.open(io.BytesIO(data)).convert("RGB")) for data in images]
    np.testing.assert_allclose(found.matrix()[-3:], describe(pixels), atol=1e-3)
    summary = read_manifest(out)["summary"]
    assert [entry["set"] for entry in summary["sets"]] == ["ucm", "whurs19"]
    assert any("ucm: 3 classes, 21 are published" in note for note in summary["notes"])
    assert "3 classes, 21 are published" in capsys.readouterr().err
    assert embed(["--reference", ",".join(places), "--out", str(out), "--workers", "1"]) == 0
    assert "already done" in capsys.readouterr().out


def test_reference_sets_that_are_none(reference, tmp_path):
    def attempt(root: Path) -> None:
        embed(["--reference", str(root), "--out", str(tmp_path / "x"), "--workers", "1"])

    with pytest.raises(UserError, match="no such folder"):
        attempt(tmp_path / "nowhere")
    with pytest.raises(UserError, match="no class folders"):
        attempt(reference / "Ä field" / "sub")
    for name in ("a", "b"):
        (tmp_path / "hollow" / name).mkdir(parents=True)
    with pytest.raises(UserError, match="2 class folders, but no file"):
        attempt(tmp_path / "hollow")
    (tmp_path / "hollow" / "a" / "x.jpg").write_bytes(b"")
    with pytest.raises(UserError, match=r"none of its 1 files .*a/x\.jpg \(empty\)"):
        attempt(tmp_path / "hollow")


@pytest.mark.parametrize(
    "flags,message",
    [
        ([], "either --corpus"),
        (["--corpus", ".", "--reference", "."], "either --corpus"),
        (["--corpus", "."], "--corpus needs --scores"),
        (["--reference", ".", "--scores", "."], "belong to --corpus"),
        (["--reference", ".", "--batch", "0"], "--batch 0: .*greater than or equal to 1"),
        (["--reference", ".", "--encoder", "vgg"], "unknown; known are descriptor"),
    ],
)
def test_flags_that_do_not_go_together(flags, message, tmp_path):
    with pytest.raises(UserError, match=message):
        embed(["--out", str(tmp_path / "x"), *flags])


def test_a_sample_is_some_of_what_stage1_keeps(corpus, scored, tmp_path):
    flags = ["--corpus", str(corpus), "--scores", str(scored[0]), "--keep", "1", "--workers", "1"]
    embed([*flags, "--sample", "9", "--out", str(tmp_path / "some")])
    everything = pool(read_parts(scored[0]))["key"].to_pylist()
    wanted = {everything[place] for place in draw(everything, 9, 0)}
    assert set(Embeddings(tmp_path / "some").table()["key"].to_pylist()) == wanted
    run(corpus, scored, tmp_path / "e")
    assert "sample" not in read_manifest(tmp_path / "e")["params"]


@pytest.mark.parametrize("keep,message", [("2", "equal to 1"), ("0.001", "keeps none")])
def test_a_bad_share_does_not_begin_an_output(corpus, scored, tmp_path, keep, message):
    with pytest.raises(UserError, match=message):
        run(corpus, scored, tmp_path / "e", "--keep", keep)
    run(corpus, scored, tmp_path / "e")
    assert Embeddings(tmp_path / "e").rows == (IMAGES - 7) // 2


def test_out_among_the_images(reference):
    with pytest.raises(UserError, match="lies inside"):
        embed(["--reference", str(reference), "--out", str(reference / "out")])


def test_reader_refuses_rows_that_are_not_unit_and_parts_that_are_missing(corpus, scored, tmp_path):
    out = tmp_path / "e"
    run(corpus, scored, out)
    found = Embeddings(out)
    array, table = list(found.parts())[1]
    rows = np.array(array, np.float32)
    for bad in (rows * 1.02, np.where(np.arange(8)[:, None] == 3, np.nan, rows)):
        write_embeddings(out, 1, bad, table)
        with pytest.raises(UserError, match=r"part-00001\.npy: row \d has norm"):
            found.matrix()
    write_embeddings(out, 1, rows[:5], table.slice(0, 5))
    with pytest.raises(UserError, match="23 rows in its parts, its manifest says 26"):
        found.matrix()
    np.save(out / "part-00001.npy", rows)
    with pytest.raises(UserError, match="expected float16"):
        found.matrix()
    (out / "part-00003.parquet").unlink()
    with pytest.raises(UserError, match="3 parts, its manifest says 4"):
        Embeddings(out)
    with pytest.raises(UserError, match=r"made by prune\.score"):
        Embeddings(scored[0])


def test_encoders_are_not_mixed(capsys):
    one = {"name": "a", "dim": 3, "weights": "x", "preprocessing": "p", "libraries": {"torch": "1"}}
    require_same_encoder(one, dict(one))
    assert capsys.readouterr().err == ""
    for key, value in (("name", "b"), ("weights", "y"), ("preprocessing", "q"), ("dim", 4)):
        with pytest.raises(UserError, match=f"{key}: "):
            require_same_encoder(one, {**one, key: value})
    require_same_encoder(one, {**one, "libraries": {"torch": "2"}})
    assert "other library versions" in capsys.readouterr().err


def test_knn_against_a_plain_loop_and_ties():
    rng = np.random.default_rng(0)
    features = rng.normal(size=(90, 6)).astype(np.float32)
    features /= np.linalg.norm(features, axis=1, keepdims=True)
    labels = rng.integers(0, 4, 90)
    predicted = knn_predict(features, labels, k=5, block=32)
    for i in range(90):
        cosine = features @ features[i]
        cosine[i] = -2
        nearest = np.argsort(-cosine)[:5]
        votes = np.bincount(labels[nearest], minlength=4)
        sums = np.bincount(labels[nearest], cosine[nearest], minlength=4)
        best = max(range(4), key=lambda c: (votes[c], sums[c]))
        assert predicted[i] == best


def test_accuracy_command(reference, tmp_path, capsys):
    for i, label in enumerate(("red", "blue")):
        for seed in range(6):
            pixels = np.random.default_rng(seed).integers(0, 90, (24, 24, 3), dtype=np.uint8)
            pixels[..., 2 * i] += 150
            path = tmp_path / "two" / label / f"{seed}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(path)
    accuracy(["--images", str(tmp_path / "two"), "--workers", "1"])
    assert "leave-one-out 5-NN accuracy 100.00 % (12 images, 2 classes" in capsys.readouterr().out
    with pytest.raises(UserError, match="--k 12"):
        accuracy(["--images", str(tmp_path / "two"), "--workers", "1", "--k", "12"])
    with pytest.raises(UserError, match="either --images"):
        accuracy([])
