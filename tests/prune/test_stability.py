"""prune.stability: the overlap's arithmetic, and a card of a small corpus."""

from __future__ import annotations

import json

import numpy as np
import pyarrow as pa
import pytest

from core.errors import UserError
from data.formats.index import read_index
from prune.stability import main
from prune.studies.stability import chance, jaccard
from world.write.encode import jpeg


def test_overlap():
    a, b = pa.chunked_array([["x", "y"], ["z"]]), pa.chunked_array([["z", "w"]])
    assert jaccard(a, b) == jaccard(b, a) == 1 / 4
    assert jaccard(a, a) == 1.0 and jaccard(a, pa.chunked_array([["w"]])) == 0.0
    random = np.random.default_rng(0)
    drawn = [set(random.choice(4000, 1200, replace=False)) for _ in range(40)]
    found = [len(p & q) / len(p | q) for p, q in zip(drawn[::2], drawn[1::2], strict=True)]
    assert abs(np.mean(found) - chance(0.3)) < 0.01
    assert chance(1.0) == 1.0


def scenes(root, classes, count, seed):
    random = np.random.default_rng(seed)
    for c in range(classes):
        folder = root / f"class{c}"
        folder.mkdir(parents=True)
        for i in range(count):
            image = random.integers(0, 40 + 20 * c, (48, 48, 3)) + 15 * c
            (folder / f"{i}.jpg").write_bytes(jpeg(np.clip(image, 0, 255).astype(np.uint8), 90))
    return root


def test_card(tmp_path):
    corpus = scenes(tmp_path / "corpus", 4, 20, 0)
    sets = [scenes(tmp_path / f"reference{n}", 4, 6, n + 1) for n in range(2)]
    out = tmp_path / "card"
    flags = [
        "--corpus", str(corpus), "--reference", *map(str, sets), "--out", str(out),
        "--clusters", "3", "6", "--seeds", "0", "1", "2", "--ratio", "0.7", "--keep", "0.6",
        "--restarts", "1", "--workers", "1",
    ]  # fmt: skip
    assert main(flags) == 0
    result = json.loads((out / "stability.json").read_text())
    assert result["images"] == 80 and result["budget"] == 24
    factors = result["factors"]
    assert [len(f["settings"]) for f in factors.values()] == [3, 2, 1, 2, 3]
    for found in factors.values():
        assert found["settings"][0]["jaccard"] == 1.0  # the base with itself
        assert all(0 <= row["jaccard"] <= 1 for row in found["settings"])
    # The numbers are those of the indices.
    names = [f"jpeg-ref0-encoder0-K{k}-seed0" for k in (3, 6)]
    indices = [read_index(out / "subsets" / f"{name}.parquet") for name in names]
    keys = [set(table["key"].to_pylist()) for table, _ in indices]
    row = factors["clusters"]["settings"][1]
    assert row["jaccard"] == len(keys[0] & keys[1]) / len(keys[0] | keys[1])
    assert row["remainder"] == indices[1][1]["counts"]["remainder_rows"] / 24
    assert len(list((out / "subsets").glob("*.parquet"))) == 1 + 2 + 1 + 0 + 1 + 2
    text = (out / "stability.md").read_text()
    assert text.count("\n| ") >= 11 and "convention" in text.lower()
    before = (out / "stability.json").read_bytes()
    assert main(flags) == 0 and (out / "stability.json").read_bytes() == before


def test_refuses(tmp_path):
    flags = ["--corpus", str(tmp_path), "--reference", str(tmp_path), "--out", str(tmp_path / "o")]
    with pytest.raises(UserError, match="--conventions luma: choose among"):
        main([*flags, "--conventions", "luma"])
    with pytest.raises(UserError, match=r"--seeds: .* none of them twice"):
        main([*flags, "--seeds", "1", "1"])
