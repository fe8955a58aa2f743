"""Reading embeddings out of order, and clustering them without holding them."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from core.errors import UserError
from prune import assign as assign_command
from prune import centroids as centroids_command
from prune.cluster import kmeans
from prune.cluster.centroids import origin, read_centroids, read_whitening_of
from prune.cluster.cosine import nearest_of
from prune.cluster.features import Features, Held, Source, unit_rows
from prune.cluster.kmeans import Clustering, sample_size, spherical_kmeans
from tests.prune.files import make_embeddings, places


def cluster_pool(source: Source, clusters: int, **more: int) -> Clustering:
    return spherical_kmeans(source, clusters, sample=sample_size(clusters), **more)


def directions(count: int, dim: int, seed: int = 0) -> np.ndarray:
    points = np.random.default_rng(seed).normal(size=(count, dim))
    return points / np.linalg.norm(points, axis=1, keepdims=True)


def blobs(each: int, dim: int = 8, noise: float = 0.1) -> tuple[np.ndarray, np.ndarray]:
    """`each` points about each of the first five axes, shuffled, and their axes."""
    random = np.random.default_rng(1)
    labels = random.permutation(np.repeat(np.arange(5), each))
    points = np.eye(dim)[labels] + noise * random.normal(size=(len(labels), dim))
    return points / np.linalg.norm(points, axis=1, keepdims=True), labels


def test_rows_come_as_asked(tmp_path, monkeypatch):
    monkeypatch.setattr("prune.cluster.features.OPEN", 2)  # fewer than the parts
    matrix = directions(130, 6)
    folder = make_embeddings(tmp_path / "e", matrix, part=25)
    table = pa.table(places(130))
    some = np.array([129, 0, 64, 3, 64, 99])
    found = Features(folder, table.take(pa.array(some)))
    assert (found.rows, found.dim) == (6, 6)
    assert np.array_equal(found.stored(np.arange(6)), matrix.astype(np.float16)[some])
    assert np.allclose(found.take(np.array([5, 0])), matrix[[99, 129]], atol=1e-3)
    assert np.allclose(np.linalg.norm(found.take(np.arange(6)), axis=1), 1, atol=1e-6)
    part = found.subset(np.array([2, 3]))
    assert np.array_equal(part.stored(np.arange(2)), matrix.astype(np.float16)[[64, 3]])
    rows = np.concatenate([r for r, _ in Features(folder).blocks(40)])
    assert rows.tolist() == list(range(130))
    sample = Features(folder).sample(10, 3)
    assert np.array_equal(sample, Features(folder).sample(10, 3)) and len(sample) == 10


def test_images_without_an_embedding_are_named(tmp_path):
    folder = make_embeddings(tmp_path / "e", directions(50, 4))
    table = pa.table(places(60))
    with pytest.raises(UserError, match=r"10 of the 60 images of the pool .*--keep 1"):
        Features(folder, table.append_column("x", pa.nulls(60)).set_column(
            0, "key", pa.array([*places(50)["key"], *(f"new{i}" for i in range(10))])
        ))  # fmt: skip
    moved = pa.table({**places(50), "row": [7] * 50})
    with pytest.raises(UserError, match="another listing"):
        Features(folder, moved)


def test_a_streamed_clustering_finds_the_blobs_and_repeats_itself(tmp_path):
    points, labels = blobs(60)
    features = Features(make_embeddings(tmp_path / "e", points, part=37))
    found = cluster_pool(features, 5, seed=0)
    assert found.converged and found.sizes.tolist() == [60] * 5
    again, cosines = nearest_of(features, found.centroids)
    assert np.array_equal(again, found.labels) and np.array_equal(cosines, found.similarities)
    assert all(len(set(again[labels == k])) == 1 for k in range(5))
    same = cluster_pool(features, 5, seed=0)
    assert same.centroids.tobytes() == found.centroids.tobytes()
    # Each centroid is the direction of the sum of its members.
    sums = np.stack([points[again == k].sum(axis=0) for k in range(5)])
    assert np.allclose(found.centroids, unit_rows(sums), atol=1e-3)
    assert found.objective == pytest.approx(
        1 - float((points * found.centroids[again]).sum(axis=1).mean()), abs=1e-3
    )


def test_rows_from_disk_cluster_as_rows_in_memory(tmp_path, monkeypatch):
    """The same start, and blocks read in the same order: the same bytes."""
    monkeypatch.setattr(kmeans, "CHUNK", 16)
    points = directions(130, 12)
    features = Features(make_embeddings(tmp_path / "e", points, part=37))
    held = Held(features.take(np.arange(130)))
    one, other = spherical_kmeans(held, 9, seed=3), cluster_pool(features, 9, seed=3)
    assert one.centroids.tobytes() == other.centroids.tobytes()
    assert np.array_equal(one.labels, other.labels) and one.iterations == other.iterations > 1
    assert one.objective == pytest.approx(other.objective, rel=1e-12)


def test_empty_clusters_are_refilled(monkeypatch):
    points, _ = blobs(40, noise=0.02)
    units = unit_rows(points)
    # A start from five points of one blob: four centroids would hardly move elsewhere.
    monkeypatch.setattr(
        kmeans, "plus_plus", lambda sample, clusters, random, trials: np.array([0, 0, 0, 0, 0])
    )
    found = cluster_pool(Held(units), 5, iterations=30)
    assert (found.sizes > 0).all() and found.sizes.sum() == 200
    assert found.objective < 0.01


def test_impossible_numbers_of_clusters(tmp_path):
    same = Held(unit_rows(np.ones((10, 3))))
    with pytest.raises(UserError, match="only 1 distinct points"):
        cluster_pool(same, 2)
    with pytest.raises(UserError, match="there are 10 embeddings"):
        cluster_pool(same, 11)


def run_centroids(*flags: object) -> int | None:
    return centroids_command.main([str(flag) for flag in flags])


def test_centroids_of_a_union(tmp_path):
    points, _ = blobs(30)
    one = make_embeddings(tmp_path / "one", points[:70])
    two = make_embeddings(tmp_path / "two", points[70:])
    whole = make_embeddings(tmp_path / "whole", points)
    for out, sets in (("union", [one, two]), ("all", [whole])):
        run_centroids("--embeddings", *sets, "--clusters", 5, "--out", tmp_path / out)
    union, encoder = read_centroids(tmp_path / "union")
    assert np.array_equal(union, read_centroids(tmp_path / "all")[0])
    assert encoder == {"name": "fake"}
    assert origin(tmp_path / "union")["embeddings"].count("+") == 1
    other = make_embeddings(tmp_path / "other", points[:9], encoder={"name": "another"})
    with pytest.raises(UserError, match="different encoders"):
        run_centroids("--embeddings", one, other, "--clusters", 2, "--out", tmp_path / "x")
    with pytest.raises(UserError, match="given twice"):
        run_centroids("--embeddings", one, one, "--clusters", 2, "--out", tmp_path / "x")


def test_reduced_prototypes_are_a_pca_and_their_origin_is_told(tmp_path):
    points, labels = blobs(40, dim=12)
    pool = make_embeddings(tmp_path / "pool", points)
    for name, flags in (("held", ()), ("streamed", ("--streaming",))):
        out = tmp_path / name
        run_centroids("--embeddings", pool, "--clusters", 5, "--reduce", 4, *flags, "--out", out)
        centroids, _ = read_centroids(out)
        assert centroids.shape == (5, 4)
        projection = read_whitening_of(out)
        assert projection is not None
        assert np.allclose(projection.matrix.T @ projection.matrix, np.eye(4), atol=1e-5)
        assigned = tmp_path / f"{name}-assigned"
        assign_command.main(
            ["--embeddings", str(pool), "--centroids", str(out), "--out", str(assigned)]
        )
        from core.stage import fingerprint, read_manifest
        from data.formats.tables import read_parts

        cluster = read_parts(assigned).column("cluster").to_numpy()
        assert all(len(set(cluster[labels == k])) == 1 for k in range(5))
        assert read_manifest(assigned)["summary"]["centroids"] == {
            "embeddings": fingerprint(pool), "reduce": 4,
        }  # fmt: skip


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--reduce", 4, "--whiten", 4), "give one of them"),
        (("--reduce", -1), "--reduce -1"),
        (("--reduce", 99), "--reduce 99"),
    ],
)
def test_bad_flags_of_centroids(tmp_path, flags, message):
    pool = make_embeddings(tmp_path / "pool", directions(30, 6))
    with pytest.raises(UserError, match=message):
        run_centroids("--embeddings", pool, "--clusters", 3, *flags, "--out", tmp_path / "x")
