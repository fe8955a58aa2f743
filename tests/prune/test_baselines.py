"""The baselines on small corpora whose right subset is known by hand."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from core.errors import UserError
from data.formats.index import read_index
from prune import index as index_command
from prune.cluster.features import Features
from prune.methods import moderate as moderate_module
from prune.methods import semdedup as semdedup_module
from prune.methods.allocation import allocate
from prune.methods.moderate import medians
from prune.methods.semdedup import greatest_cosines
from prune.select import main
from tests.prune.files import make_assignments, make_embeddings, make_scores, places


class Corpus:
    """Scores and embeddings of `points`, one image each."""

    def __init__(self, root: Path, points: np.ndarray, copies: dict[int, int] | None = None):
        self.root = root
        self.count = len(points)
        self.keys = places(self.count)["key"]
        entropies = np.linspace(8, 1, self.count)  # row 0 has the highest
        self.scores = make_scores(root / "scores", entropies, copies=copies)
        units = points / np.linalg.norm(points, axis=1, keepdims=True)
        self.units = units.astype(np.float16).astype(np.float64)
        self.embeddings = make_embeddings(root / "pool", units, part=7)

    def clusters(self, cluster: Any, similarity: Any, name: str = "clusters", **more: Any) -> Path:
        cluster = np.asarray(cluster)
        own = more.pop("own", self.embeddings)
        rows = np.arange(len(cluster))
        return make_assignments(
            self.root / name,
            rows,
            cluster,
            np.asarray(similarity, np.float32),
            more.pop("K", int(cluster.max()) + 1),
            self.count,
            own=own,
            **more,
        )

    def select(self, method: str, ratio: float, name: str = "", **files: Any) -> list[int]:
        """Rows chosen; the index is verified too."""
        out = self.root / f"{name or method}-{ratio}.parquet"
        flags = ["--scores", str(self.scores)]
        inputs = ("assignments", "embeddings", "reference", "copies", "exclude")
        for flag, value in files.items():
            if flag in inputs:
                flags += [f"--{flag}", str(value)]
        own = [
            text
            for flag, value in files.items()
            if flag not in inputs
            for text in (f"--{flag.replace('_', '-')}", str(value))
        ]
        call = [*flags, *own, "--method", method, "--ratio", str(ratio), "--out", str(out)]
        assert main(call) == 0
        self.table, self.metadata = read_index(out)
        assert index_command.main(["verify", str(out), *flags]) == 0
        at = {key: row for row, key in enumerate(self.keys)}
        by_rank = self.table.sort_by("rank")
        return [at[key] for key in by_rank["key"].to_pylist()]


def on_a_circle(degrees: Any) -> np.ndarray:
    angles = np.radians(np.asarray(degrees, float))
    return np.stack([np.cos(angles), np.sin(angles)], axis=1)


# --- Moderate-DS --------------------------------------------------------------------------------


def test_moderate_keeps_the_middle_of_the_distances(tmp_path):
    # Twelve images, in no order; the median direction is near 0 degrees.
    degrees = [1, -2, 3, -5, 8, -13, 21, -34, 40, -50, 60, -70]
    corpus = Corpus(tmp_path, on_a_circle(degrees))
    rows = corpus.select("moderate", 2 / 3, classes="one", embeddings=corpus.embeddings)
    # B = 4 of 12: ranks 4 to 7 by distance, the four nearest and the four farthest go.
    assert sorted(abs(degrees[row]) for row in rows) == [8, 13, 21, 34]
    assert set(corpus.table["chosen"].to_pylist()) == {"band"}
    assert corpus.metadata["counts"]["closer"] == corpus.metadata["counts"]["farther"] == 4
    # An odd number to drop: the farther side loses one more.
    rows = corpus.select("moderate", 0.75, classes="one", embeddings=corpus.embeddings)
    assert sorted(abs(degrees[row]) for row in rows) == [8, 13, 21]


def test_moderates_window_is_that_of_the_whole_pool_not_of_each_class(tmp_path):
    # Class 0 is tight about 0 degrees, class 1 loose about 90; by distance, all of 0 come first.
    degrees = [-2, -1, 1, 2, 90 - 40, 90 - 30, 90 + 29, 90 + 41]
    corpus = Corpus(tmp_path, on_a_circle(degrees))
    clusters = corpus.clusters([0] * 4 + [1] * 4, np.full(8, 0.9), own=None)  # a reference's
    files = {"embeddings": corpus.embeddings, "assignments": clusters}
    rows = corpus.select("moderate", 0.5, **files)
    assert sorted(degrees[row] for row in rows) == [-2, 2, 60, 119]
    assert sorted(corpus.table["cluster"].to_pylist()) == [0, 0, 1, 1]


def test_moderate_agrees_with_numpy(tmp_path):
    random = np.random.default_rng(2)
    corpus = Corpus(tmp_path, random.normal(size=(60, 5)))
    labels = random.integers(0, 3, 60)
    clusters = corpus.clusters(labels, random.random(60))
    rows = corpus.select(
        "moderate", 0.5, embeddings=corpus.embeddings, assignments=clusters
    )
    medians_ = np.stack([np.median(corpus.units[labels == k], axis=0) for k in range(3)])
    distance = np.linalg.norm(corpus.units - medians_[labels], axis=1)
    assert rows == np.argsort(distance)[15:45].tolist()


@pytest.mark.parametrize("held", [1, 1000, 1 << 30])
def test_medians_are_exact(tmp_path, monkeypatch, held):
    monkeypatch.setattr(moderate_module, "BLOCK", 16)
    random = np.random.default_rng(0)
    points = random.normal(size=(90, 9)).astype(np.float16)
    points[:, 0] = 0.0
    points[::2, 1] = -0.0
    points[:, 2] = random.choice([-0.5, 0.25, 60000.0, -6e-8], 90)  # coarse and subnormal
    labels = random.choice([0, 1, 3], 90, p=[0.6, 0.35, 0.05]).astype(np.int32)
    labels[-1] = 4
    features = Features(make_embeddings(tmp_path / "e", points.astype(np.float64), part=20))
    found = medians(features, labels, 6, held=held)
    for k in range(6):
        mine = points[labels == k].astype(np.float32)
        expected = np.median(mine, axis=0) if len(mine) else np.zeros(9)
        assert np.array_equal(found[k], expected.astype(np.float32)), k


def test_moderate_refuses_embeddings_that_are_not_finite(tmp_path):
    corpus = Corpus(tmp_path, np.random.default_rng(2).normal(size=(20, 3)))
    corpus.units[4, 1] = np.nan
    broken = make_embeddings(tmp_path / "broken", corpus.units, part=7)
    with pytest.raises(UserError, match="embeddings are not finite"):
        corpus.select("moderate", 0.5, classes="one", embeddings=broken)


# --- clusterings of the pool ---------------------------------------------------------------------


def test_cluster_nearest_takes_the_same_share_of_each_cluster(tmp_path):
    cluster = np.repeat([0, 1, 2], [20, 11, 4])
    similarity = np.random.default_rng(0).permutation(35) / 50
    corpus = Corpus(tmp_path, np.random.default_rng(0).normal(size=(35, 4)))
    rows = corpus.select("cluster-nearest", 0.6, assignments=corpus.clusters(cluster, similarity))
    assert len(rows) == 14
    # floor(0.4 x 20, 11, 4) = 8, 4, 1; the fourteenth is the most similar of the rest.
    expected = []
    for k, quota in ((0, 8), (1, 4), (2, 1)):
        members = np.flatnonzero(cluster == k)
        expected += members[np.argsort(-similarity[members])][:quota].tolist()
    rest = [i for i in range(35) if i not in expected]
    expected.append(max(rest, key=lambda i: similarity[i]))
    assert set(rows) == set(expected)


def test_a2mae_takes_the_farthest_of_each_cluster_alike(tmp_path):
    cluster = np.repeat([0, 1, 2], [20, 11, 2])
    similarity = np.random.default_rng(1).permutation(33) / 50
    corpus = Corpus(tmp_path, np.random.default_rng(0).normal(size=(33, 4)))
    rows = corpus.select("a2mae", 0.7, assignments=corpus.clusters(cluster, similarity))
    assert len(rows) == 9
    expected = []  # quota 3: three, three and both, and the least similar of the rest
    for k in range(3):
        members = np.flatnonzero(cluster == k)
        expected += members[np.argsort(similarity[members])][:3].tolist()
    rest = [i for i in range(33) if i not in expected]
    expected.append(min(rest, key=lambda i: similarity[i]))
    assert set(rows) == set(expected)


def test_full_set_and_entropy_set(tmp_path):
    cluster = np.tile([0, 1], 10)
    similarity = np.linspace(0.1, 0.9, 20)  # the most similar have the lowest entropy
    corpus = Corpus(tmp_path, np.random.default_rng(0).normal(size=(20, 4)))
    whole = corpus.clusters(cluster, similarity)
    assert set(corpus.select("full-set", 0.8, assignments=whole)) == {16, 17, 18, 19}
    # Stage I keeps rows 0 to 9 alone, and their own clustering has ten rows.
    kept = corpus.clusters(cluster[:10], similarity[:10], "kept", reduce=2)
    assert set(corpus.select("entropy-set", 0.8, keep=0.5, assignments=kept)) == {6, 7, 8, 9}
    with pytest.raises(UserError, match=r"--reduce 128"):
        corpus.select("entropy-set", 0.9, keep=0.5, assignments=whole)
    wide = corpus.clusters(cluster, similarity, "wide", reduce=2)
    with pytest.raises(UserError, match=r"20 images were clustered, but Stage I keeps 10"):
        corpus.select("entropy-set", 0.9, keep=0.5, assignments=wide)
    with pytest.raises(UserError, match="budget is 10 of 20 images, but Stage I keeps only 6"):
        six = corpus.clusters(cluster[:6], similarity[:6], "six", reduce=2)
        corpus.select("entropy-set", 0.5, keep=0.3, assignments=six)


@pytest.mark.parametrize("method", ["cluster-nearest", "a2mae", "full-set", "semdedup"])
def test_what_clusters_the_pool_needs_all_of_it_and_no_reference(tmp_path, method):
    corpus = Corpus(tmp_path, np.random.default_rng(0).normal(size=(12, 4)))
    files = {"embeddings": corpus.embeddings} if method == "semdedup" else {}
    part = corpus.clusters([0, 1] * 3, np.ones(6), "part")
    with pytest.raises(UserError, match=r"6 images, but .* looks at all 12.*--keep 1"):
        corpus.select(method, 0.5, assignments=part, **files)
    reference = corpus.clusters([0, 1] * 6, np.ones(12), "reference", own=None)
    with pytest.raises(UserError, match=r"without a reference.*prune\.centroids"):
        corpus.select(method, 0.5, assignments=reference, **files)
    with pytest.raises(UserError, match="needs --assignments"):
        corpus.select(method, 0.5, **files)


# --- SemDeDup -----------------------------------------------------------------------------------


def test_semdedup_keeps_one_of_each_group_of_copies(tmp_path):
    random = np.random.default_rng(3)
    concepts = np.linalg.qr(random.normal(size=(8, 8)))[0][:6]  # six orthogonal images
    which = np.array([0, 0, 0, 1, 1, 2, 3, 3, 4, 5, 5, 5])
    corpus = Corpus(tmp_path, concepts[which])
    cluster = np.where(which < 3, 0, 1)
    similarity = np.array([5, 3, 4, 9, 8, 6, 2, 7, 1, 5, 5, 6]) / 10
    files = {
        "assignments": corpus.clusters(cluster, similarity),
        "embeddings": corpus.embeddings,
    }
    # 6 of 12: one of each. The farthest of its group from the centroid stays; rows 9 and 10 tie
    # there, so the lower key does.
    tie = min(9, 10, key=lambda row: corpus.keys[row])
    assert set(corpus.select("semdedup", 0.5, **files)) == {1, 4, 5, 6, 8, tie}
    assert abs(corpus.metadata["counts"]["duplicate_cosine"]) < 0.01
    easy = corpus.select("semdedup", 0.5, name="easy", prefer="easy", **files)
    assert set(easy) == {0, 3, 5, 7, 8, 11}
    chance = corpus.select("semdedup", 0.5, name="any", prefer="random", seed=1, **files)
    assert sorted(which[chance]) == [0, 1, 2, 3, 4, 5]
    assert corpus.metadata["params"] == {"ratio": 0.5, "prefer": "random", "seed": 1}


def test_copies_in_other_clusters_are_not_seen(tmp_path):
    corpus = Corpus(tmp_path, np.ones((4, 3)))
    files = {
        "assignments": corpus.clusters([0, 0, 1, 1], [0.1, 0.2, 0.3, 0.4]),
        "embeddings": corpus.embeddings,
    }
    assert set(corpus.select("semdedup", 0.5, **files)) == {0, 2}


def test_greatest_cosines_by_brute_force(tmp_path, monkeypatch):
    monkeypatch.setattr(semdedup_module, "BLOCK", 4)
    random = np.random.default_rng(0)
    corpus = Corpus(tmp_path, random.normal(size=(40, 3)))
    cluster = random.choice([0, 2, 3], 40, p=[0.7, 0.2, 0.1]).astype(np.int32)
    preference = random.permutation(40)
    units = corpus.units / np.linalg.norm(corpus.units, axis=1, keepdims=True)
    expected = np.full(40, -1.0)
    for place, row in enumerate(preference):
        before = [i for i in preference[:place] if cluster[i] == cluster[row]]
        if before:
            expected[row] = (units[before] @ units[row]).max()
    for held in (0, 1 << 20):
        found = greatest_cosines(Features(corpus.embeddings), cluster, preference, held)
        assert np.allclose(found, expected, atol=1e-5)


# --- one pass for several ratios ----------------------------------------------------------------


def test_a_sweep_is_what_single_calls_are(tmp_path, monkeypatch):
    monkeypatch.setattr("prune.subsets.select.code_version", lambda: "0" * 40)
    random = np.random.default_rng(5)
    corpus = Corpus(tmp_path, random.normal(size=(50, 4)))
    clusters = corpus.clusters(random.integers(0, 4, 50), random.random(50))
    reads = Counter()
    first = semdedup_module.greatest_cosines

    def counted(*arguments: Any) -> Any:
        reads["compared"] += 1
        return first(*arguments)

    monkeypatch.setattr(semdedup_module, "greatest_cosines", counted)
    flags = ["--scores", str(corpus.scores), "--assignments", str(clusters)]
    for method in ("semdedup", "moderate", "rsprune", "cluster-nearest"):
        more = ["--keep", "1"] if method == "rsprune" else []
        if method in ("semdedup", "moderate"):
            more = ["--embeddings", str(corpus.embeddings)]
        call = [*flags, *more, "--method", method]
        swept = tmp_path / "swept" / (method + "_{ratio}.parquet")
        assert main([*call, "--ratio", "0.5", "0.875", "0.9", "--out", str(swept)]) == 0
        assert reads["compared"] == (method == "semdedup")
        for ratio, name in (("0.5", "50"), ("0.875", "87.5"), ("0.9", "90")):
            out = tmp_path / "single" / f"{method}_{name}.parquet"
            assert main([*call, "--ratio", ratio, "--out", str(out)]) == 0
            assert out.read_bytes() == (tmp_path / "swept" / out.name).read_bytes()
        reads.clear()
    # A ratio more: only that one is made.
    before = (tmp_path / "swept" / "moderate_50.parquet").stat().st_mtime_ns
    call = [*flags, "--embeddings", str(corpus.embeddings), "--method", "moderate"]
    out = str(tmp_path / "swept" / "moderate_{ratio}.parquet")
    assert main([*call, "--ratio", "0.5", "0.6", "--out", out]) == 0
    assert (tmp_path / "swept" / "moderate_50.parquet").stat().st_mtime_ns == before
    assert read_index(tmp_path / "swept" / "moderate_60.parquet")[1]["counts"]["B"] == 20


def test_bad_sweeps(tmp_path):
    corpus = Corpus(tmp_path, np.eye(4))
    call = ["--scores", str(corpus.scores), "--method", "random", "--out"]
    with pytest.raises(UserError, match=r"2 ratios need a name with \{ratio\}"):
        main([*call, str(tmp_path / "x.parquet"), "--ratio", "0.5", "0.7"])
    with pytest.raises(UserError, match="given twice"):
        main([*call, str(tmp_path / "x_{ratio}.parquet"), "--ratio", "0.5", "0.50"])


def test_no_cluster_keeps_more_than_its_share_for_being_tight():
    """Many small clusters, of which one is far more similar to its centroid than the others."""
    sizes = np.array([7] * 40)
    cluster = np.repeat(np.arange(40), sizes).astype(np.int32)
    similarity = np.where(cluster == 3, 0.99, 0.5).astype(np.float32)
    keys = pa.array([f"{n:04d}" for n in range(len(cluster))])
    found = allocate(cluster, similarity, keys, 40, 42, allocation="proportional")  # 15 %
    kept = np.bincount(cluster[found.rows], minlength=40)
    assert kept.sum() == 42 and kept.max() <= 2  # 1.05 each; by similarity one had kept 3 of 7
    assert found.by_quota.all()
