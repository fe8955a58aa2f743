"""eval.sensitivity: draws that share no image, and which metrics tell changed classes apart."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from core.errors import UserError
from eval.sensitivity import SensitivityConfig, run
from eval.studies.sensitivity import _plan, summary
from world.paint.tiles import render

SCENES = ("sea", "forest", "fields", "suburb", "city")


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("scenes")
    for name in SCENES:
        (root / name).mkdir()
        for i in range(24):
            Image.fromarray(render(name, 0, i, 32).rgb).save(root / name / f"{i}.png")
    return root


def config(scenes: Path, out: Path, **more: object) -> SensitivityConfig:
    return SensitivityConfig(
        images=str(scenes), out=out, n=(10, 500), draws=2, extractor="descriptor", **more
    )


def test_metrics_of_real_draws_are_written(scenes: Path, tmp_path: Path) -> None:
    result = run(config(scenes, tmp_path / "out"))
    found = json.loads((tmp_path / "out" / "sensitivity.json").read_text())
    assert (found["images"], found["classes"], found["removed"]) == (120, 5, 1)
    small, large = found["counts"]
    # 500 a side there cannot be; the largest number is taken, and said.
    assert small["n"] == 10 and 40 <= large["n"] < 60 and large["asked"] == 500
    assert result.summary["counts"] == [10, large["n"]]
    text = (tmp_path / "out" / "sensitivity.md").read_text()
    assert "500 were asked for" in text and "| KD-descriptor |" in text
    coverage = large["metrics"]["coverage"]
    assert coverage["changed"]["value"] < coverage["same"]["value"]
    assert large["metrics"]["fd_extrapolated"]["separated"] is None
    for draw in large["draws"]:
        gone, kept = (draw["classes_changed"][group] for group in ("removed", "kept"))
        assert gone["generated_to_real"] < 0.5 < kept["generated_to_real"]
    assert run(config(scenes, tmp_path / "out")).reused


def test_draws_share_no_image_and_lack_the_removed_classes(scenes: Path, tmp_path: Path) -> None:
    labels = np.repeat(SCENES, 24)
    settings = config(scenes, tmp_path, removed=0.4)
    first, second = _plan(labels, 20, settings)
    assert first["removed"] != second["removed"] or list(first["real"]) != list(second["real"])
    for draw in (first, second):
        for kind in ("same", "changed"):
            assert len(draw["real"]) == len({*draw[kind]}) == 20
            assert not {*draw["real"]} & {*draw[kind]}
        assert not {*draw["removed"]} & {*labels[draw["changed"]]}
        assert {*draw["removed"]} & {*labels[draw["same"]]}


def test_summary_counts_what_it_says() -> None:
    def row(same: list[float], changed: list[float]) -> dict[str, object]:
        return {
            kind: {"kernel": {"name": "KD", "value": v[1], "interval_95": [v[0], v[2]]},
                   "recall": {"name": "recall", "value": -v[1], "interval_95": [-v[2], -v[0]]},
                   "fd_extrapolated": {"name": "FD", "value": v[1]}}
            for kind, v in (("same", same), ("changed", changed))
        }  # fmt: skip

    rows = [row([0, 1, 2], [2.5, 3, 4]), row([1, 2, 3], [1, 1.5, 3]), row([3, 4, 5], [4, 5, 6])]
    for key, entry in summary(rows).items():
        assert entry["ordered"] == 2, key
        # 3, 1.5 and 5 against 1, 2 and 4: above in 2, 1 and 3 of the pairs.
        assert entry["pairs"] == pytest.approx(6 / 9)
        assert entry["separated"] == (None if key == "fd_extrapolated" else 1)
    assert summary(rows)["kernel"]["same"]["interval_95"] == pytest.approx([4 / 3, 10 / 3])


def test_bad_input_is_refused_before_anything_is_written(scenes: Path, tmp_path: Path) -> None:
    for bad, match in (
        ({"removed": 0.95}, "leaves none"),
        ({"seed": -1}, "--seed -1"),
    ):
        with pytest.raises(UserError, match=match):
            run(config(scenes, tmp_path / "out", **bad))
    one = tmp_path / "few"
    for name in ("a", "b"):
        (one / name).mkdir(parents=True)
        for i in range(8):
            Image.fromarray(render("sea", 0, i, 16).rgb).save(one / name / f"{i}.png")
    with pytest.raises(UserError, match="16 images are too few"):
        run(config(one, tmp_path / "out"))
    assert not (tmp_path / "out").exists()


def test_an_image_that_cannot_be_read_is_named(scenes: Path, tmp_path: Path) -> None:
    root = tmp_path / "scenes"
    for name in ("a", "b"):
        (root / name).mkdir(parents=True)
        for i in range(30):
            Image.fromarray(render("sea", 0, i, 16).rgb).save(root / name / f"{i}.png")
    (root / "b" / "3.png").write_bytes(b"no image")
    with pytest.raises(UserError, match=r"b/3.png: .*take it out"):
        run(config(root, tmp_path / "out"))
