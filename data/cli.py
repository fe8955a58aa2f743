"""Command lines from flat dataclasses: --help, --config FILE.yaml, errors without tracebacks.

A stage's configuration is one flat dataclass. Its fields are of three kinds: science (the
default; part of the stage's identity), machine (declared with `machine()`: workers, batch per
device, precision; they change speed, never the meaning) and places: paths, and strings that say
where something is, declared with `dataclasses.field(metadata=LOCATION)`.
"""

from __future__ import annotations

import dataclasses
import difflib
import errno
import io
import os
import sys
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
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: not a text file that can be read ({error}) (--config)") from None
    except yaml.YAMLError as error:
        raise UserError(f"{path}: not valid YAML: {error}") from None
    if not isinstance(loaded, dict):
        raise UserError(f"{path}: expected 'key: value' lines, found {type(loaded).__name__}")
    fields = {field.name: field for field in dataclasses.fields(cls)}
    values: dict[str, Any] = {}
    for key, value in loaded.items():
        name = str(key).replace("-", "_")
        if name not in fields:
            near = difflib.get_close_matches(name, fields, n=1)
            hint = f"; did you mean '{near[0]}'?" if near else ""
            raise UserError(f"{path}: unknown key '{key}'{hint} (known: {', '.join(fields)})")
        kind = str(fields[name].type)
        if "Path" in kind and isinstance(value, str):
            value = Path(value)
        elif isinstance(value, list):
            value = tuple(value)
        values[name] = value
    return values


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
