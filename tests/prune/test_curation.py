"""DINOv2-style curation and hierarchical k-means on corpora whose right subset is known."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from core.errors import UserError
from core.stage import read_manifest
from data.formats.index import read_index, write_index
from data.formats.tables import read_parts
from prune.cluster import hierarchy
from prune.cluster.features import Held, unit_rows
from prune.cluster.neighbours import best_cosine, components, copies, retrieved
from prune.hierarchy import main
from prune.index import main as index
from prune.methods.hierarchical import descend, divide
from prune.select import main as select
from tests.prune.files import make_embeddings
from tests.prune.test_baselines import Corpus, on_a_circle


def test_copies_are_the_nearest_above_the_threshold():
    units = unit_rows(on_a_circle([0, 1, 2, 40, 41, 90]))
    near = float(np.cos(np.radians(1.5)))
    one, other = copies(Held(units), near)
    assert set(zip(one.tolist(), other.tolist(), strict=True)) == {
        (0, 1), (1, 0), (1, 2), (2, 1), (3, 4), (4, 3),
    }  # fmt: skip
    group = components((one, other), 6)  # 0 and 2 join through 1
    assert len(set(group[:3])) == 1 and len(set(group)) == 3
    wide = copies(Held(units), float(np.cos(np.radians(50))), k=1)
    assert sorted(wide[0].tolist()) == [0, 1, 2, 3, 4, 5]  # one neighbour each


def test_copies_in_cells_are_those_inside_them(monkeypatch):
    monkeypatch.setattr("prune.cluster.neighbours.CELL", 30)
    random = np.random.default_rng(0)
    centres = np.eye(6)[random.integers(0, 6, 150)]
    units = unit_rows(np.repeat(centres + 0.05 * random.normal(size=(150, 6)), 2, axis=0))
    whole = copies(Held(units), 0.99999)
    cut = copies(Held(units), 0.99999, exact=100)
    assert set(zip(*whole, strict=True)) == set(zip(*cut, strict=True)) and len(cut[0]) == 300


def test_retrieval_by_brute_force(monkeypatch):
    random = np.random.default_rng(1)
    units, queries = (unit_rows(random.normal(size=(n, 4))) for n in (70, 9))
    cosines = queries @ units.T
    for k in (1, 5, 70):
        expected = np.zeros(70, bool)
        expected[np.argsort(-cosines, axis=1)[:, :k]] = True
        assert np.array_equal(retrieved(Held(units), queries, k), expected)
    monkeypatch.setattr("prune.cluster.neighbours.SCORES", 4 * 4096 * 2)  # two queries at a time
    assert retrieved(Held(units), queries, 5).sum() == len(
        {int(i) for row in np.argsort(-cosines, axis=1)[:, :5] for i in row}
    )
    assert np.allclose(best_cosine(Held(units), queries), cosines.max(axis=0), atol=1e-6)


class Curated(Corpus):
    def __init__(self, root: Any, degrees: list[float], copied: dict[int, int] | None = None):
        super().__init__(root, on_a_circle(degrees), copied)
        self.degrees = degrees

    def set(self, name: str, degrees: Any, **more: Any) -> Any:
        return make_embeddings(self.root / name, on_a_circle(degrees), **more)

    def run(self, ratio: float, name: str, **more: Any) -> set[int]:
        rows = self.select("dinov2", ratio, name=name, embeddings=self.embeddings, **more)
        return set(rows)


def test_dinov2_drops_copies_and_retrieves_what_is_near(tmp_path):
    #          0  1  2   3   4   5   6    7    8    9
    degrees = [0, 0, 10, 10, 20, 60, 100, 110, 200, 300]
    corpus = Curated(tmp_path, degrees, {1: 0})  # 1 has the bytes of 0; 3 looks like 2
    reference = corpus.set("reference", [5, 105])
    near = str(float(np.cos(np.radians(3))))
    first = min(0, 1, key=lambda row: corpus.keys[row])
    one = min(2, 3, key=lambda row: corpus.keys[row])
    # The best four by similarity: 5 degrees from a reference image all of them.
    rows = corpus.run(0.6, "a", reference=reference, dedup_threshold=near)
    assert rows == {first, one, 6, 7}
    counts = corpus.metadata["counts"]
    assert (counts["exact_copies"], counts["near_copies"], counts["candidates"]) == (1, 1, 8)
    assert counts["k"] == 4 and counts["largest_component"] == 2
    assert set(corpus.table["chosen"].to_pylist()) == {"retrieved"}
    # All eight: k has to grow, 200 and 300 degrees are nobody's near neighbours.
    everything = corpus.run(0.2, "b", reference=reference, dedup_threshold=near)
    assert everything == {first, one, 4, 5, 6, 7, 8, 9} and corpus.metadata["counts"]["k"] == 8
    with pytest.raises(UserError, match=r"budget is 9 images, but 8 are left"):
        corpus.run(0.1, "c", reference=reference, dedup_threshold=near)


def test_dinov2_drops_what_leaks(tmp_path):
    degrees = [0, 2, 4, 60, 100, 102, 200, 300]
    corpus = Curated(tmp_path, degrees)
    files = {"reference": corpus.set("reference", [0, 100]), "copies": corpus.embeddings}
    near = str(float(np.cos(np.radians(3))))
    leak = str(float(np.cos(np.radians(1.5))))
    # 0, 2 and 4 degrees are one component; the evaluation image at 5 is a copy of 4 alone.
    exclude = corpus.set("exclude", [5])
    rows = corpus.run(0.75, "a", dedup_threshold=near, leak=leak, exclude=exclude, **files)
    assert rows == {min(4, 5, key=lambda row: corpus.keys[row]), 3}
    assert corpus.metadata["counts"]["leaked_components"] == 1
    rows = corpus.run(0.75, "b", dedup_threshold=near, **files)
    assert 0 in {corpus.degrees[row] // 5 for row in rows}


def test_former_names_of_flags_and_records_are_read(tmp_path, capsys):
    corpus = Curated(tmp_path, [0, 2, 4, 60, 100, 102, 200, 300])
    flags = ["--method", "dinov2", "--scores", str(corpus.scores), "--ratio", "0.75"]
    inputs = ["--embeddings", str(corpus.embeddings)]
    inputs += ["--reference", str(corpus.set("reference", [0, 100]))]
    exclude = str(corpus.set("exclude", [5]))
    out = tmp_path / "x.parquet"
    old = ["--near", "0.9", "--avoid", exclude]
    assert select([*flags, *inputs, *old, "--out", str(out)]) == 0
    shown = capsys.readouterr().err
    assert "--near is now called --dedup-threshold" in shown
    assert "--avoid is now called --exclude" in shown
    table, metadata = read_index(out)
    assert metadata["params"]["dedup_threshold"] == 0.9 and "exclude" in metadata["inputs"]
    # As version 0.1 recorded them.
    metadata["params"]["near"] = metadata["params"].pop("dedup_threshold")
    metadata["inputs"]["avoid"] = metadata["inputs"].pop("exclude")
    write_index(tmp_path / "old.parquet", table, metadata)
    call = [str(tmp_path / "old.parquet"), "--scores", str(corpus.scores), *inputs]
    assert index(["verify", *call, "--exclude", exclude]) == 0
    manifest = tmp_path / "x.manifest.json"
    record = manifest.read_text().replace("dedup_threshold", "near").replace('"exclude"', '"avoid"')
    manifest.write_text(record)
    assert select([*flags, *inputs, *old, "--out", str(out)]) == 0
    assert "already done" in capsys.readouterr().out


def test_dinov2_by_clusters(tmp_path):
    random = np.random.default_rng(0)
    degrees = np.repeat([0.0, 90.0, 180.0], [40, 30, 30]) + 20 * random.random(100)
    corpus = Curated(tmp_path, degrees.tolist())
    curated = np.concatenate([90 + 20 * random.random(400), 180 + 20 * random.random(2)])
    files = {"reference": corpus.set("reference", curated)}
    files |= {"dedup_threshold": "1", "retrieval": "cluster"}
    rows = corpus.run(0.8, "a", **files)
    counts = corpus.metadata["counts"]
    assert counts["clusters"] == 10 and counts["more_than"] == 3
    assert len(rows) == 20 and all(40 <= row < 70 for row in rows)  # those about 90 degrees
    more = corpus.run(0.6, "b", **files)  # 40 images: cells with fewer are let in
    assert corpus.metadata["counts"]["more_than"] in (0, 1)
    assert all(row >= 40 for row in more) and any(row >= 70 for row in more)


def test_dinov2_needs_its_files_and_one_encoder(tmp_path):
    corpus = Curated(tmp_path, [0, 30, 60])
    with pytest.raises(UserError, match="needs --reference"):
        corpus.run(0.5, "a")
    other = corpus.set("other", [0, 5], encoder={"name": "another"})
    with pytest.raises(UserError, match="different encoders"):
        corpus.run(0.5, "b", reference=other)
    reference = corpus.set("reference", [0, 5])
    with pytest.raises(UserError, match="different encoders"):
        corpus.run(0.5, "c", reference=reference, dedup_threshold="1", exclude=other)


# --- hierarchical k-means -----------------------------------------------------------------------


def test_dividing_is_as_even_as_sizes_allow():
    random = np.random.default_rng(0)
    assert divide(np.array([10, 3, 7, 0]), 15, random).tolist() == [6, 3, 6, 0]
    found = divide(np.array([10, 3, 7, 0]), 16, random)
    assert sorted(found.tolist()) == [0, 3, 6, 7] and found[1] == 3
    assert divide(np.array([2, 3]), 99, random).tolist() == [2, 3]
    assert divide(np.array([4, 4, 4]), 0, random).tolist() == [0, 0, 0]
    draws = {tuple(divide(np.array([9, 9, 9]), 4, np.random.default_rng(n))) for n in range(30)}
    assert draws == {(2, 1, 1), (1, 2, 1), (1, 1, 2)}


def test_the_budget_flows_down_the_tree():
    # Two top nodes: one over a single small cluster, one over three large ones.
    parents = [np.array([0, 1, 1, 2]), np.array([0, 1, 1])]
    sizes = np.array([4, 50, 2, 50])
    assert descend(sizes, parents, 40, 0).tolist() == [4, 16, 2, 18]
    assert descend(sizes, parents, 106, 0).tolist() == sizes.tolist()
    assert descend(sizes, parents, 6, 0).tolist()[0] == 3  # half of it, however few images
    for total in range(107):
        found = descend(sizes, parents, total, 1)
        assert found.sum() == total and (found <= sizes).all()


def concepts(sizes: list[int]) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(0)
    labels = random.permutation(np.repeat(np.arange(len(sizes)), sizes))
    points = np.eye(len(sizes))[labels] + 0.05 * random.normal(size=(len(labels), len(sizes)))
    return points, labels


def test_hierarchical_end_to_end(tmp_path):
    points, labels = concepts([200, 20, 20, 20])  # one concept is most of the pool
    corpus = Corpus(tmp_path, points)
    tree = tmp_path / "tree"
    flags = ["--embeddings", str(corpus.embeddings), "--resamplings", "2"]
    assert main([*flags, "--levels", "12", "4", "--out", str(tree)]) == 0
    summary = read_manifest(tree)["summary"]
    assert summary["levels"] == [12, 4] and sum(summary["sizes"]) == 260
    parents = hierarchy.read_parents(tree)
    assert len(parents) == 1 and set(parents[0]) == {0, 1, 2, 3}
    cluster = read_parts(tree).column("cluster").to_numpy()
    top = parents[0][cluster]
    assert all(len(set(top[labels == k])) == 1 for k in range(4))  # a node for each concept
    rows = corpus.select("hierarchical", 0.8, assignments=tree)
    assert np.bincount(labels[rows]).tolist() == [13, 13, 13, 13]
    other = corpus.select("hierarchical", 0.8, name="other", assignments=tree, seed=1)
    assert set(other) != set(rows)
    near = corpus.select("hierarchical", 0.8, name="near", assignments=tree, leaf="nearest")
    similarity = read_parts(tree).column("similarity").to_numpy()
    assert similarity[near].mean() > similarity[rows].mean()
    assert corpus.metadata["params"] == {"ratio": 0.8, "leaf": "nearest", "seed": 0}
    assert main([*flags, "--levels", "12", "4", "--out", str(tree)]) == 0  # done


def test_a_stopped_hierarchy_continues_after_its_last_finished_level(tmp_path, monkeypatch):
    points, _ = concepts([60, 20, 20])
    corpus = Corpus(tmp_path, points)
    flags = ["--embeddings", str(corpus.embeddings), "--levels", "12", "6", "3", "--resamplings"]
    assert main([*flags, "2", "--out", str(tmp_path / "calm")]) == 0
    real, levels = hierarchy.resampled, []

    def stops_at_the_last(source: Any, clusters: int, **more: Any) -> Any:
        levels.append(clusters)
        if levels == [12, 6, 3]:
            raise KeyboardInterrupt
        return real(source, clusters, **more)

    monkeypatch.setattr(hierarchy, "resampled", stops_at_the_last)
    out = tmp_path / "stopped"
    with pytest.raises(KeyboardInterrupt):
        main([*flags, "2", "--out", str(out)])
    (out / ".level-1.npz").write_bytes((out / ".level-1.npz").read_bytes()[:-9])  # damaged
    assert main([*flags, "2", "--out", str(out)]) == 0
    assert levels == [12, 6, 3, 6, 3]
    for path in (tmp_path / "calm").glob("pa*"):
        assert (out / path.name).read_bytes() == path.read_bytes()
    assert not list(out.glob(".level*"))


def test_hierarchies_that_cannot_be(tmp_path):
    corpus = Corpus(tmp_path, np.eye(6))
    flags = ["--embeddings", str(corpus.embeddings), "--out", str(tmp_path / "x"), "--levels"]
    with pytest.raises(UserError, match="each must be below"):
        main([*flags, "3", "3"])
    with pytest.raises(UserError, match="only 6 embeddings"):
        main([*flags, "7", "3"])
    clusters = corpus.clusters([0, 1, 0, 1, 0, 1], np.ones(6))
    with pytest.raises(UserError, match=r"not by prune\.hierarchy"):
        corpus.select("hierarchical", 0.5, assignments=clusters)
    assert hierarchy.default_levels(10_500_000) == (21_000, 2_100, 210)
    assert hierarchy.default_levels(4000) == (100, 20, 5)


def test_resampling_clusters_what_is_closest_to_the_centroids(monkeypatch):
    units = unit_rows(on_a_circle([0, 1, 2, 3, 10, 20, 90, 91, 92, 100, 110, 120]))
    calls = []
    first = hierarchy.spherical_kmeans

    def watched(source: Any, clusters: int, **more: Any) -> Any:
        calls.append(source.take(np.arange(source.rows)))
        return first(source, clusters, **more)

    monkeypatch.setattr(hierarchy, "spherical_kmeans", watched)
    options = {"seed": 0, "iterations": 20}
    start, labels, _ = hierarchy.resampled(Held(units), 2, resamplings=0, **options)
    found, again, cosines = hierarchy.resampled(Held(units), 2, resamplings=1, **options)
    assert [len(points) for points in calls] == [12, 12, 6]
    expected = []  # the three closest of each cluster: half the mean size
    for k in range(2):
        members = np.flatnonzero(labels == k)
        expected += members[np.argsort(-(units[members] @ start[k]))][:3].tolist()
    assert np.array_equal(calls[2], units[sorted(expected)])
    assert np.array_equal(again, (units @ found.T).argmax(axis=1))
    assert np.allclose(cosines, (units @ found.T).max(axis=1))
