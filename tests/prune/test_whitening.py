"""--whiten: the projection, and the commands that make and use it, against naive computations."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from core.errors import UserError
from core.stage import read_manifest
from data.formats.tables import read_parts
from prune import assign as assign_command
from prune import centroids as centroids_command
from prune.cluster.centroids import read_centroids, read_whitening_of
from prune.cluster.cosine import Nearest
from prune.cluster.features import unit_rows
from prune.cluster.whitening import MATRIX, MEAN, Whitening, fit_whitening
from tests.prune.files import make_embeddings
from tests.prune.test_kmeans import clustered

DIM, K, D = 16, 5, 6
TRIALS = 3  # 2 + ln K
FILES = {"centroids.npy", MEAN, MATRIX}


def crowded(count: int, seed: int) -> np.ndarray:
    """Unit rows with a large common part and variances that fall from direction to direction."""
    random = np.random.default_rng(seed)
    turn = np.linalg.qr(np.random.default_rng(99).standard_normal((DIM, DIM)))[0]
    spread = 0.2 * 0.8 ** np.arange(DIM)
    rows = turn[0] * 1.5 + (random.standard_normal((count, DIM)) * spread) @ turn
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


@pytest.fixture
def reference(tmp_path) -> Path:
    return make_embeddings(tmp_path / "reference", crowded(120, 1))


@pytest.fixture
def pool(tmp_path) -> Path:
    return make_embeddings(tmp_path / "pool", crowded(150, 2), entropy=True)


def stored(folder: Path) -> np.ndarray:
    rows = np.concatenate([np.load(p) for p in sorted(folder.glob("*.npy"))]).astype(np.float64)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def cluster(reference: Path, out: Path, whiten: int | None = D) -> Path:
    arguments = ["--embeddings", str(reference), "--out", str(out), "--clusters", str(K)]
    assert centroids_command.main(arguments + ([f"--whiten={whiten}"] if whiten else [])) == 0
    return out


def assign(pool: Path, centroids: Path, out: Path, *flags: str) -> Path:
    arguments = ["--embeddings", str(pool), "--centroids", str(centroids), "--out", str(out)]
    assert assign_command.main([*arguments, *flags]) == 0
    return out


def naive(reference: np.ndarray, rows: np.ndarray, dims: int) -> np.ndarray:
    """Whitening by a singular value decomposition, in float64."""
    mean = reference.mean(axis=0)
    _, s, vt = np.linalg.svd(reference - mean, full_matrices=False)
    for v in vt:
        v *= np.sign(v[np.abs(v).argmax()])
    return (rows - mean) @ vt[:dims].T / (s[:dims] / np.sqrt(len(reference)))


def test_the_reference_becomes_white():
    rows = unit_rows(crowded(5000, 3))  # more than one chunk
    whitening = fit_whitening(rows, D)
    white = whitening(rows).astype(np.float64)
    np.testing.assert_allclose(white.mean(axis=0), 0, atol=1e-4)
    np.testing.assert_allclose(white.T @ white / len(white), np.eye(D), atol=1e-3)
    largest = whitening.matrix[np.abs(whitening.matrix).argmax(axis=0), np.arange(D)]
    assert (largest > 0).all()
    np.testing.assert_allclose(white, naive(rows.astype(np.float64), rows, D), atol=1e-3)


def test_commands_equal_a_naive_computation(reference, pool, tmp_path):
    centroids = cluster(reference, tmp_path / "centroids")
    assert read_manifest(centroids)["files"].keys() == FILES
    prototypes, _ = read_centroids(centroids)
    assert prototypes.shape == (K, D)
    known, images = stored(reference), stored(pool)
    found = clustered(naive(known, known, D), K, trials=TRIALS)
    np.testing.assert_allclose(prototypes, found.centroids, atol=1e-4)

    table = read_parts(assign(pool, centroids, tmp_path / "assigned"))
    white = naive(known, images, D)
    white /= np.linalg.norm(white, axis=1, keepdims=True)
    scores = white @ found.centroids.T.astype(np.float64)
    assert table.column("cluster").to_pylist() == scores.argmax(axis=1).tolist()
    np.testing.assert_allclose(table.column("similarity"), scores.max(axis=1), atol=1e-4)
    assert read_manifest(tmp_path / "assigned")["summary"]["rows"] == 150
    raw = images @ read_centroids(cluster(reference, tmp_path / "raw", None))[0].T
    assert np.std(raw.max(axis=1)) < 0.1 * np.std(scores.max(axis=1))  # what it is for


def test_without_whitening_nothing_changes(reference, pool, tmp_path, monkeypatch):
    monkeypatch.setattr("prune.cluster.centroids.fit_whitening", lambda *_: pytest.fail("fitted"))
    centroids = cluster(reference, tmp_path / "centroids", None)
    assert read_whitening_of(centroids) is None
    assert read_manifest(centroids)["files"].keys() == {"centroids.npy"}
    rows = np.concatenate([np.load(p) for p in sorted(reference.glob("*.npy"))])
    expected = clustered(rows.astype(np.float32), K, trials=TRIALS)
    assert np.array_equal(read_centroids(centroids)[0], expected.centroids)
    table = read_parts(assign(pool, centroids, tmp_path / "assigned"))
    cosines = stored(pool) @ expected.centroids.astype(np.float64).T
    assert table.column("cluster").to_pylist() == cosines.argmax(axis=1).tolist()


def test_a_stopped_run_ends_with_the_same_bytes(reference, pool, tmp_path, monkeypatch):
    whole = cluster(reference, tmp_path / "whole")
    with monkeypatch.context() as patch:
        patch.setattr("prune.cluster.centroids.spherical_kmeans", lambda *_, **__: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            cluster(reference, tmp_path / "cut")
    assert (tmp_path / "cut" / MATRIX).exists()
    with pytest.raises(UserError, match="whiten: 6 there, 5 now"):
        cluster(reference, tmp_path / "cut", D - 1)
    cluster(reference, tmp_path / "cut")
    for name in FILES:
        assert (tmp_path / "cut" / name).read_bytes() == (whole / name).read_bytes()
    assert read_manifest(tmp_path / "cut")["fingerprint"] == read_manifest(whole)["fingerprint"]

    one = assign(pool, whole, tmp_path / "one")
    calls = []
    call = Nearest.__call__
    with monkeypatch.context() as patch:
        patch.setattr(
            Nearest, "__call__", lambda *a: calls.append(0) or call(*a) if len(calls) < 2 else 1 / 0
        )
        with pytest.raises(ZeroDivisionError):
            assign(pool, whole, tmp_path / "two")
    assign(pool, whole, tmp_path / "two")
    parts = sorted(p.name for p in one.glob("part-*"))
    assert len(parts) == 4
    assert all((one / p).read_bytes() == (tmp_path / "two" / p).read_bytes() for p in parts)


def test_little_memory_gives_the_same_assignment(reference, pool, tmp_path):
    folder = cluster(reference, tmp_path / "centroids")
    centroids, whitening = read_centroids(folder)[0], read_whitening_of(folder)
    half = np.load(pool / "part-00000.npy")
    before = half.copy()
    most, least = Nearest(centroids, 1 << 20, whitening), Nearest(centroids, 1024, whitening)
    for a, b in zip(most(half), least(half), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)
    assert np.array_equal(half, before)
    with pytest.raises(UserError, match="need at least"):
        Nearest(centroids, 600, whitening)


def test_the_mean_itself_is_similar_to_nothing():
    whitening = Whitening(np.array([1, 0], np.float32), np.eye(2, dtype=np.float32))
    clusters, similarities, bad = Nearest(np.eye(2, dtype=np.float32), whitening=whitening)(
        np.array([[1, 0], [0, 1]], np.float16)
    )
    assert bad == -1 and clusters.tolist() == [0, 1]
    np.testing.assert_allclose(similarities, [0, 0.5**0.5], atol=1e-6)


@pytest.mark.parametrize("value", [0.0, np.nan])
def test_embeddings_without_direction_are_still_refused(reference, tmp_path, value):
    folder = cluster(reference, tmp_path / "centroids")
    half = np.load(reference / "part-00000.npy")
    half[7] = value
    nearest = Nearest(read_centroids(folder)[0], whitening=read_whitening_of(folder))
    assert nearest(half)[2] == 7


def test_errors(reference, pool, tmp_path):
    for whiten, message in ((17, "at most 16 directions"), (-1, "--whiten -1")):
        with pytest.raises(UserError, match=message):
            cluster(reference, tmp_path / "c", whiten)
    with pytest.raises(UserError, match="10 embeddings of 16 numbers vary in at most 9"):
        fit_whitening(unit_rows(crowded(10, 0)), 10)
    assert fit_whitening(unit_rows(crowded(10, 0)), 9).dims == 9
    twice = unit_rows(np.repeat(crowded(4, 0), 5, axis=0))
    with pytest.raises(UserError, match="vary in 3 directions only"):
        fit_whitening(twice, 5)

    folder = cluster(reference, tmp_path / "d")
    whole = (folder / MATRIX).read_bytes()
    (folder / MATRIX).write_bytes(whole[:-4])
    with pytest.raises(UserError, match=r"whitening_matrix\.npy: unreadable"):
        assign(pool, folder, tmp_path / "a")
    (folder / MATRIX).unlink()
    with pytest.raises(UserError, match="make the centroids again"):
        read_whitening_of(folder)
    cluster(reference, folder)  # notices that a file is gone
    assert (folder / MATRIX).read_bytes() == whole
    manifest = json.loads((folder / "manifest.json").read_text())
    assert manifest["summary"]["dim"] == D and manifest["params"]["whiten"] == D
