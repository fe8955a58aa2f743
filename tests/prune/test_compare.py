"""prune.compare: what it measures, and one run over a small corpus of class folders."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image
from pyarrow import csv

from core.errors import UserError
from prune.cluster.features import unit_rows
from prune.compare import main
from prune.methods.catalogue import METHODS
from prune.studies.compare import STAGES
from prune.studies.comparison import (
    expected_bits,
    measure,
    near_duplicates,
    nearest_similarity,
    perceptual_hash,
)


def smooth(seed: int, side: int = 96) -> np.ndarray:
    coarse = np.random.default_rng(seed).integers(0, 256, (6, 6), dtype=np.uint8)
    return np.asarray(Image.fromarray(coarse).resize((side, side), Image.Resampling.BICUBIC))


def test_the_hash_knows_a_copy_from_another_image():
    image = smooth(0)
    stream = io.BytesIO()
    Image.fromarray(image).save(stream, "JPEG", quality=30)
    copies = {
        "jpeg": np.asarray(Image.open(stream)),
        "darker": (image * 0.6).astype(np.uint8),
        "brighter": np.clip(image * 0.8 + 40, 0, 255).astype(np.uint8),
        "smaller": np.asarray(Image.fromarray(image).resize((64, 64))),
    }
    own = perceptual_hash(image)
    for name, copy in copies.items():
        assert (own ^ perceptual_hash(copy)).bit_count() <= 6, name
    others = [(own ^ perceptual_hash(smooth(seed))).bit_count() for seed in range(1, 40)]
    assert min(others) > 6 and 25 < np.mean(others) < 39
    assert perceptual_hash(np.full((40, 40), 90, np.uint8)) == 0


def test_near_duplicates_counts_images(monkeypatch):
    monkeypatch.setattr("prune.studies.comparison.BLOCK", 2)
    hashes = np.array([0b0, 0b11, 0xFFFF0000, 0xFFFF0001, 7 << 60], np.uint64)
    assert near_duplicates(hashes, 2) == 4
    assert near_duplicates(hashes, 1) == 2
    assert near_duplicates(hashes, 0) == 0
    assert near_duplicates(hashes[:0], 6) == 0


def test_nearest_similarity_is_the_mean_of_nearest_cosines():
    units = unit_rows(np.array([[1.0, 0], [0.8, 0.6], [0, 1]]))
    assert nearest_similarity(units) == pytest.approx((0.8 + 0.8 + 0.6) / 3)
    assert nearest_similarity(units[:1]) == 0.0


def test_expected_balance_of_a_random_draw():
    counts = [400, 100, 50, 10]
    random = np.random.default_rng(0)
    pool = np.repeat(np.arange(4), counts)
    draws = []
    for _ in range(400):
        shares = np.bincount(random.choice(pool, 80, replace=False), minlength=4) / 80
        draws.append(-sum(p * np.log2(p) for p in shares if p))
    assert expected_bits(counts, 80) == pytest.approx(np.mean(draws), abs=0.01)
    assert expected_bits(counts, 560) == pytest.approx(
        -sum(c / 560 * np.log2(c / 560) for c in counts)
    )


def test_measure_by_hand():
    labels = {"a": "x", "b": "x", "c": "y", "d": "", "e": "y"}
    deviation = {"a": 50.0, "b": 9.9, "c": 10.0, "d": 0.0, "e": 0.0}
    hashes = {"a": 0b111, "b": 0b110, "c": 0xFF << 40, "d": 0, "e": 0}
    found = measure(list("abcde"), labels, deviation, hashes, low_information=10, distance=1)
    assert found == {
        "images": 5, "classes": 2, "bits": 1.0, "low_information": 3,
        "near_duplicates": 2, "counts": {"x": 2, "y": 2},
    }  # fmt: skip


def test_every_method_is_compared():
    assert set(STAGES) == set(METHODS)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory) -> Path:
    """Class folders: fields (flat), town (rough) and shore (half and half), unevenly many."""
    root = tmp_path_factory.mktemp("corpus")
    random = np.random.default_rng(0)
    for folder, counts in (("images", (60, 25, 15)), ("reference", (12, 12, 12))):
        for name, count in zip(("fields", "town", "shore"), counts, strict=True):
            (root / folder / name).mkdir(parents=True)
            for i in range(count):
                base = np.full((32, 32, 3), random.integers(60, 190), float)
                noise = {"fields": 3.0, "town": 60.0, "shore": 30.0}[name]
                base += noise * random.normal(size=base.shape)
                if name == "shore":
                    base[:, : random.integers(6, 12)] = (20, 40, 90)
                image = Image.fromarray(np.clip(base, 0, 255).astype(np.uint8))
                image.save(root / folder / name / f"{name}_{i:02d}.png")
    return root


def run(corpus: Path, out: Path, *flags: str) -> dict:
    call = ["--corpus", str(corpus / "images"), "--reference", str(corpus / "reference")]
    call += ["--out", str(out), "--clusters", "4", "--own-clusters", "5", "--reduce", "8"]
    call += ["--whiten", "4", "--ratio", "0.8", "--keep", "0.4", "--workers", "1"]
    call += ["--dedup-threshold", "1"]
    assert main([*call, *flags]) == 0
    return json.loads((out / "compare.json").read_text())


def test_compare_end_to_end(corpus, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("prune.cluster.hierarchy.default_levels", lambda rows: (10, 4))
    out = tmp_path / "out"
    result = run(corpus, out)
    methods = result["methods"]
    assert set(STAGES) <= set(methods) and len(methods) == len(STAGES) + 5
    assert {name: m["images"] for name, m in methods.items() if m["images"] != 20} == {"full": 100}
    assert result["pool"]["counts"] == {"fields": 60, "shore": 15, "town": 25}
    assert result["pool"]["low_information"] == 60  # the fields
    assert methods["entropy"]["low_information"] == methods["rsprune"]["low_information"] == 0
    assert methods["random"]["low_information"] > 5
    text = (out / "compare.md").read_text()
    assert f"| rsprune | 20 | {methods['rsprune']['classes']} |" in text
    assert "| *pool* | 100 | 3 | 1.353 | 60.0% |" in text
    # Again: nothing is redone, and the figures are the same.
    before = {p: p.stat().st_mtime_ns for p in out.rglob("*.parquet")}
    capsys.readouterr()
    assert run(corpus, out) == result
    assert {p: p.stat().st_mtime_ns for p in out.rglob("*.parquet")} == before


def test_labels_from_a_file(corpus, tmp_path):
    methods = ("--methods", "random", "entropy", "--no-variants")
    keys = [
        p.relative_to(corpus / "images").as_posix() for p in (corpus / "images").rglob("*.png")
    ]
    labels = tmp_path / "labels.csv"
    names = ["tenth" if "0.png" in key else "" for key in keys]
    csv.write_csv(pa.table({"key": keys, "label": names}), labels)
    result = run(corpus, tmp_path / "out", "--labels", str(labels), *methods)
    assert result["pool"]["counts"] == {"tenth": names.count("tenth")}
    assert set(result["methods"]) == {"random", "entropy"}
    csv.write_csv(pa.table({"key": keys[1:], "label": keys[1:]}), labels)
    with pytest.raises(UserError, match=f"no label for 1 of .* images, the first {keys[0]}"):
        run(corpus, tmp_path / "out", "--labels", str(labels), *methods)
    csv.write_csv(pa.table({"key": keys}), labels)
    with pytest.raises(UserError, match="columns key, label"):
        run(corpus, tmp_path / "out", "--labels", str(labels), *methods)
    with pytest.raises(UserError, match="choose among rsprune"):
        run(corpus, tmp_path / "out", "--methods", "best")
