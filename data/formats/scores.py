"""The columns of the score table, which `python -m prune.score` writes in parts."""

from __future__ import annotations

from collections.abc import Sequence

import pyarrow as pa

SCORES = pa.schema(
    [
        pa.field("key", pa.string(), nullable=False),  # stable, unique name in the corpus
        pa.field("shard", pa.string(), nullable=False),
        pa.field("row", pa.int64(), nullable=False),  # place in the shard
        pa.field("digest", pa.string()),  # hex SHA-256 of the encoded bytes; null: unreadable
        pa.field("bytes", pa.int64(), nullable=False),  # of the encoded image
        pa.field("width", pa.int32()),  # pixels; null: not known
        pa.field("height", pa.int32()),
        pa.field("entropy", pa.float64()),  # bits in [0, 8]; null: rejected
        pa.field("status", pa.string(), nullable=False),  # 'ok' or 'rejected'
        pa.field("reason", pa.string(), nullable=False),  # '' or why it was rejected
        pa.field("detail", pa.string(), nullable=False),  # one line; for 'ok' a note, or ''
    ]
)

EXTRAS = {
    # of the corpus itself, where it has them
    "quality": pa.field("quality", pa.float64()),  # its own quality score
    "resolution_m": pa.field("resolution_m", pa.float64()),  # metres a pixel
    # of chips cut from larger rasters
    "date": pa.field("date", pa.string()),  # of acquisition, YYYY-MM-DD
    "window": pa.field("window", pa.list_(pa.int32())),  # x, y, width, height in its raster
    "crs": pa.field("crs", pa.string()),  # 'EPSG:26914', or WKT
    "bounds": pa.field("bounds", pa.list_(pa.float64())),  # left, bottom, right, top in that CRS
    # of `prune.score --statistics`
    "bands": pa.field("bands", pa.int32()),  # 1: grey, 3: colour, 4: with near infrared
    "clipped": pa.field("clipped", pa.float64()),  # fraction of pixels whose grey is 0 or 255
    "border": pa.field("border", pa.float64()),  # fraction of black collar (data.images.border)
}
"""Further columns of a score table; all are nullable and come after those of SCORES."""


def scores_schema(extras: Sequence[str] = ()) -> pa.Schema:
    """SCORES with some of EXTRAS after it."""
    return pa.schema([*SCORES, *(EXTRAS[name] for name in extras)])
