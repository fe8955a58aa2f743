"""Which columns of an Arrow or Parquet file mean what.

The image column is a struct with a binary field `bytes` (how Hugging Face datasets keeps encoded
images) or plain binary. Of several it is, in this order, the one that the specification names,
the one that the file's Hugging Face metadata calls an Image, `image`, or the only one there is.

A sample's key is its `img_name`, so that it does not depend on how the rows are cut into files;
without that column, or where it is empty, `<file>#<row>`. Option `key=COLUMN` names another
column, `key=path` the image's own file name (the struct's `path`), and `key=row` asks for
`<file>#<row>`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from core.errors import UserError

if TYPE_CHECKING:
    import pyarrow as pa


@dataclass(frozen=True, slots=True)
class Layout:
    """Names of the columns in use; None for what a file does not have."""

    image: str
    key: str | None = None  # None: <file>#<row>
    quality: str | None = None
    location: str | None = None  # Git-10M, current schema
    text: str | None = None  # Git-10M, early schema
    by_path: bool = False  # the key is the image's own file name

    @property
    def columns(self) -> list[str]:
        """All of them."""
        return [name for name in (self.image, self.key, self.quality, self.location, self.text)
                if name is not None]  # fmt: skip

    @property
    def extras(self) -> tuple[str, ...]:
        """Columns of the score table that these give."""
        known = {"quality": self.quality, "resolution_m": self.location or self.text}
        return tuple(name for name, column in known.items() if column)


def find_layout(schema: pa.Schema, where: str, options: Mapping[str, str]) -> Layout:
    """The layout of a file with this schema.

    Args:
        schema: its columns.
        where: the file, for messages.
        options: 'image' and 'key' of the specification, if given.

    Raises:
        UserError: no image column, several to choose from, or a wrong type.
    """
    names = schema.names
    twice = [name for name in names if names.count(name) > 1]
    if twice:
        raise UserError(f"{where}: two columns are called '{twice[0]}'; rename one of them")
    for option, column in options.items():
        if column not in names and not (option == "key" and column in ("row", "path")):
            raise UserError(
                f"{where}: no column '{column}' (?{option}={column}); it has {', '.join(names)}"
            )
    image = _image_column(schema, where, options.get("image"))
    key: str | None = options.get("key", "img_name" if "img_name" in names else "row")
    by_path = key == "path" and key not in names
    if key == "row" or by_path:
        key = None
    quality, location = (
        name if name in names else None for name in ("img_quality_score", "Google_location")
    )
    text = "text" if "text" in names and location is None else None
    return Layout(image, key, quality, location, text, by_path)


def _image_column(schema: pa.Schema, where: str, wanted: str | None) -> str:
    fits = [field.name for field in schema if holds_images(field.type)]
    chosen = wanted or _declared(schema) or ("image" if "image" in schema.names else None)
    if chosen is not None and chosen not in fits:
        kind = schema.field(chosen).type
        raise UserError(
            f"{where}: column '{chosen}' is {kind}, not encoded images: expected binary, or a "
            "struct with binary 'bytes'; name another with SPEC?image=COLUMN"
        )
    if chosen is not None:
        return chosen
    if len(fits) == 1:
        return fits[0]
    there = ", ".join(f"{field.name} ({field.type})" for field in schema)
    state = f"columns {' and '.join(fits)} may both be it" if fits else "none of its columns is"
    raise UserError(
        f"{where}: no image column: {state}; it has {there}. Name one with SPEC?image=COLUMN"
    )


def _declared(schema: pa.Schema) -> str | None:
    """The one column that Hugging Face metadata declares an Image."""
    try:
        features: Any = json.loads((schema.metadata or {})[b"huggingface"])["info"]["features"]
        found = [n for n, feature in features.items() if feature.get("_type") == "Image"]
    except (KeyError, TypeError, ValueError, AttributeError):
        return None
    return found[0] if len(found) == 1 and found[0] in schema.names else None


def holds_images(kind: pa.DataType) -> bool:
    """Whether a column of this type can hold encoded images."""
    import pyarrow.types as types

    if types.is_dictionary(kind):
        kind = kind.value_type
    if types.is_struct(kind):
        at = kind.get_field_index("bytes")
        return at >= 0 and _is_binary(kind.field(at).type)
    return _is_binary(kind)


def _is_binary(kind: pa.DataType) -> bool:
    import pyarrow.types as types

    if types.is_dictionary(kind):
        kind = kind.value_type
    return types.is_binary(kind) or types.is_large_binary(kind) or types.is_binary_view(kind)
