"""The paper's numbers: all there, and as the paper prints them."""

from __future__ import annotations

from collections import Counter

import pytest

from core.errors import UserError
from eval.paper.numbers import amount, paper_cell, paper_cells


def test_the_papers_cells_are_all_there() -> None:
    counts = {f"Table {n}": len(paper_cells(f"Table {n}")) for n in (1, 2, 3, 4)}
    assert counts == {"Table 1": 70, "Table 2": 48, "Table 3": 36, "Table 4": 30}
    full = {"reference": "none (full unlabeled)"}
    rs5m = {"corpus": "rs5m", "ratio": 0.85, "subset": "D30"}
    typed = [  # as the paper prints them
        ("Table 1", {"corpus": "git10m", "method": "full"}, "generation", "FID", 45.30),
        ("Table 1", {"corpus": "git10m", "method": "rsprune"}, "generation", "FID", 28.46),
        ("Table 1", {"corpus": "usa1m", "method": "dinov2"}, "generation", "FID", 180.98),
        ("Table 1", {"corpus": "git10m", "method": "moderate"}, "sr", "LPIPS", 0.3952),
        ("Table 1", {"corpus": "usa1m", "method": "full"}, "sis", "FID", 327.33),
        ("Table 2", {"corpus": "git10m", "ratio": 0.85, "subset": "D15"}, "sis", "FID", 125.7938),
        ("Table 2", rs5m, "generation", "FID", 58.9813),
        ("Table 2", {"corpus": "rs5m", "ratio": 0.90, "subset": "D70"}, "sis", "LPIPS", 0.5970),
        ("Table 3", {"corpus": "git10m", "method": "full"}, "generation", "FID", 127.8932),
        ("Table 3", {"corpus": "rs5m", "ratio": 0.30}, "generation", "FID", 81.9246),
        ("Table 4", {"method": "entropy-set"}, "clustering", "seconds", 308.4),
        ("Table 4", {"reference": "single, 45 classes"}, "generation", "FID", 60.14),
        ("Table 4", {"reference": "5 datasets"}, "clustering", "sample_size", "55,605"),
        ("Table 4", full, "clustering", "feature_dimension", 1024),
    ]  # fmt: skip
    for table, family, task, metric, value in typed:
        cell = paper_cell(paper_cells(table), family, task, metric)
        assert cell is not None and cell["value"] == value, (table, family)
    references = Counter(cell["reference"] for cell in paper_cells("Table 4"))
    assert len(references) == 6 and set(references.values()) == {5}
    for table in counts:
        for cell in paper_cells(table):
            if cell["metric"] in ("FID", "LPIPS"):
                assert {"corpus", "method", "ratio", "task", "value", "steps"} <= set(cell)
    assert [amount(value) for value in ("10.5 million", "2,100", "about 50000", 61.69)] == [
        10.5e6, 2100.0, None, 61.69,
    ]  # fmt: skip
    with pytest.raises(UserError, match="the paper has no 'Table 5'; known: Table 1, Table 2"):
        paper_cells("Table 5")
