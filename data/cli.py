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
import os
import sys
import types
import typing
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar, cast

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
    except yaml.YAMLError as error:
        raise UserError(f"{path}: not valid YAML: {error}") from None
    if not isinstance(loaded, dict):
        raise UserError(f"{path}: expected 'key: value' lines, found {type(loaded).__name__}")
    fields = {field.name: field for field in dataclasses.fields(cls)}
    hints = typing.get_type_hints(cls)
    values: dict[str, Any] = {}
    for key, value in loaded.items():
        name = str(key).replace("-", "_")
        if name not in fields:
            near = difflib.get_close_matches(name, fields, n=1)
            hint = f"; did you mean '{near[0]}'?" if near else ""
            raise UserError(f"{path}: unknown key '{key}'{hint} (known: {', '.join(fields)})")
        try:
            values[name] = _typed(value, hints[name])
        except ValueError as error:
            raise UserError(f"{path}: {key}: {value!r}, expected {error}") from None
    return values


def _typed(value: Any, hint: Any) -> Any:
    """What YAML read, as the field's type. Raises ValueError that says what was expected."""
    kind, options = typing.get_origin(hint), typing.get_args(hint)
    if kind in (typing.Union, types.UnionType):
        wanted = []
        for option in options:
            try:
                return _typed(value, option)
            except ValueError as error:
                wanted.append(str(error))
        raise ValueError(" or ".join(wanted))
    if kind is typing.Literal:
        if value not in options or isinstance(value, bool):
            raise ValueError(f"one of {', '.join(map(str, options))}")
        return value
    if kind is tuple:
        if not isinstance(value, list):
            raise ValueError("a list")
        return tuple(_typed(part, options[0]) for part in value)
    if hint is type(None):
        if value is not None:
            raise ValueError("null")
        return None
    if hint is float and isinstance(value, str):  # YAML takes 1e-4, without a point, for text
        with contextlib.suppress(ValueError):
            return float(value)
    names = {bool: "true or false", int: "a whole number", float: "a number"}
    accepted: Any = {float: (int, float), Path: str}.get(hint, hint)
    if not isinstance(value, accepted) or (isinstance(value, bool) and hint is not bool):
        raise ValueError(names.get(hint, "text"))
    return hint(value)


_PLACE = "give another path"
_WAYS_OUT = {
    errno.ENOENT: "look at the path",
    errno.EACCES: "make it accessible to you, or " + _PLACE,
    errno.EPERM: "make it accessible to you, or " + _PLACE,
    errno.EROFS: _PLACE,
    errno.EEXIST: "a file lies where a folder is needed; " + _PLACE,
    errno.ENOTDIR: "a file lies where a folder is needed; " + _PLACE,
    errno.EISDIR: "a folder lies where a file is needed; " + _PLACE,
    errno.ENAMETOOLONG: _PLACE,
    errno.ENOSPC: "make room there and run the same command again",
    errno.EDQUOT: "make room there and run the same command again",
    errno.EFBIG: "raise the limit on a file's size (ulimit -f) and run the same command again",
    errno.EMFILE: "raise the limit on open files (ulimit -n) and run the same command again",
}


def run(main: Callable[[], int | None]) -> None:
    """Run a command's main: UserError becomes 'error: ...' and exit code 2.

    So does what the system refuses for a reason that the user can mend (no room, no such file,
    no right to write).
    """
    try:
        code = main()
        sys.stdout.flush()
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        code = 2
    except BrokenPipeError:  # `... | head`: nobody reads on
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 141
    except OSError as error:
        if error.errno not in _WAYS_OUT:
            raise
        where = f"{error.filename}: " if error.filename is not None else ""
        print(f"error: {where}{error.strerror}; {_WAYS_OUT[error.errno]}", file=sys.stderr)
        code = 2
    except KeyboardInterrupt:
        print("interrupted; run the same command again to continue", file=sys.stderr)
        code = 130
    sys.exit(code or 0)
