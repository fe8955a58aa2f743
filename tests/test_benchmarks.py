"""The benchmarks run: they are not in the way of any user, so nothing else would tell."""

from __future__ import annotations

import importlib
import sys

import pytest

SMALL = {
    "assignment": ["--rows", "5000"],
    "train": ["--model", "DiT-mini/4", "--batch", "2", "--steps", "1"],
    "vae": ["--batch", "4", "--encode-batch", "2", "--steps", "1"],
}


@pytest.mark.parametrize("name", SMALL)
def test_a_benchmark_prints_its_ratio(name, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(sys, "argv", [name, "--repeats", "1", *SMALL[name]])
    assert not importlib.import_module(f"benchmarks.{name}").main()
    printed = capsys.readouterr().out
    assert "machine: " in printed and ("ratio" in printed or "ours / plain" in printed)
