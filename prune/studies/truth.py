"""What is known of a corpus's images: the truth of a miniature world, class folders, labels."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa

from core.errors import UserError
from data.curation.holdout import pool
from data.formats import names as formats
from data.formats.tables import read_part, read_parts


@dataclasses.dataclass(frozen=True, slots=True)
class Truth:
    """What is known of one image of a corpus.

    Attributes:
        scene: its class; '' where it shows none (blank and noise tiles).
        low_information: True for the near-uniform scenes that Stage I should drop.
        fault: '' or what is wrong with it ('blank', 'noise', 'nodata', 'broken:...').
        duplicate_of: key of the image that it is a copy of, or ''.
        duplicate_kind: 'exact', a kind of near-duplicate, or ''.
    """

    scene: str
    low_information: bool = False
    fault: str = ""
    duplicate_of: str = ""
    duplicate_kind: str = ""


_FORMERLY = {"dull": "low_information"}  # in the worlds of version 0.1


def read_pool(scores: Path, *columns: str) -> pa.Table:
    """The readable images of a score table: the key and these columns."""
    return pool(read_parts(scores, ["key", *columns, "status"]))


def world_truth(path: Path) -> dict[str, Truth]:
    """The truth of a miniature world, by key. Raises UserError for a file that is none."""
    table = read_part(path)
    table = table.rename_columns([_FORMERLY.get(name, name) for name in table.column_names])
    fields = [field.name for field in dataclasses.fields(Truth)]
    lacking = [name for name in ("key", *fields) if name not in table.column_names]
    if lacking:
        raise UserError(f"{path}: not the truth of a miniature world (no column '{lacking[0]}')")
    rows = table.select(["key", *fields]).to_pylist()
    return {row.pop("key"): Truth(**row) for row in rows}


def folder_truth(keys: Sequence[str]) -> dict[str, Truth]:
    """Truth from class folders: the key 'Forest/forest_1.jpg' is of class 'Forest'."""
    loose = [key for key in keys if "/" not in key]
    if loose:
        raise UserError(
            f"{loose[0]}: not in a class folder; --corpus needs files as CLASS/FILE "
            f"({len(loose):,} files are not)"
        )
    return {key: Truth(scene=key.split("/", 1)[0]) for key in keys}


def read_labels(path: Path, keys: Sequence[str]) -> dict[str, str]:
    """The class of each image by a file (see prune.compare --labels); '' for none.

    Raises UserError for a file that is not as described, and for an image that is not in it.
    """
    table = formats.read_labels(path)
    names = table["key"].to_pylist()
    labels = table["label"].cast(pa.string()).to_pylist()
    found = formats.by_key(names, labels, f"--labels {path}")
    formats.require(keys, found, names, f"--labels {path}")
    return {key: found[key] for key in keys}
