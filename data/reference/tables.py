"""Labels of scene sets kept as Parquet or Arrow, an image and a label a row.

The label column is, in this order: the one that the specification names (?label=COLUMN), the one
that the file's Hugging Face metadata calls a ClassLabel, or one of LABELS. A ClassLabel's numbers
become its names; other numbers stand for themselves.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from core.errors import UserError
from data.corpus.base import Location
from data.corpus.sharded.columnar import TableCorpus

if TYPE_CHECKING:
    import pyarrow as pa

LABELS = ("label", "labels", "class", "class_name", "classname", "category", "scene", "target")


def table_scenes(
    corpus: TableCorpus, wanted: str | None = None
) -> tuple[list[Location], list[str], list[str]]:
    """(locations, labels, keys of rows without a label) of a corpus whose keys are its rows.

    Only the label column is read. Raises UserError for a missing or unusable label column.
    """
    from data.corpus.sharded.tables import open_table

    locations: list[Location] = []
    labels: list[str] = []
    loose: list[str] = []
    for shard in corpus.shards():
        path = os.fspath(corpus.path(shard))
        table = open_table(path, corpus.kind)
        values: list[str | None] = []
        if table.schema is not None:
            column, names = _label_column(table.schema, path, wanted)
            for number in range(len(table.ends)):
                found = table.chunk(number, [column])[column].to_pylist()
                values += [_label(value, names, path, column) for value in found]
        # One more than `values` when the shard is damaged.
        for row, place in enumerate(corpus.file_rows(shard)):
            key = f"{shard}#{place}"
            label = values[place] if place < len(values) else None
            if label is None:
                loose.append(key)
            else:
                locations.append((key, shard, row))
                labels.append(label)
    return locations, labels, loose


def _label_column(
    schema: pa.Schema, path: str, wanted: str | None
) -> tuple[str, Mapping[int, str] | None]:
    """The label column and, for a ClassLabel, its names."""
    import pyarrow.types as types

    declared = _class_labels(schema)
    if wanted is not None and wanted not in schema.names:
        raise UserError(f"{path}: no column '{wanted}' (?label={wanted}); {_columns(schema)}")
    several = len(declared) > 1 and wanted is None and "label" not in declared
    if several:
        raise UserError(
            f"{path}: {' and '.join(declared)} are both class labels; say which: SPEC?label=COLUMN"
        )
    column = wanted or ("label" if "label" in declared else next(iter(declared), None))
    column = column or next((name for name in LABELS if name in schema.names), None)
    if column is None:
        raise UserError(
            f"{path}: no label column; {_columns(schema)}. Name one with SPEC?label=COLUMN"
        )
    kind = schema.field(column).type
    if types.is_dictionary(kind):
        kind = kind.value_type
    if not (types.is_integer(kind) or types.is_string(kind) or types.is_large_string(kind)):
        raise UserError(
            f"{path}: column '{column}' is {kind}, not a label: expected whole numbers or text; "
            "name another with SPEC?label=COLUMN"
        )
    return column, declared.get(column)


def _class_labels(schema: pa.Schema) -> dict[str, dict[int, str]]:
    """Columns that Hugging Face metadata declares class labels, with their names."""
    try:
        features: Any = json.loads((schema.metadata or {})[b"huggingface"])["info"]["features"]
        return {
            column: dict(enumerate(feature["names"]))
            for column, feature in features.items()
            if feature.get("_type") == "ClassLabel" and column in schema.names
        }
    except (KeyError, TypeError, ValueError, AttributeError):
        return {}


def _label(value: Any, names: Mapping[int, str] | None, path: str, column: str) -> str | None:
    """The label of a row: None for null, and for -1 as withheld labels are written."""
    if value is None or value == -1 or value == "":
        return None
    if names is None or isinstance(value, str):
        return str(value)
    if value not in names:
        raise UserError(f"{path}: column '{column}' holds {value}, but names {len(names)} classes")
    return names[value]


def _columns(schema: pa.Schema) -> str:
    return "it has " + ", ".join(f"{field.name} ({field.type})" for field in schema)
