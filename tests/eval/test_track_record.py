"""The record of a track by itself: truncated lines, foreign lines, the picture's curves."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest

import eval.records.curves
from core.errors import UserError
from eval.records.curves import draw
from eval.records.record import append, read_lines, repair, up_to_date

LINE = {"step": 1, "samples": 8, "weights": "ema", "checkpoint": "c", "distance": None,
        "extractor": {}}  # fmt: skip


@pytest.mark.parametrize("torn", [b'{"step": 2', b'{"step": 2, "x\xc3', b"\0\0\0", b"\0\0\n"])
def test_a_truncated_end_is_left_out_and_cut_away(tmp_path: Path, torn: bytes) -> None:
    record = tmp_path / "track.jsonl"
    append(record, LINE)
    complete = record.read_bytes()
    record.write_bytes(complete + torn)
    assert read_lines(record) == ([LINE], len(complete))
    assert record.read_bytes() == complete + torn  # reading changes nothing
    assert repair(record) == [LINE] and record.read_bytes() == complete
    append(record, {**LINE, "step": 2})
    assert [line["step"] for line in read_lines(record)[0]] == [1, 2]


def test_other_lines_are_refused_by_number(tmp_path: Path) -> None:
    record = tmp_path / "track.jsonl"
    assert read_lines(record) == ([], 0) and repair(record) == []
    good = json.dumps(LINE)
    for foreign in (f"{good}\nwhat\n{good}\n", f'{good}\n{{"step": 1}}\n'):
        record.write_text(foreign)
        with pytest.raises(UserError, match="line 2 is no line"):
            repair(record)
        assert record.read_text() == foreign


def test_a_picture_older_than_the_record_is_known(tmp_path: Path) -> None:
    record, picture = tmp_path / "track.jsonl", tmp_path / "track.png"
    assert up_to_date(picture, record)
    append(record, LINE)
    assert not up_to_date(picture, record)
    draw([LINE], picture, "no distance yet")
    assert up_to_date(picture, record) and picture.read_bytes().startswith(b"\x89PNG")


def test_the_picture_has_both_curves_and_honest_names(tmp_path, monkeypatch):
    figures: list[Any] = []
    keep = lambda figure, _: figures.append(figure)  # noqa: E731
    monkeypatch.setattr(eval.records.curves, "save_figure", keep)

    def line(step: int, weights: str, value: float | None) -> dict[str, Any]:
        distance = value and {"name": "FID", "value": value, "kernel_name": "KID"}
        return {"step": step, "weights": weights, "distance": distance and {
            **distance, "kernel_value": value / 100}}  # fmt: skip

    measured = [line(10, "ema", 8.0), line(20, "ema", 5.0), line(10, "raw", 7.0)]
    measured += [line(30, "ema", None), line(20, "ema", 4.0), line(5, "ema", 90.0)]
    draw(measured, tmp_path / "track.png", "a title")
    frechet, kernel = figures[0].axes
    assert "FID" in frechet.get_ylabel() and "KID" in kernel.get_ylabel()
    assert kernel.get_xlabel() == "training steps" and frechet.get_title(loc="left") == "a title"
    average, raw = frechet.get_lines()
    assert "EMA" in average.get_label() and "raw" in raw.get_label()
    assert average.get_xdata().tolist() == [5, 10, 20, 30] and raw.get_ydata().tolist() == [7.0]
    assert average.get_ydata()[:3].tolist() == [90.0, 8.0, 4.0]
    assert math.isnan(average.get_ydata()[3])
    assert kernel.get_lines()[0].get_ydata()[2] == 0.04
    assert frechet.get_yscale() == "log"


def test_the_picture_tells_hold_outs_apart_and_draws_the_loss(tmp_path, monkeypatch):
    figures: list[Any] = []
    keep = lambda figure, _: figures.append(figure)  # noqa: E731
    monkeypatch.setattr(eval.records.curves, "save_figure", keep)

    def distance(value: float) -> dict[str, Any]:
        return {"name": "FID", "value": value, "kernel_name": "KID", "kernel_value": value / 10}

    old = {"step": 1, "weights": "ema", "distance": distance(9.0)}
    held = {"pool": distance(8.0), "informative": distance(6.0)}
    new = {"step": 2, "weights": "ema", "distance": held["pool"], "distances": held}
    new["loss"] = {"pool": {"loss": 0.5}, "informative": {"loss": 0.4}}
    diverged = {"step": 3, "weights": "ema", "distance": None, "distances": None, "loss": None}
    draw([old, new, diverged], tmp_path / "track.png", "a title")
    frechet, kernel, loss = figures[0].axes
    pool, informative = frechet.get_lines()
    assert pool.get_label().endswith(", pool")
    assert pool.get_linestyle() != informative.get_linestyle()
    assert pool.get_ydata()[:2].tolist() == [9.0, 8.0] and informative.get_ydata()[1] == 6.0
    assert kernel.get_lines()[1].get_ydata()[1] == 0.6
    assert math.isnan(informative.get_ydata()[0]) and math.isnan(pool.get_ydata()[2])
    assert loss.get_lines()[0].get_ydata()[1] == 0.5 and "loss" in loss.get_ylabel()
    assert math.isnan(loss.get_lines()[0].get_ydata()[0])
