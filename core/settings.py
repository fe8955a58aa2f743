"""Settings of stages: flat dataclasses with ranges, read from flags and from YAML.

    @settings
    class ScoreConfig:
        corpus: str = place()
        out: Path
        min_side: AtLeast1 = 16
        workers: AtLeast1 = machine(available_cpus())

A stage's configuration is one flat dataclass, checked by pydantic wherever it is made: from a
command line, from `--config FILE.yaml` or in Python. Its fields are of three kinds: science (the
default; part of the stage's fingerprint), machine (declared with `machine()`: workers, batch per
device, precision; they change speed, never the meaning) and places: paths, and strings that say
where something is, declared with `place()`.
"""

from __future__ import annotations

import contextlib
import dataclasses
import difflib
import functools
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from types import UnionType
from typing import (
    Annotated,
    Any,
    Literal,
    TypeVar,
    Union,
    cast,
    dataclass_transform,
    get_args,
    get_origin,
    get_type_hints,
)

import yaml
from pydantic import ConfigDict, Field, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

from core.errors import UserError

T = TypeVar("T")

AtLeast0 = Annotated[int, Field(ge=0)]
AtLeast1 = Annotated[int, Field(ge=1)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NonNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Fraction = Annotated[float, Field(gt=0, le=1)]
"""In (0, 1]: how much is kept of something."""
Seed = Annotated[int, Field(ge=0, lt=2**64)]


@dataclass_transform(
    frozen_default=True, kw_only_default=True, field_specifiers=(dataclasses.field,)
)
def settings(cls: type[T]) -> type[T]:
    """Make a class a frozen dataclass of named values, which are checked.

    A value of the wrong type or outside its range is a UserError that names it.
    """
    made: Any = dataclass(cls, frozen=True, kw_only=True, config=ConfigDict(extra="forbid"))
    unchecked = made.__init__
    places = {f.name for f in dataclasses.fields(made) if "location" in f.metadata}

    @functools.wraps(unchecked)
    def checked(self: Any, **values: Any) -> None:
        for name in places & set(values):
            if isinstance(values[name], os.PathLike):
                values[name] = os.fspath(values[name])
        try:
            unchecked(self, **values)
        except ValidationError as error:
            raise UserError("\n".join(map(_problem, error.errors()))) from None

    made.__init__ = checked
    return cast(type[T], made)


def _problem(error: Any) -> str:
    """'--workers 0: input should be greater than or equal to 1', of one of pydantic's errors."""
    flag = str(error["loc"][0]).replace("_", "-") if error["loc"] else ""
    if error["type"] == "missing_argument" or error["type"] == "missing":
        return f"--{flag}: is missing"
    if error["type"] == "unexpected_keyword_argument":
        return f"--{flag}: no such setting"
    hint, value = "", error["input"]
    bound = (error.get("ctx") or {}).get(_UPPER.get(error["type"], ""))
    if bound == 1 and isinstance(value, int | float) and 1 < value <= 100:
        hint = f"; a fraction is meant: {value / 100:g} is {value:g} %"
    return f"--{flag} {value}: {error['msg'][:1].lower()}{error['msg'][1:]}{hint}"


_UPPER = {"less_than_equal": "le", "less_than": "lt"}


def machine(default: Any, **metadata: Any) -> Any:
    """Declare a setting that does not change the result's meaning."""
    return dataclasses.field(default=default, metadata={"machine": True, **metadata})


def place(default: Any = dataclasses.MISSING, **metadata: Any) -> Any:
    """Declare a str setting that says where something is, such as what `open_corpus` takes."""
    return dataclasses.field(default=default, metadata={"location": True, **metadata})


def renamed(default: Any, *formerly: str) -> Any:
    """Declare a setting with names that it had before: they are read, with a note."""
    return dataclasses.field(default=default, metadata={"formerly": formerly})


def science(config: Any) -> dict[str, Any]:
    """The fields that make up a stage's fingerprint: neither machine settings nor places."""
    values = {}
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if {"machine", "location"} & set(field.metadata) or "Path" in str(field.type):
            continue
        values[field.name] = list(value) if isinstance(value, tuple) else value
    return values


def parse(cls: type[T], argv: Sequence[str] | None = None, *, prog: str, description: str) -> T:
    """Parse a command line into `cls`; `--config FILE.yaml` supplies defaults for it.

    Raises UserError for a value outside its range, a missing file, a key that `cls` does not
    have, or a file that is no mapping. A bad flag prints usage and exits with 2 (argparse's habit).
    """
    import tyro  # a tenth of a second, which studies that call `run(Config(...))` need not pay

    arguments = list(sys.argv[1:] if argv is None else argv)
    default = None
    if "--config" in arguments:
        at = arguments.index("--config")
        if at + 1 >= len(arguments):
            raise UserError("--config needs a YAML file, for example --config my.yaml")
        # Not checked yet: what is still missing comes from the flags.
        default = cls.__new__(cls)
        for field in dataclasses.fields(cls):  # type: ignore[arg-type]
            lacking = field.default is dataclasses.MISSING
            object.__setattr__(default, field.name, tyro.MISSING if lacking else field.default)
        for name, value in _load_yaml(cls, Path(arguments[at + 1])).items():
            object.__setattr__(default, name, value)
        del arguments[at : at + 2]
    _show_ranges(cls)
    parsed: Any = tyro.cli(
        cls,
        args=[_present_flag(cls, argument) for argument in arguments],
        default=default,
        prog=prog,
        description=f"{description}\n\n--config FILE.yaml sets defaults; flags override them.",
    )
    return cast(T, parsed)


def _show_ranges(cls: type) -> None:
    """Have --help say beside a setting's default which range its type states."""
    import tyro

    for name, field in getattr(cls, "__pydantic_fields__", {}).items():
        range_ = ", ".join(
            f"{text} {value if isinstance(value, int) else format(value, 'g')}"
            for bound in field.metadata
            for kind, text in _BOUNDS.items()
            if (value := getattr(bound, kind, None)) is not None
        )
        if range_:
            hint = functools.partial("(default: {1}; {0})".format, range_)
            shown = tyro.conf.arg(help_behavior_hint=hint)
            cls.__annotations__[name] = Annotated[field.annotation, *field.metadata, shown]


_BOUNDS = {"ge": "at least", "gt": "above", "le": "at most", "lt": "below"}


def _former_names(cls: type) -> dict[str, str]:
    """Former name -> present name of the settings that were renamed."""
    fields: Any = dataclasses.fields(cls)
    return {old: field.name for field in fields for old in field.metadata.get("formerly", ())}


def _present_flag(cls: type, argument: str) -> str:
    """A flag by its present name, with a note where a former one was given."""
    flag, equals, value = argument.partition("=")
    present = _former_names(cls).get(flag.removeprefix("--").replace("-", "_"))
    if not flag.startswith("--") or present is None:
        return argument
    renamed_flag = f"--{present.replace('_', '-')}"
    print(f"note: {flag} is now called {renamed_flag}", file=sys.stderr)
    return renamed_flag + equals + value


def _load_yaml(cls: type, path: Path) -> dict[str, Any]:
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
    kinds = get_type_hints(cls)
    fields = [field.name for field in dataclasses.fields(cls)]
    values: dict[str, Any] = {}
    for key, value in loaded.items():
        name = str(key).replace("-", "_")
        name = _former_names(cls).get(name, name)
        if name not in fields:
            near = difflib.get_close_matches(name, fields, n=1)
            hint = f"; did you mean '{near[0]}'?" if near else ""
            raise UserError(f"{path}: unknown key '{key}'{hint} (known: {', '.join(fields)})")
        try:
            values[name] = _typed(value, kinds[name])
        except ValueError:
            raise UserError(f"{path}: {key}: {value!r} is not {_kind(kinds[name])}") from None
    return values


def _typed(value: Any, kind: Any) -> Any:
    """A YAML value as the command line would have read it. Raises ValueError when it cannot be.

    YAML has 1e-4 as text, and keeps a whole number apart from a float: pydantic converts both.
    Only True and False are booleans, a number stands for its text where text or a path is
    wanted, and a single value for a list of one.
    """
    choices = get_args(kind)
    if get_origin(kind) in (Union, UnionType):
        for choice in choices:
            with contextlib.suppress(ValueError):
                return _typed(value, choice)
        raise ValueError
    if get_origin(kind) is tuple:
        return tuple(_typed(x, choices[0]) for x in (value if isinstance(value, list) else [value]))
    if isinstance(value, bool) != (kind is bool):
        raise ValueError
    if kind in (str, Path) and isinstance(value, int | float):
        value = str(value)
    return TypeAdapter(kind).validate_python(value)


def _kind(kind: Any) -> str:
    """A type for a human: "one of 'jpeg', 'rgb'"."""
    if get_origin(kind) is Literal:
        return f"one of {', '.join(map(repr, get_args(kind)))}"
    return getattr(kind, "__name__", str(kind)) if not get_args(kind) else str(kind)
