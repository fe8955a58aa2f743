"""prune.judge end to end, on a world and a corpus that take seconds."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from core.errors import UserError
from prune.judge import JudgeConfig, main
from prune.studies.config import MINI_WHITEN
from prune.studies.judge import report
from prune.studies.truth import folder_truth, world_truth


def class_folders(root: Path, counts: dict[str, int], seed: int) -> Path:
    """Classes of colour and grain; 'flat' has no grain, so Stage I drops it first."""
    random = np.random.default_rng(seed)
    for n, (name, count) in enumerate(counts.items()):
        (root / name).mkdir(parents=True)
        for i in range(count):
            grain = 0 if name == "flat" else 20 + 20 * n
            noise = random.normal(0, grain, (32 // (n + 1), 32 // (n + 1), 3)).repeat(n + 1, 0)
            noise = noise.repeat(n + 1, 1)
            base = np.array([60 * n, 120, 240 - 50 * n])
            pixels = np.clip(base + noise, 0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(root / name / f"{i:03d}.png")
    return root


def test_class_folders(tmp_path, capsys):
    corpus = class_folders(tmp_path / "corpus", {"flat": 60, "fine": 30, "coarse": 10}, seed=0)
    reference = class_folders(tmp_path / "reference", {"flat": 6, "fine": 6, "coarse": 6}, seed=1)
    flags = ["--corpus", str(corpus), "--reference", str(reference), "--clusters", "3"]
    flags += ["--whiten", "0"]
    flags += ["--ratio", "0.8", "--keep", "0.4", "--out", str(tmp_path / "out"), "--workers", "1"]
    assert main(flags) == 0
    written = (tmp_path / "out" / "judge.json").read_bytes()
    result = json.loads(written)["results"]["corpus"]
    assert result["pool"]["scenes"] == {"coarse": 10, "fine": 30, "flat": 60}
    assert result["stage1"]["scenes"] == {"coarse": 10, "fine": 30}
    # K = 3 and B = 20: a quota of 6, what the empty cluster leaves goes to the most similar.
    ours = result["methods"]["rsprune"]
    assert ours["images"] == 20 and min(ours["scenes"].values()) >= 6 and ours["classes"] == 2
    assert result["methods"]["random"]["images"] == result["methods"]["entropy"]["images"] == 20
    text = (tmp_path / "out" / "judge.md").read_text()
    assert "| corpus | Stage I | 40 | 2 |" in text and "near" not in text

    capsys.readouterr()
    assert main(flags) == 0  # every stage is there already
    assert capsys.readouterr().out.count("already done") == 8
    assert (tmp_path / "out" / "judge.json").read_bytes() == written


def test_world(tmp_path, capsys):
    out = tmp_path / "out"
    flags = ["--seeds", "0", "--tiles", "100", "--reference-per-class", "2", "--clusters", "4"]
    flags += ["--whiten", "8"]
    code = main([*flags, "--out", str(out), "--workers", "1"])
    result = json.loads((out / "judge.json").read_text())["results"]["seed 0"]
    assert result["pool"]["images"] == 80  # 100 files, 20 of them broken
    assert result["stage1"]["images"] == 24
    assert {"sea", "cloud", "desert", "blank"} >= set(result["drops"]) >= {"sea", "blank"}
    for method in ("rsprune", "random", "entropy"):
        assert result["methods"][method]["images"] == 12
    text = (out / "judge.md").read_text()
    assert (out / "seed-0" / "centroids" / "whitening_matrix.npy").exists()
    assert "encoder descriptor whitened to 8 dimensions" in text
    assert "1 miniature worlds of 100 tiles" in text and text in capsys.readouterr().out
    assert code == (1 if result["failures"] else 0)
    for failure in result["failures"]:
        assert failure in text


def test_the_report_says_what_failed():
    side = {"images": 5, "classes": 2, "bits": 1.0, "pairs": {"near": 1, "exact": 0}, "scenes": {}}
    result = {
        "pool": side,
        "stage1": side,
        "drops": {"sea": [9, 10]},
        "dropped": 0.9,
        "methods": {"rsprune": side, "random": side},
        "lost": {"rsprune": {"harbour": 3}, "random": {}},
        "counts": {
            "q": 1,
            "quota_rows": 3,
            "remainder_rows": 2,
            "small_clusters": 1,
            "empty_clusters": 0,
        },
        "failures": ["RS-Prune lost a harbour"],
    }
    text = report({"seed 7": result}, JudgeConfig(out=Path("x")))
    assert "| seed 7 | sea 9/10 | 90.0% | 2 | 1 | 1.000 | 1.000 | 1 | 1 | no |" in text
    assert "FAILED: RS-Prune lost a harbour" in text
    assert "none of Stage I's 3 of harbour" in text


def test_learnt_encoders_are_used_as_they_are():
    for encoder, whiten, dims in (
        ("descriptor", None, MINI_WHITEN),
        ("git-rsclip", None, 0),
        ("descriptor", 0, 0),
        ("git-rsclip", 5, 5),
    ):
        config = JudgeConfig(out=Path("x"), encoder=encoder, whiten=whiten)
        assert config.dims == dims


def test_the_truth_of_version_01_is_read(tmp_path):
    columns = {"key": ["a", "b"], "scene": ["sea", "city"], "dull": [True, False]}
    columns |= {"fault": ["", ""], "duplicate_of": ["", ""], "duplicate_kind": ["", ""]}
    pq.write_table(pa.table(columns), tmp_path / "truth.parquet")
    truth = world_truth(tmp_path / "truth.parquet")
    assert truth["a"].low_information and not truth["b"].low_information
    pq.write_table(pa.table({"key": ["a"]}), tmp_path / "truth.parquet")
    with pytest.raises(UserError, match="no column 'scene'"):
        world_truth(tmp_path / "truth.parquet")


def test_errors(tmp_path):
    with pytest.raises(UserError, match="go together"):
        main(["--corpus", str(tmp_path), "--out", str(tmp_path / "o")])
    with pytest.raises(UserError, match="not in a class folder"):
        folder_truth(["a/b.png", "c.png"])
