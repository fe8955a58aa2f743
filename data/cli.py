"""Command lines from flat dataclasses: --help, --config FILE.yaml, errors without tracebacks.

A stage's configuration is one flat dataclass. Its fields are of three kinds: science (the
default; part of the stage's identity), machine (declared with `machine()`: workers, batch per
device, precision; they change speed, never the meaning) and places: paths, and strings that say
where something is, declared with `dataclasses.field(metadata=LOCATION)`.
"""

from __future__ import annotations

import contextlib
import dataclasses
import difflib
import errno
import io
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, TypeVar, Union, cast, get_args, get_origin, get_type_hints

from data.errors import UserError

T = TypeVar("T")

LOCATION = {"location": True}
"""Metadata of a str field that says where something is, such as what `open_corpus` takes."""


def machine(default: Any) -> Any:
    """Declare a dataclass field that does not change the result's meaning."""
    return dataclasses.field(default=default, metadata={"machine": True})


def science(config: Any) -> dict[str, Any]:
    """The fields that make up a stage's identity: neither machine settings nor places."""
    values = {}
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if {"machine", "location"} & set(field.metadata) or "Path" in str(field.type):
            continue
        values[field.name] = list(value) if isinstance(value, tuple) else value
    return values


def parse(cls: type[T], argv: Sequence[str] | None = None, *, prog: str, description: str) -> T:
    """Parse a command line into `cls`; `--config FILE.yaml` supplies defaults for it.

    Raises UserError for a missing file, a key that `cls` does not have, or a file that is no
    mapping. A bad flag prints usage and exits with 2 (argparse's habit).
    """
    import tyro

    arguments = list(sys.argv[1:] if argv is None else argv)
    defaults: dict[str, Any] = {}
    if "--config" in arguments:
        at = arguments.index("--config")
        if at + 1 >= len(arguments):
            raise UserError("--config needs a YAML file, for example --config my.yaml")
        defaults = _load_yaml(cls, Path(arguments[at + 1]))
        del arguments[at : at + 2]
    missing = {
        field.name: tyro.MISSING
        for field in dataclasses.fields(cls)  # type: ignore[arg-type]
        if field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
    }
    default = cls(**{**missing, **defaults}) if defaults else None
    parsed: Any = tyro.cli(
        cls,
        args=arguments,
        default=default,
        prog=prog,
        description=description + "\n\n--config FILE.yaml sets defaults; flags override them.",
    )
    return cast(T, parsed)


def _load_yaml(cls: type, path: Path) -> dict[str, Any]:
    import yaml

    try:
        loaded = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    except FileNotFoundError:
        raise UserError(f"{path}: no such file (--config)") from None
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: not a text file that can be read ({error}) (--config)") from None
    except yaml.YAMLError as error:
        raise UserError(f"{path}: not valid YAML: {error}") from None
    if not isinstance(loaded, dict):
        raise UserError(f"{path}: expected 'key: value' lines, found {type(loaded).__name__}")
    fields = [field.name for field in dataclasses.fields(cls)]
    kinds = get_type_hints(cls)
    values: dict[str, Any] = {}
    for key, value in loaded.items():
        name = str(key).replace("-", "_")
        if name not in fields:
            near = difflib.get_close_matches(name, fields, n=1)
            hint = f"; did you mean '{near[0]}'?" if near else ""
            raise UserError(f"{path}: unknown key '{key}'{hint} (known: {', '.join(fields)})")
        try:
            values[name] = _typed(value, kinds[name])
        except (TypeError, ValueError):
            raise UserError(f"{path}: {key}: {value!r} is not {_kind(kinds[name])}") from None
    return values


def _typed(value: Any, kind: Any) -> Any:
    """A YAML value as the command line would have read it. ValueError, TypeError: it cannot be.

    YAML has 1e-4 as text, and keeps a whole number apart from a float; a single value stands for
    a list of one.
    """
    choices = get_args(kind)
    if get_origin(kind) is Literal and value in choices:
        return value
    if get_origin(kind) in (Union, UnionType):
        for choice in choices:
            with contextlib.suppress(TypeError, ValueError):
                return _typed(value, choice)
        raise ValueError
    if get_origin(kind) is tuple:
        return tuple(_typed(item, choices[0]) for item in _listed(value))
    if (kind is bool and isinstance(value, bool)) or (kind is NoneType and value is None):
        return value
    if kind is int and isinstance(value, float):
        raise ValueError
    plain = isinstance(value, int | float | str) and not isinstance(value, bool)
    if plain and kind in (int, float, str, Path):
        return kind(value if kind in (int, float) else str(value))
    raise ValueError


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def _kind(kind: Any) -> str:
    """A type for a human: "one of 'jpeg', 'rgb'"."""
    if get_origin(kind) is Literal:
        return f"one of {', '.join(map(repr, get_args(kind)))}"
    return getattr(kind, "__name__", str(kind)) if not get_args(kind) else str(kind)


_FULL = "make room and run the same command again to continue"
_PATH = "choose another path, or remove what is in its way"
_DISK = "the disk or the network drive failed; run the same command again to continue"
_REMEDIES = {
    errno.ENOSPC: _FULL,
    errno.EDQUOT: _FULL,
    errno.EFBIG: "raise the limit on the size of a file (ulimit -f) and run the same command again",
    errno.EMFILE: "raise the limit on open files (ulimit -n) and run the same command again",
    errno.EACCES: "give yourself the permission, or choose another path",
    errno.EPERM: "give yourself the permission, or choose another path",
    errno.EROFS: "choose a path that can be written",
    errno.ENOENT: "was it moved or deleted meanwhile?",
    errno.EEXIST: _PATH,
    errno.EISDIR: _PATH,
    errno.ENOTDIR: _PATH,
    errno.ELOOP: _PATH,
    errno.ENAMETOOLONG: _PATH,
    errno.EIO: _DISK,
    errno.ESTALE: _DISK,
}
"""What the system may refuse and the user can mend, and how."""


def _refusal(error: OSError) -> str | None:
    """What to tell the user about an error of the system; None where it is not theirs to mend."""
    number = error.errno
    if number is None and " requested and " in str(error):  # NumPy's words for a full disk
        number = errno.ENOSPC
    if number not in _REMEDIES:
        return None
    where = "" if error.filename is None else f"{os.fspath(error.filename)}: "
    return f"{where}{os.strerror(number)}; {_REMEDIES[number]}"


def run(main: Callable[[], int | None]) -> None:
    """Run a command's main: UserError becomes 'error: ...' and exit code 2.

    So does what the system refuses and the user can mend: a full disk, a missing permission.
    """
    if isinstance(sys.stdout, io.TextIOWrapper):  # names that the terminal cannot show
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        code = main()
        if sys.stdout is not None:  # closed by who started this
            sys.stdout.flush()
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        code = 2
    except BrokenPipeError:  # `... | head`: nobody reads on
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 141
    except OSError as error:
        if (refusal := _refusal(error)) is None:
            raise
        print(f"error: {refusal}", file=sys.stderr)
        code = 2
    except KeyboardInterrupt:
        print("interrupted; run the same command again to continue", file=sys.stderr)
        code = 130
    sys.exit(code or 0)
