"""Command lines: flags, YAML defaults, unknown keys, science apart from machine settings."""

from __future__ import annotations

import dataclasses
import errno
import subprocess
import sys
from pathlib import Path
from typing import Literal

import pytest

from core.command import execute
from core.errors import UserError
from core.settings import AtLeast1, Fraction, Seed, machine, parse, science, settings


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
        execute(fail)
    assert stop.value.code == 2
    assert capsys.readouterr().err == "error: file x: value y; do z\n"


def refused(error: OSError, capsys) -> str:
    def fail() -> int:
        raise error

    with pytest.raises(SystemExit) as stop:
        execute(fail)
    assert stop.value.code == 2
    return capsys.readouterr().err


def test_what_the_system_refuses_is_a_line_with_the_way_out(capsys) -> None:
    full = OSError(errno.ENOSPC, "No space left on device", "/out/part.npy")
    assert refused(full, capsys) == (
        "error: /out/part.npy: No space left on device; "
        "make room and run the same command again to continue\n"
    )
    assert "make room" in refused(OSError("4096 requested and 0 written"), capsys)
    assert "permission" in refused(PermissionError(errno.EACCES, "Permission denied", "x"), capsys)
    with pytest.raises(OSError, match="a fault of ours"):  # not the user's: the traceback stays
        execute(lambda: (_ for _ in ()).throw(OSError("a fault of ours")))


def test_a_config_that_is_no_text(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"Is a directory.*--config"):
        cli("--config", str(tmp_path))
    (tmp_path / "c.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UserError, match=r"c\.yaml: not a text file"):
        cli("--config", str(tmp_path / "c.yaml"))


def test_a_terminal_that_knows_ascii_alone() -> None:
    code = "from core.command import execute\nexecute(lambda: print('caf\\xe9 \\udce9'))"
    shown = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, check=False,
        env={"PYTHONIOENCODING": "ascii"},
    )  # fmt: skip
    assert (shown.returncode, shown.stdout) == (0, b"caf\\xe9 \\udce9\n"), shown.stderr


@dataclasses.dataclass(frozen=True)
class Typed:
    """Fields of every type that commands have."""

    rate: float = 1.0
    """A number."""
    side: int = 2
    """A whole number."""
    luma: Literal["jpeg", "rgb"] = "jpeg"
    """A choice."""
    place: Path | None = None
    """A place, or none."""
    flag: bool = False
    """Yes or no."""
    ratios: tuple[float, ...] = (0.5,)
    """Numbers."""


def typed(tmp_path: Path, text: str) -> Typed:
    (tmp_path / "c.yaml").write_text(text)
    return parse(Typed, ["--config", str(tmp_path / "c.yaml")], prog="test", description="")


def test_yaml_values_are_what_the_command_line_would_have_read(tmp_path: Path) -> None:
    text = "rate: 1e-4\nside: '3'\nluma: rgb\nplace: 5\nflag: true\nratios: 1\n"
    config = typed(tmp_path, text)
    assert config == Typed(1e-4, 3, "rgb", Path("5"), True, (1.0,))
    assert repr(typed(tmp_path, "rate: 2\nratios: [1, 0.5]\nplace: null\n")) == repr(
        Typed(2.0, ratios=(1.0, 0.5))
    )


@pytest.mark.parametrize("line", [
    "rate: fast", "rate: true", "rate: null", "rate: [1]", "side: 3.5", "side: abc", "luma: foo",
    "place: [a, b]", "flag: yes please", "flag: 1", "ratios: [0.5, x]", "ratios: {a: 1}",
])  # fmt: skip
def test_yaml_values_of_another_type_are_refused_by_name(tmp_path: Path, line: str) -> None:
    with pytest.raises(UserError, match=rf"c\.yaml: {line.split(':')[0]}: .* is not "):
        typed(tmp_path, line + "\n")


def test_help_shows_the_range_of_a_setting(capsys) -> None:
    @settings
    class Ranged:
        """A stage with ranges."""

        workers: AtLeast1 = machine(2)
        """Processes."""
        keep: Fraction = 0.5
        """Kept."""

    with pytest.raises(SystemExit):
        parse(Ranged, ["--help"], prog="test", description="")
    shown = " ".join(capsys.readouterr().out.replace("│", " ").split())
    assert "(default: 2; at least 1)" in shown and "(default: 0.5; above 0, at most 1)" in shown
    with pytest.raises(UserError, match="--workers 0: input should be greater than or equal to 1"):
        parse(Ranged, ["--workers", "0"], prog="test", description="")


def test_help_shows_whole_numbers_as_such(capsys):
    @settings
    class Seeded:
        seed: Seed = 0
        share: Fraction = 0.5

    with pytest.raises(SystemExit):
        parse(Seeded, ["--help"], prog="x", description="")
    shown = "".join(capsys.readouterr().out.split())
    assert "below18446744073709551616" in shown and "e+19" not in shown
    assert "atmost1" in shown


def test_a_percentage_for_a_fraction_says_what_was_meant():
    @settings
    class Shares:
        keep: Fraction = 0.5

    with pytest.raises(UserError, match=r"--keep 30: .*a fraction is meant: 0\.3 is 30 %"):
        Shares(keep=30)
    with pytest.raises(UserError, match=r"--keep 0: ") as error:
        Shares(keep=0)
    assert "fraction is meant" not in str(error.value)
