"""Byte-identical copies: what prune.select says of them, and --drop-copies."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from core.errors import UserError
from data.formats.index import read_index
from prune.index import main as index
from prune.methods.catalogue import METHODS, find
from prune.select import main, run
from prune.subsets.config import SelectConfig
from prune.subsets.copies import binary_digests, is_copy
from tests.prune.files import make_assignments, make_scores, places
from tests.prune.test_baselines import Corpus

COUNT, K = 120, 4
COPIES = {10: 3, 50: 3, 11: 99, 20: 21, 119: 0}  # row -> the row whose bytes it has
GROUPS = ({10, 50, 3}, {11, 99}, {20, 21}, {119, 0})
KEYS = places(COUNT)["key"]


@pytest.fixture
def files(tmp_path):
    random = np.random.default_rng(0)
    entropies = random.uniform(0, 8, COUNT)
    for row, of in COPIES.items():
        entropies[row] = entropies[of]
    scores = make_scores(tmp_path / "scores", entropies, rejected=(7,), copies=COPIES)
    ok = np.asarray([i for i in range(COUNT) if i != 7])
    similarity = random.uniform(0, 1, len(ok)).astype(np.float32)
    cluster = random.integers(0, K, len(ok)).astype(np.int32)
    return {
        "scores": scores,
        "assignments": make_assignments(tmp_path / "a", ok, cluster, similarity, K, COUNT),
    }


def select(files, out, method="random", **more) -> tuple[set[str], dict, str]:
    given = {**files, "method": method, "ratio": (0.2,), "keep": 1.0, **more}
    result = run(SelectConfig(out=out, **given))
    table, metadata = read_index(out)
    return set(table["key"].to_pylist()), metadata, result.message


@pytest.mark.parametrize("method", ["random", "entropy", "full", "rsprune"])
def test_of_copies_the_first_in_key_order_stays(files, tmp_path, method):
    keys, metadata, said = select(files, tmp_path / "x.parquet", method, drop_copies=True)
    for group in GROUPS:
        first, *others = sorted(KEYS[i] for i in group)
        assert not keys & set(others)
        assert method != "full" or first in keys
    assert metadata["params"]["drop_copies"] is True
    assert metadata["counts"]["copies_dropped"] == 5 and metadata["copies"] == 0
    assert metadata["counts"]["N"] == 119 and "5 byte-identical copies left out" in said
    given = ["--assignments", str(files["assignments"])] if method == "rsprune" else []
    scores = ["--scores", str(files["scores"])]
    assert index(["verify", str(tmp_path / "x.parquet"), *scores, *given]) == 0


def test_the_default_says_how_many_copies_it_kept(files, tmp_path):
    keys, metadata, said = select(files, tmp_path / "x.parquet", "full")
    assert metadata["copies"] == 5 and len(keys) == 119
    assert "5 of them byte-identical copies of others; --drop-copies" in said
    assert "drop_copies" not in metadata["params"]  # as before there was such a setting


def test_stage1_keeps_what_was_embedded(files, tmp_path):
    """Its fraction is of the original pool: dropping copies lets no further image in."""
    with_copies, _, _ = select(files, tmp_path / "a.parquet", "rsprune", ratio=(0.6,), keep=0.4)
    without, counts, _ = select(
        files, tmp_path / "b.parquet", "rsprune", ratio=(0.7,), keep=0.4, drop_copies=True
    )
    assert without <= with_copies and counts["counts"]["B"] == 35
    with pytest.raises(UserError, match=r"Stage I keeps only \d+ without copies"):
        select(files, tmp_path / "c.parquet", "rsprune", ratio=(0.6,), keep=0.4, drop_copies=True)


def test_a_budget_above_what_is_distinct_is_refused(files, tmp_path):
    with pytest.raises(UserError, match="only 114 are no copies"):
        select(files, tmp_path / "x.parquet", ratio=(0.0,), drop_copies=True)
    assert not list(tmp_path.glob("*.stage.json")) and not (tmp_path / "x.parquet").exists()


def test_copies_are_told_apart_by_all_their_bits():
    digests = ["a" * 64, "b" + "a" * 63, "a" * 20 + "b" * 44, "c" * 64, "a" * 64]
    keys = pa.array(["4", "3", "2", "1", "0"])
    short = pa.chunked_array([binary_digests(pa.chunked_array([digests]))])
    assert is_copy(keys, short).tolist() == [True, False, False, False, False]
    assert not is_copy(keys.slice(2), short.slice(2)).any()
    with pytest.raises(UserError, match="without a digest"):
        binary_digests(pa.chunked_array([["a" * 64, None]]))
    assert len(binary_digests(pa.chunked_array([[]], pa.string()))) == 0


def test_a_failed_select_leaves_no_record(files, tmp_path, capsys):
    flags = ["--scores", str(files["scores"]), "--assignments", str(files["assignments"])]
    out = tmp_path / "subsets" / "x.parquet"
    with pytest.raises(UserError, match="Stage I keeps only"):
        main([*flags, "--ratio", "0.1", "--keep", "0.2", "--out", str(out)])
    assert not [p for p in out.parent.iterdir() if p.suffix == ".json"]
    assert main([*flags, "--ratio", "0.9", "--keep", "0.2", "--out", str(out)]) == 0


def test_a_budget_below_k_says_that_nothing_is_balanced(files, tmp_path):
    keys, metadata, said = select(files, tmp_path / "x.parquet", "rsprune", ratio=(0.98,))
    assert len(keys) == 2 and metadata["counts"]["q"] == 0
    assert "BALANCING IS OFF" in said and "at most 2 clusters" in said
    _, _, said = select(files, tmp_path / "y.parquet", "rsprune", ratio=(0.9,))
    assert "BALANCING" not in said


def test_the_keep_that_is_advised_is_enough(files, tmp_path):
    for ratio in (0.77, 0.63, 0.41):
        with pytest.raises(UserError) as error:
            select(files, tmp_path / "x.parquet", "rsprune", ratio=(ratio,), keep=0.1)
        keep = float(str(error.value).split("at least ")[1].split(",")[0])
        select(files, tmp_path / f"{ratio}.parquet", "rsprune", ratio=(ratio,), keep=keep)


@pytest.mark.parametrize("method", [name for name in METHODS if name != "hierarchical"])
def test_every_method_leaves_copies_out(tmp_path, method):
    """Of 60 images on a circle ten are copies; hierarchical reads a tree and else is as others."""
    copies = {row: row - 1 for row in range(1, 20, 2)}
    angles = np.linspace(0, 2, 60)
    for row, of in copies.items():
        angles[row] = angles[of]
    corpus = Corpus(tmp_path, np.stack([np.cos(angles), np.sin(angles)], axis=1), copies)
    needs = find(method).reads
    files = {"scores": corpus.scores}
    if "assignments" in needs:
        cluster, near = np.arange(60) % 3, np.linspace(0, 1, 60)
        reduced = {"reduce": 2} if method == "entropy-set" else {}
        files["assignments"] = corpus.clusters(cluster, near, **reduced)
    files |= {name: corpus.embeddings for name in ("embeddings", "reference") if name in needs}
    more = {"dedup_threshold": 1.0} if method == "dinov2" else {}
    out = tmp_path / "x.parquet"
    given = {"ratio": (0.5,), "keep": 1.0, "drop_copies": True, **files, **more}
    run(SelectConfig(out=out, method=method, **given))
    table, metadata = read_index(out)
    digests = table["digest"].to_pylist()
    assert len(digests) == len(set(digests)) == (50 if method == "full" else 30)
    assert metadata["counts"]["copies_dropped"] == 10
