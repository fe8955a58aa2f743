"""Command lines: flags, YAML defaults, unknown keys, science apart from machine settings."""

from __future__ import annotations

import dataclasses
import errno
from pathlib import Path
from typing import Literal

import pytest

from data.cli import machine, parse, run, science
from data.errors import UserError


@dataclasses.dataclass(frozen=True)
class Config:
    """A stage."""

    out: Path
    """Output folder."""
    ratio: float = 0.85
    """Share thrown away (Sec. 4)."""
    arms: tuple[str, ...] = ("a", "b")
    """Names."""
    workers: int = machine(2)
    """Processes (machine setting)."""


def cli(*arguments: str) -> Config:
    return parse(Config, arguments, prog="test", description="A test.")


def test_flags_override_yaml_and_yaml_overrides_defaults(tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text("ratio: 0.5\nout: here\narms: [x]\n")
    config = cli("--config", str(tmp_path / "c.yaml"), "--ratio", "0.7")
    assert config == Config(Path("here"), 0.7, ("x",))


def test_unknown_keys_and_bad_files_are_errors(tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text("ration: 0.5\n")
    with pytest.raises(UserError, match=r"unknown key 'ration'; did you mean 'ratio'\?"):
        cli("--config", str(tmp_path / "c.yaml"))
    with pytest.raises(UserError, match="no such file"):
        cli("--config", str(tmp_path / "absent.yaml"))
    (tmp_path / "c.yaml").write_text("- 1\n")
    with pytest.raises(UserError, match="expected 'key: value'"):
        cli("--config", str(tmp_path / "c.yaml"))
    with pytest.raises(SystemExit):
        cli("--ration", "0.5", "--out", "here")


def test_a_required_field_missing_everywhere_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text("ratio: 0.5\n")
    with pytest.raises(SystemExit):
        cli("--config", str(tmp_path / "c.yaml"))


def test_science_leaves_out_machine_settings_and_paths() -> None:
    assert science(Config(Path("x"), workers=8)) == {"ratio": 0.85, "arms": ["a", "b"]}


def test_help_shows_the_field_docstrings(capsys) -> None:
    with pytest.raises(SystemExit) as stop:
        cli("--help")
    assert stop.value.code == 0
    assert "Share thrown away (Sec. 4)." in capsys.readouterr().out


def test_user_errors_end_with_a_line_and_code_2(capsys) -> None:
    def fail() -> int:
        raise UserError("file x: value y; do z")

    with pytest.raises(SystemExit) as stop:
        run(fail)
    assert stop.value.code == 2
    assert capsys.readouterr().err == "error: file x: value y; do z\n"


def test_yaml_values_have_the_fields_types(tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"

    def load(text: str) -> Typed:
        path.write_text(text)
        return parse(Typed, ["--config", str(path)], prog="test", description="A test.")

    got = load("rate: 1e-4\nsteps: 3\nsides: [1, 2]\nscores: here\nlimit: null\n")
    assert got == Typed(1e-4, 3, True, "constant", (1, 2), Path("here"), None)
    assert load("scores: null\nrate: 2\n") == Typed(2.0)
    for text, message in {
        "rate: fast": "rate: 'fast', expected a number",
        "rate: true": "rate: True, expected a number",
        "steps: 3.5": "steps: 3.5, expected a whole number",
        "steps: null": "steps: None, expected a whole number",
        "flip: 'no'": "flip: 'no', expected true or false",
        "schedule: cosin": "schedule: 'cosin', expected one of constant, cosine",
        "sides: 3": "sides: 3, expected a list",
        "sides: [a]": "sides: .*, expected a whole number",
        "scores: 3": "scores: 3, expected text or null",
    }.items():
        with pytest.raises(UserError, match=rf"c\.yaml: {message}"):
            load(text)


@dataclasses.dataclass(frozen=True)
class Typed:
    """Fields of every kind."""

    rate: float = 0.1
    steps: int = 1
    flip: bool = True
    schedule: Literal["constant", "cosine"] = "constant"
    sides: tuple[int, ...] = ()
    scores: Path | None = None
    limit: int | None = None


def test_what_the_system_refuses_is_one_line_with_a_way_out(tmp_path: Path, capsys) -> None:
    (tmp_path / "file").touch()

    def full() -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    actions = {
        "file/x: Not a directory; a file lies": lambda: (tmp_path / "file/x").mkdir(),
        "file: File exists; a file lies": lambda: (tmp_path / "file").mkdir(),
        "absent: No such file or directory; look at": lambda: (tmp_path / "absent").read_text(),
        "No space left on device; make room": full,
    }
    for message, action in actions.items():
        with pytest.raises(SystemExit) as ended:
            run(action)  # type: ignore[arg-type]
        assert ended.value.code == 2
        shown = capsys.readouterr().err
        assert shown.startswith("error: ") and message in shown and shown.count("\n") == 1
    with pytest.raises(OSError, match="wires"):  # anything else is a fault of ours
        run(lambda: (_ for _ in ()).throw(OSError(errno.EIO, "wires")))
