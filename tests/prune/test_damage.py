"""Damaged outputs of one stage under the next one: one error that names the file, no traceback."""

from __future__ import annotations

import json

import numpy as np
import pytest

from core.errors import UserError
from core.stage import fingerprint
from prune.assign import main as assign
from prune.centroids import main as centroids
from prune.cluster.hierarchy import read_parents
from prune.embed import main as embed
from prune.hierarchy import main as hierarchy
from tests.data.shards import jpeg


@pytest.fixture
def made(tmp_path):
    for n in range(8):
        path = tmp_path / "c" / "class" / f"{n}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(jpeg(n))
    embed(["--reference", str(tmp_path / "c"), "--out", str(tmp_path / "e"), "--workers", "1"])
    here = ["--embeddings", str(tmp_path / "e")]
    centroids([*here, "--clusters", "2", "--out", str(tmp_path / "k")])
    hierarchy([*here, "--levels", "4", "2", "--out", str(tmp_path / "t")])
    return tmp_path


@pytest.mark.parametrize("name", ["part-00000.npy", "part-00000.parquet"])
@pytest.mark.parametrize("left", [0, 100, -1])
def test_embeddings_that_are_cut_short(made, name, left):
    path = made / "e" / name
    whole = path.read_bytes()
    path.write_bytes(whole[:left])
    here = ["--embeddings", str(made / "e")]
    for command, flags in (
        (centroids, ["--clusters", "2", "--streaming"]),
        (centroids, ["--clusters", "2"]),
        (assign, ["--centroids", str(made / "k"), "--workers", "1"]),
    ):
        with pytest.raises(UserError, match=rf"{name}: damaged"):
            command([*here, *flags, "--out", str(made / "x")])
    path.unlink()
    with pytest.raises(UserError, match=r"part-00000"):
        centroids([*here, "--clusters", "2", "--streaming", "--out", str(made / "x")])


def test_centroids_of_any_damage(made):
    path = made / "k" / "centroids.npy"
    whole = path.read_bytes()
    flags = ["--embeddings", str(made / "e"), "--centroids", str(made / "k"), "--workers", "1"]
    wrong = np.load(path)
    wrong[0, 0] = np.nan  # every image would be nearest to it
    np.save(made / "wrong.npy", wrong)
    header = whole.replace(b"'shape': (", b"'shape': ((")
    for data in (b"", whole[:100], header, (made / "wrong.npy").read_bytes()):
        path.write_bytes(data)
        with pytest.raises(UserError, match=r"centroids\.npy: (unreadable|damaged)"):
            assign([*flags, "--out", str(made / "a")])


def test_a_tree_of_any_damage(made):
    path = made / "t" / "parents.npz"
    whole = path.read_bytes()
    for data in (b"", whole[: len(whole) // 2], whole.replace(b"level_0", b"level_x", 1)):
        path.write_bytes(data)
        with pytest.raises(UserError, match=r"parents\.npz: unreadable"):
            read_parents(made / "t")


@pytest.mark.parametrize("key", ["fingerprint", "stage", "params", "inputs", "summary", "files"])
def test_a_manifest_that_lacks_something(made, key):
    path = made / "k" / "manifest.json"
    manifest = json.loads(path.read_text())
    del manifest[key]
    path.write_text(json.dumps(manifest))
    with pytest.raises(UserError, match=rf"manifest\.json: lacks '{key}'; delete it"):
        fingerprint(made / "k")
