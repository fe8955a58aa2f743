"""prune.centroids and prune.assign: files in, files out."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from core.errors import UserError
from core.stage import read_manifest
from data.formats.embeddings import upcast
from data.formats.tables import read_parts
from prune import assign as assign_command
from prune import centroids as centroids_command
from prune.cluster.centroids import read_centroids
from prune.cluster.cosine import Nearest
from tests.prune.files import make_embeddings, places

DIM, K = 16, 5


def unit(matrix: np.ndarray) -> np.ndarray:
    return matrix / np.linalg.norm(matrix, axis=1, keepdims=True)


@pytest.fixture
def reference(tmp_path) -> Path:
    random = np.random.default_rng(1)
    centers = np.linalg.qr(random.standard_normal((DIM, DIM)))[0][:K]
    points = np.repeat(centers, 20, axis=0) + 0.05 * random.standard_normal((20 * K, DIM))
    return make_embeddings(tmp_path / "reference", unit(points))


@pytest.fixture
def pool(tmp_path) -> Path:
    matrix = unit(np.random.default_rng(2).standard_normal((150, DIM)))
    return make_embeddings(tmp_path / "pool", matrix, entropy=True)


def cluster(reference: Path, out: Path, *flags: str) -> Path:
    arguments = ["--embeddings", str(reference), "--out", str(out), "--clusters", str(K), *flags]
    assert centroids_command.main(arguments) == 0
    return out


def assign(pool: Path, centroids: Path, out: Path, *flags: str) -> Path:
    arguments = ["--embeddings", str(pool), "--centroids", str(centroids), "--out", str(out)]
    assert assign_command.main([*arguments, *flags]) == 0
    return out


def contents(folder: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in folder.iterdir() if p.name.startswith("part-")}


def test_centroids(reference, tmp_path):
    out = cluster(reference, tmp_path / "centroids")
    centroids, encoder = read_centroids(out)
    assert centroids.shape == (K, DIM) and centroids.dtype == np.float32
    assert encoder == {"name": "fake"}
    np.testing.assert_allclose(np.linalg.norm(centroids, axis=1), 1, atol=1e-6)
    summary = read_manifest(out)["summary"]
    assert summary["sizes"] == [20] * K  # the planted clusters
    assert summary["converged"] and summary["objective"] == min(summary["objectives"])
    again = cluster(reference, tmp_path / "again")
    assert (again / "centroids.npy").read_bytes() == (out / "centroids.npy").read_bytes()
    assert read_manifest(again)["fingerprint"] == read_manifest(out)["fingerprint"]


def test_centroids_errors(reference, tmp_path, pool):
    with pytest.raises(UserError, match="there are 100 embeddings"):
        centroids_command.main(
            ["--embeddings", str(reference), "--out", str(tmp_path / "c"), "--clusters", "101"]
        )
    matrix = unit(np.ones((50, DIM)))
    matrix[41] = 0
    broken = make_embeddings(tmp_path / "broken", matrix)
    with pytest.raises(UserError, match=r"part-00001\.npy: row 1 has norm 0"):
        cluster(broken, tmp_path / "d")
    with pytest.raises(UserError, match="not a finished stage"):
        read_centroids(tmp_path / "d")
    with pytest.raises(UserError, match=r"made by prune\.embed"):
        read_centroids(pool)


def test_assignment_is_the_nearest_centroid(reference, pool, tmp_path):
    centroids = cluster(reference, tmp_path / "centroids")
    out = assign(pool, centroids, tmp_path / "assigned")
    table = read_parts(out)
    matrix = np.concatenate([np.load(p) for p in sorted(pool.glob("*.npy"))]).astype(np.float64)
    scores = unit(matrix) @ read_centroids(centroids)[0].astype(np.float64).T
    assert table.column("cluster").to_pylist() == scores.argmax(axis=1).tolist()
    np.testing.assert_allclose(table.column("similarity"), scores.max(axis=1), atol=1e-6)
    for name, values in places(150).items():
        assert table.column(name).to_pylist() == values
    assert table.column("entropy").to_pylist() == [i / 150 for i in range(150)]
    summary = read_manifest(out)["summary"]
    assert summary["clusters"] == K and summary["rows"] == 150
    assert summary["sizes"] == np.bincount(scores.argmax(axis=1), minlength=K).tolist()


def test_similarity_does_not_depend_on_length():
    # Eq. 4 with the raw embedding would rank the longer of two parallel embeddings first.
    direction = np.array([[3.0, 4.0]])
    half = np.concatenate([direction, direction / 8, direction / 2048]).astype(np.float16)
    _, similarities, bad = Nearest(np.eye(2, dtype=np.float32))(half)
    assert bad == -1
    np.testing.assert_allclose(similarities, 0.8, atol=1e-6)


def test_a_finished_stage_answers_without_heavy_imports(tmp_path):
    random = np.random.default_rng(0)
    for i in range(8):
        path = tmp_path / "set" / f"class{i % 2}" / f"{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(random.integers(0, 256, (20, 20, 3), dtype=np.uint8)).save(path)
    at = {name: str(tmp_path / name) for name in ("set", "scores", "ref", "pool", "k", "a", "tree")}
    lines = [
        ("score", "--corpus", at["set"], "--out", at["scores"], "--workers", "1"),
        ("embed", "--reference", at["set"], "--out", at["ref"], "--workers", "1"),
        ("embed", "--corpus", at["set"], "--scores", at["scores"], "--out", at["pool"],
         "--keep", "1", "--workers", "1"),
        ("centroids", "--embeddings", at["ref"], "--out", at["k"], "--clusters", "2"),
        ("assign", "--embeddings", at["pool"], "--centroids", at["k"], "--out", at["a"]),
        ("hierarchy", "--embeddings", at["pool"], "--out", at["tree"], "--levels", "4", "2"),
    ]  # fmt: skip
    code = (
        "import importlib, json, sys\n"
        "for name, *flags in json.loads(sys.argv[1]):\n"
        "    assert importlib.import_module(f'prune.{name}').main(flags) == 0\n"
        "heavy = {'torch', 'diffusers', 'matplotlib', 'PIL', 'pyarrow', 'scipy'}\n"
        "print('heavy:', sorted(heavy & set(sys.modules)))\n"
    )
    root = Path(__file__).parents[2]
    for _ in range(2):
        done = subprocess.run(
            [sys.executable, "-c", code, json.dumps(lines)],
            cwd=root, check=True, capture_output=True, text=True,
        )  # fmt: skip
    assert done.stdout.count("already done") == len(lines)
    assert done.stdout.splitlines()[-1] == "heavy: []"


def test_ties_go_to_the_lower_cluster():
    half = np.array([[1, 0], [0, 1]], np.float16)
    clusters, _, _ = Nearest(np.array([[0, 1], [1, 0], [0, 1], [1, 0]], np.float32))(half)
    assert clusters.tolist() == [1, 0]


def test_widen_is_exact_for_every_finite_number():
    half = np.arange(65536, dtype=np.uint16).view(np.float16)
    out = np.empty(65536, np.float32)
    upcast(half, out)
    with np.errstate(invalid="ignore"):
        cast = half.astype(np.float32)
    finite = np.isfinite(cast)
    assert (out[finite].view(np.uint32) == cast[finite].view(np.uint32)).all()
    assert (np.abs(out[~finite]) >= 65536).all()


@pytest.mark.parametrize("value", [0.0, np.inf, -np.inf, np.nan])
def test_embeddings_without_direction_are_refused(reference, tmp_path, value, monkeypatch):
    matrix = unit(np.random.default_rng(0).standard_normal((90, DIM)))
    matrix[55] = value
    pool = make_embeddings(tmp_path / "pool", matrix)
    centroids = cluster(reference, tmp_path / "centroids")
    with pytest.raises(UserError, match=r"part-00001\.npy: row 15"):
        assign(pool, centroids, tmp_path / "assigned")
    # The assignment's own check names the image.
    monkeypatch.setattr("prune.cluster.assign.check_norms", lambda *_: None)
    with pytest.raises(UserError, match=f"'{places(90)['key'][55]}'.*zero or not finite"):
        assign(pool, centroids, tmp_path / "assigned")
    assert not (tmp_path / "assigned" / "manifest.json").exists()


def test_other_encoders_are_refused(reference, tmp_path):
    matrix = unit(np.random.default_rng(0).standard_normal((10, DIM)))
    pool = make_embeddings(tmp_path / "pool", matrix, encoder={"name": "fake", "layer": 2})
    centroids = cluster(reference, tmp_path / "centroids")
    with pytest.raises(UserError, match=r"centroids does not fit .*\n  layer: 2 and None"):
        assign(pool, centroids, tmp_path / "assigned")


def test_a_killed_run_continues_to_the_same_bytes(reference, pool, tmp_path, monkeypatch):
    centroids = cluster(reference, tmp_path / "centroids")
    whole = assign(pool, centroids, tmp_path / "whole")
    calls = []
    real = Nearest.__call__

    class Killed(BaseException):
        pass

    def dies_in_the_third_part(self, part):
        calls.append(len(part))
        if len(calls) == 3:
            raise Killed
        return real(self, part)

    monkeypatch.setattr(Nearest, "__call__", dies_in_the_third_part)
    with pytest.raises(Killed):
        assign(pool, centroids, tmp_path / "cut")
    assert len(contents(tmp_path / "cut")) == 2
    (tmp_path / "cut" / "part-00001.parquet").write_bytes(b"PAR1 damaged")  # as by a full disk
    assign(pool, centroids, tmp_path / "cut")
    assert len(calls) == 3 + 3  # the damaged second part, and the two that were missing
    assert contents(tmp_path / "cut") == contents(whole)
    names = ("fingerprint", "summary")
    manifests = [json.loads((d / "manifest.json").read_text()) for d in (tmp_path / "cut", whole)]
    assert [manifests[0][n] for n in names] == [manifests[1][n] for n in names]
    assign(pool, centroids, tmp_path / "cut")  # already done
    assert len(calls) == 6


def test_parts_of_another_corpus_are_not_taken_for_finished(reference, pool, tmp_path):
    centroids = cluster(reference, tmp_path / "centroids")
    whole = assign(pool, centroids, tmp_path / "whole")
    cut = tmp_path / "cut"
    cut.mkdir()
    table = pq.read_table(whole / "part-00001.parquet")
    pq.write_table(table, cut / "part-00000.parquet")
    assign(pool, centroids, cut)
    assert contents(cut) == contents(whole)


def test_little_memory_gives_the_same_assignment(reference, pool, tmp_path):
    centroids, _ = read_centroids(cluster(reference, tmp_path / "centroids"))
    half = np.load(pool / "part-00000.npy")
    most, least = Nearest(centroids), Nearest(centroids, 1024)
    for a, b in zip(most(half), least(half), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-6)
    with pytest.raises(UserError, match="need at least"):
        Nearest(centroids, 64)


def test_processes_share_the_parts(reference, pool, tmp_path, monkeypatch):
    centroids = cluster(reference, tmp_path / "centroids")
    one = assign(pool, centroids, tmp_path / "one", "--workers", "1")
    monkeypatch.setattr("prune.cluster.assign.TASK", 1)  # four tasks for four parts
    two = assign(pool, centroids, tmp_path / "two", "--workers", "2")
    assert len(contents(two)) == 4 and contents(two) == contents(one)
    assert read_manifest(two)["fingerprint"] == read_manifest(one)["fingerprint"]
    assert read_manifest(two)["summary"] == read_manifest(one)["summary"]


def test_a_row_too_many_is_noticed(reference, pool, tmp_path):
    centroids = cluster(reference, tmp_path / "centroids")
    manifest = json.loads((pool / "manifest.json").read_text())
    manifest["summary"]["rows"] += 1
    (pool / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(UserError, match="150 rows in its parts, its manifest says 151"):
        assign(pool, centroids, tmp_path / "assigned")
    assert not (tmp_path / "assigned" / "manifest.json").exists()


def test_a_row_of_another_length_is_refused(reference, tmp_path):
    matrix = unit(np.random.default_rng(0).standard_normal((90, DIM)))
    matrix[55] *= 1.02
    pool = make_embeddings(tmp_path / "pool", matrix)
    centroids = cluster(reference, tmp_path / "centroids")
    with pytest.raises(UserError, match=r"part-00001\.npy: row 15 has norm 1\.02, expected 1"):
        assign(pool, centroids, tmp_path / "assigned")
