"""Profiles: sizes, flags and costs of the stages, and where data come from (profiles.yaml)."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from core.errors import UserError

CHIP = 256  # pixels a side: what rasters are cut into where nothing is said
FILE = Path(__file__).with_name("profiles.yaml")


@dataclass(frozen=True)
class Profile:
    """A profile with what the environment changes of it.

    Attributes:
        name: mini, small or paper.
        settings: one value for each thing to turn.
        flags, machine: command, or command and part, -> its flags.
        corpora, references, tasks: name -> where it comes from.
        worlds: name of one of these -> the miniature world that stands in for it.
        costs: command -> seconds to start and an item.
        changed: settings that the environment gave, by their names there.
    """

    name: str
    settings: dict[str, Any]
    flags: dict[str, dict[str, Any]]
    machine: dict[str, dict[str, Any]]
    corpora: dict[str, dict[str, Any]]
    references: dict[str, dict[str, Any]]
    tasks: dict[str, dict[str, Any]]
    worlds: dict[str, dict[str, Any]]
    costs: dict[str, dict[str, float]]
    changed: dict[str, str]

    def place(self, kind: str, name: str) -> str | None:
        """What the environment says of a corpus, reference or task: its specification, or None."""
        about = getattr(self, kind)[name]
        value = self.environment.get(about["variable"])
        if not value:
            return None
        prefix = about.get("prefix", "")
        if about.get("chips") and "?" in value:
            return value  # how it is cut is said
        if prefix and ":" not in value:
            value = prefix + value
            if about.get("chips"):
                value += self.cut
        return value

    @property
    def cut(self) -> str:
        """The option of rasters that are cut into chips of the image size; '' for 256 pixels."""
        size = self.settings["image_size"]
        return "" if size == CHIP else f"?chip={size}"

    @property
    def environment(self) -> Mapping[str, str]:
        """The variables of the environment."""
        return os.environ


def profile_names() -> list[str]:
    """The profiles there are."""
    return [name for name in _read() if name != "common"]


def load_profile(name: str) -> Profile:
    """The profile, with the environment's changes.

    Raises UserError for an unknown profile, and for a variable of the environment whose value is
    not of the setting's kind.
    """
    everything = _read()
    if name not in profile_names():
        raise UserError(f"PROFILE={name}: expected {', '.join(profile_names())}")
    found = everything[name]
    if "extends" in found:
        found = _merged(everything[found["extends"]], found)
    changed: dict[str, str] = {}
    settings = {key: _resolved(value) for key, value in found["settings"].items()}
    for key, value in settings.items():
        given = os.environ.get(key.upper(), "")
        if given:
            settings[key] = _like(value, given, key.upper())
            changed[key.upper()] = given
    _check(settings)
    flags = {
        command: {flag: _resolved(value) for flag, value in there.items()}
        for command, there in found["flags"].items()
    }
    common = everything["common"]
    return Profile(
        name, settings, flags, found["machine"], common["corpora"], common["references"],
        common["tasks"], found["worlds"], found["costs"], changed,
    )  # fmt: skip


def _read() -> dict[str, Any]:
    return dict(yaml.safe_load(FILE.read_text(encoding="utf-8")))


def _merged(below: dict[str, Any], above: dict[str, Any]) -> dict[str, Any]:
    """The settings of one profile over those of another; flags of a command replace all of them."""
    return {
        key: {**below[key], **above.get(key, {})} if isinstance(below[key], dict) else below[key]
        for key in below
    }


def _resolved(value: Any) -> Any:
    """'${NAME:-default}' is the variable of the environment, or the default."""
    if isinstance(value, str) and (match := re.fullmatch(r"\$\{(\w+):-(.*)\}", value)):
        return os.environ.get(match.group(1)) or match.group(2)
    return value


def _like(value: Any, given: str, name: str) -> Any:
    """A text from the environment as a value of the same kind."""
    try:
        if isinstance(value, bool):
            return {"yes": True, "no": False, "1": True, "0": False}[given.lower()]
        if isinstance(value, list):
            words = given.split()
            return [int(word) for word in words] if isinstance(value[0], int) else words
        return type(value)(given)
    except (ValueError, KeyError):
        kind = "yes or no" if isinstance(value, bool) else f"like {value!r}"
        raise UserError(f"{name}={given}: expected a value {kind}") from None


def _check(settings: dict[str, Any]) -> None:
    for name in ("holdout", "image_size", "clusters", "steps", "batch", "tune_steps"):
        if settings[name] < 1:
            raise UserError(f"{name.upper()}={settings[name]}: must be at least 1")
    if not settings["seeds"] or min(settings["seeds"]) < 0:
        raise UserError(f"SEEDS={settings['seeds']}: give seeds of at least 0")
    if len(set(settings["seeds"])) < len(settings["seeds"]):
        raise UserError(f"SEEDS={settings['seeds']}: one of them is given twice")
    rules = ("last", "best-validation", "best-test")
    if unknown := [rule for rule in settings["checkpoints"] if rule not in rules]:
        raise UserError(f"CHECKPOINTS={unknown[0]}: expected of {', '.join(rules)}")
