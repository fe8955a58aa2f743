"""Tables of encoded images as Hugging Face datasets writes them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa

IMAGE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])


def image_column(data: Sequence[bytes | None], paths: Sequence[str | None]) -> pa.Array:
    """Encoded images and the paths that they are said to have."""
    cells = [{"bytes": one, "path": path} for one, path in zip(data, paths, strict=True)]
    return pa.array(cells, IMAGE)


def with_features(columns: Mapping[str, Any], features: Mapping[str, Any]) -> pa.Table:
    """A table whose schema carries the description of its columns that datasets looks for."""
    metadata = {"huggingface": json.dumps({"info": {"features": features}})}
    return pa.table(dict(columns)).replace_schema_metadata(metadata)
