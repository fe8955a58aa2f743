"""The list of data sets and weights: data/sources/sources.yaml as objects, checked on reading."""

from __future__ import annotations

import functools
import os
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from core.errors import UserError

LIST = Path(__file__).with_name("sources.yaml")
KINDS = ("corpus", "reference", "downstream", "weights")


@dataclass(frozen=True)
class Hub:
    """Files of a Hugging Face repository.

    Attributes:
        repo: 'owner/name'.
        type: 'dataset' or 'model'.
        revision: commit, or None for the newest.
        files: patterns of the files wanted; empty: all of them.
    """

    repo: str
    type: str
    revision: str | None = None
    files: tuple[str, ...] = ()

    @property
    def command(self) -> str:
        """The same by hand, with Hugging Face's own tool."""
        kind = " --repo-type dataset" if self.type == "dataset" else ""
        at = f" --revision {self.revision}" if self.revision else ""
        return f"hf download {self.repo}{kind}{at} --local-dir FOLDER"


@dataclass(frozen=True)
class File:
    """A file at an address.

    Attributes:
        url, name: where it is, and what it is called here.
        bytes: its size, where published.
        checksum: 'md5:HEX' or 'sha256:HEX' (or its beginning), where published.
    """

    url: str
    name: str
    bytes: int | None = None
    checksum: str | None = None


@dataclass(frozen=True)
class Source:
    """One data set or weight; the fields are explained at the top of data/sources/sources.yaml."""

    name: str
    title: str
    kind: str
    read_by: str
    published: tuple[str, ...]
    size: str
    licence: str
    variable: str | None = None
    task: str | None = None
    bytes: int | None = None
    number_of_files: int | None = None
    images: int | None = None
    bands: int | None = None
    images_about: bool = False
    also_images: tuple[int, ...] = ()
    classes: int | None = None
    per_class: tuple[int, int] | None = None
    sample: int | None = None
    pairs: Mapping[str, int] = field(default_factory=dict)
    pairs_at_most: bool = False
    hub: Hub | None = None
    files: tuple[File, ...] = ()
    checksums: Mapping[str, str] = field(default_factory=dict)
    unpack: bool = False
    place: str | None = None
    found: tuple[str, ...] = ()
    by_hand: str | None = None
    note: str | None = None
    paper: int = 0

    @property
    def folder(self) -> Path:
        """Where it lies, or goes when nothing else is said: where its variable points to, the
        place that its reader looks in, or downloads/NAME."""
        if self.place == "TMP":
            return Path(tempfile.gettempdir())
        if self.place == "TORCH_HUB":
            home = os.environ.get("TORCH_HOME") or Path.home() / ".cache" / "torch"
            return Path(home) / "hub" / "checkpoints"
        return Path(os.environ.get(self.variable or "", "") or f"downloads/{self.name}")

    @property
    def fetchable(self) -> bool:
        """Whether a program can fetch it."""
        return self.hub is not None or bool(self.files)

    @property
    def how(self) -> str:
        """One line: how it comes here."""
        if self.fetchable:
            return f"bash scripts/download.sh {self.name} --out FOLDER"
        return " ".join((self.by_hand or "see where it is published").split())


@functools.cache
def sources() -> dict[str, Source]:
    """Every source by name, in the list's order."""
    return read_sources(LIST)


def read_sources(path: Path) -> dict[str, Source]:
    """The sources of a YAML file.

    Raises UserError for an entry that lacks a field, has an unknown one, or is of no known kind.
    """
    import yaml

    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    loaded = yaml.load(path.read_text(encoding="utf-8"), Loader=loader)
    return {name: _source(str(name), dict(entry), path) for name, entry in loaded.items()}


def find_source(name: str) -> Source:
    """The source of that name. Raises UserError, listing all, when there is none."""
    if name not in sources():
        raise UserError(f"{name}: no such data set or weight; there are {', '.join(sources())}")
    return sources()[name]


def _source(name: str, entry: dict[str, Any], path: Path) -> Source:
    for key in ("published", "also_images", "per_class", "found"):
        if key in entry:
            entry[key] = tuple(entry[key])
    try:
        if "hub" in entry:
            hub = entry["hub"]
            entry["hub"] = Hub(**{**hub, "files": tuple(hub.get("files", ()))})
        entry["files"] = tuple(File(**value) for value in entry.get("files", ()))
        source = Source(name=name, **entry)
    except TypeError as error:  # a field that is missing, or has no such name
        raise UserError(f"{path}: {name}: {error}") from None
    if source.kind not in KINDS:
        raise UserError(f"{path}: {name}: kind {source.kind}; expected {', '.join(KINDS)}")
    return source
