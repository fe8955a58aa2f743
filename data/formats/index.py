"""The subset index: the one file that passes from pruning to training.

A Parquet file with a row for each chosen image, sorted by (shard, row), and its provenance as
JSON in the file's key-value metadata under "rsprune". Training reads the corpus through it;
no image is copied. Whoever reads an image through it holds the bytes against the digest
(data.corpus.verified): a name alone does not prove that they are those that were scored.
"""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from core.atomic import atomic_path
from core.errors import UserError
from core.hashing import hash_keys
from core.manifest import present_names, verify_file
from core.parallel import available_cpus

SCHEMA = pa.schema(
    [
        ("key", pa.string()),  # the image's name in its corpus, unique
        ("shard", pa.string()),  # the file or folder it is read from
        ("row", pa.int64()),  # its place in the shard
        ("digest", pa.string()),  # hex SHA-256 of its encoded bytes, null: not recorded
        ("entropy", pa.float64()),  # H, bits in [0, 8]
        ("cluster", pa.int32()),  # nearest centroid, -1: the method has no clusters
        ("similarity", pa.float32()),  # cosine to it, null: none
        ("rank", pa.int64()),  # 0-based place in its cluster, or in the method's order
        ("chosen", pa.string()),  # one of CHOSEN
    ]
)
CHOSEN = (
    "quota", "remainder", "random", "entropy", "full", "band", "deduplicated", "retrieved",
)  # fmt: skip
NULLABLE = ("digest", "entropy", "similarity")
METADATA = b"rsprune"
REQUIRED = ("method", "params", "inputs", "encoder", "code", "counts")


def write_index(path: Path | str, rows: pa.Table, metadata: dict[str, Any]) -> None:
    """Write a subset index atomically; equal rows and metadata give equal bytes.

    Args:
        path: the Parquet file.
        rows: the columns of SCHEMA, in any order of rows; without 'digest', all of it is null.
        metadata: method (str), params (dict), inputs (name -> fingerprint), encoder (dict or None),
            code (str), counts (dict of int).

    Raises ValueError when a column or an entry of the metadata is missing, or rows are invalid.
    """
    missing = [name for name in REQUIRED if name not in metadata]
    if missing:
        raise ValueError(f"metadata lacks {', '.join(missing)}")
    table = canonical(rows)
    problem = _problem(table)
    if problem:
        raise ValueError(problem)
    text = json.dumps(metadata, sort_keys=True, ensure_ascii=False)
    table = table.replace_schema_metadata({METADATA: text.encode()})
    # A dictionary of values that do not repeat costs time and space.
    repeating = [name for name in SCHEMA.names if name not in ("key", "digest")]
    with atomic_path(path) as temporary:
        pq.write_table(
            table, temporary, compression="zstd", row_group_size=1 << 18, use_dictionary=repeating
        )


def canonical(rows: pa.Table) -> pa.Table:
    """The columns of SCHEMA with its types, sorted by (shard, row), without metadata.

    Raises ValueError for a missing column; a missing digest is null.
    """
    if "digest" not in rows.column_names:
        rows = rows.append_column("digest", pa.nulls(rows.num_rows, pa.string()))
    absent = [name for name in SCHEMA.names if name not in rows.column_names]
    if absent:
        raise ValueError(f"a subset index needs the column(s) {', '.join(absent)}")
    return by_place(rows.select(SCHEMA.names)).cast(SCHEMA).combine_chunks()


def by_place(table: pa.Table) -> pa.Table:
    """The rows in order of (shard, row), see `place_order`."""
    order = place_order(table)
    if (order[1:] > order[:-1]).all():  # as it is
        return table
    return table.take(pa.array(order))


def place_order(table: pa.Table) -> NDArray[np.int64]:
    """The positions of the rows in order of (shard, row).

    Shards are few and rows are many, so the strings compared are the distinct shards alone.

    Raises ValueError when a shard or a row is null.
    """
    for name in ("shard", "row"):
        if table.column(name).null_count:
            raise ValueError(f"the column '{name}' has empty entries")
    place, _ = shard_places(table.column("shard"))
    row = table.column("row").to_numpy()
    rises = place[1:] > place[:-1]
    if (rises | ((place[1:] == place[:-1]) & (row[1:] >= row[:-1]))).all():
        return np.arange(len(row))
    return np.lexsort((row, place))


def shard_places(shards: pa.ChunkedArray) -> tuple[NDArray[np.int64], list[str]]:
    """The place of each row's shard among the distinct shards in order, and those shards.

    Args:
        shards: [n] names, as text or dictionary-encoded, none of them null.
    """
    if not pa.types.is_dictionary(shards.type):
        shards = shards.dictionary_encode()
    encoded = shards.unify_dictionaries().combine_chunks()
    distinct = encoded.dictionary
    order = pc.sort_indices(distinct).to_numpy()
    place = np.empty(len(order), np.int64)
    place[order] = np.arange(len(order))
    return place[encoded.indices.to_numpy()], distinct.take(pa.array(order)).to_pylist()


def read_index(path: Path | str) -> tuple[pa.Table, dict[str, Any]]:
    """A subset index (columns of SCHEMA, sorted by (shard, row)) and its metadata, checked.

    An index of version 0.1 has no digests: they are null, with a note on standard error.

    Raises UserError when the file is missing, is no subset index, breaks the format's rules, or
    is not as the manifest beside it says (one that was copied without its manifest is read).
    """
    path = Path(path)
    verify_file(path)
    with _readable(path):
        table = pq.read_table(path)
    metadata = _provenance(path, table.schema)
    if "digest" not in table.column_names:
        print(
            f"note: {path}: has no digests (made by version 0.1), so the images' bytes cannot be "
            "checked; make it again with python -m prune.select to have them",
            file=sys.stderr,
        )
        table = table.append_column("digest", pa.nulls(table.num_rows, pa.string()))
    for field in SCHEMA:
        if field.name not in table.column_names:
            raise UserError(f"{path}: the column '{field.name}' is missing")
        if table.schema.field(field.name).type != field.type:
            kind = table.schema.field(field.name).type
            raise UserError(f"{path}: column '{field.name}' is {kind}, expected {field.type}")
    table = table.select(SCHEMA.names).replace_schema_metadata(None)
    problem = _problem(table)
    if problem:
        raise UserError(f"{path}: {problem}; make it again")
    return table, metadata


def read_provenance(path: Path | str) -> dict[str, Any]:
    """A subset index's metadata alone: method, params, inputs, encoder, code and counts.

    Raises UserError when the file is missing or is no subset index. Its rows are not looked at.
    """
    path = Path(path)
    with _readable(path):
        schema = pq.read_schema(path)
    return _provenance(path, schema)


@contextlib.contextmanager
def _readable(path: Path) -> Iterator[None]:
    """Say of a file that cannot be read what it should be."""
    try:
        yield
    except FileNotFoundError:
        raise UserError(
            f"{path}: no such subset index; python -m prune.select --out {path} makes one"
        ) from None
    except (OSError, pa.ArrowException) as error:
        raise UserError(f"{path}: not a readable Parquet file ({error})") from None


def _provenance(path: Path, schema: pa.Schema) -> dict[str, Any]:
    stored = (schema.metadata or {}).get(METADATA)
    if stored is None:
        raise UserError(
            f"{path}: a Parquet file, but not a subset index (no 'rsprune' metadata); "
            "give a file written by python -m prune.select"
        )
    try:
        metadata = json.loads(stored, object_hook=present_names)
    except ValueError as error:
        raise UserError(f"{path}: its 'rsprune' metadata is not JSON ({error})") from None
    lacking = [name for name in REQUIRED if name not in metadata]
    if lacking:
        raise UserError(f"{path}: its metadata lacks {', '.join(lacking)}")
    return metadata


def _problem(table: pa.Table) -> str | None:
    """What is wrong with the rows, or None."""
    if table.num_rows == 0:
        return "the index holds no image"
    for name in SCHEMA.names:
        if name not in NULLABLE and table.column(name).null_count:
            return f"the column '{name}' has empty entries"
    if pc.any(pc.not_equal(pc.binary_length(table.column("digest")), 64)).as_py():
        return "the column 'digest' has entries that are no SHA-256 in 64 hex digits"
    keys = table.column("key")
    if (twice := _listed_twice(keys)) is not None:
        return f"the image '{twice}' is listed more than once"
    for chosen in pc.unique(table.column("chosen")).to_pylist():
        if chosen not in CHOSEN:
            return f"chosen = '{chosen}' is none of {', '.join(CHOSEN)}"
    shard, _ = shard_places(table.column("shard"))
    row = table.column("row").to_numpy()
    rises = (shard[1:] > shard[:-1]) | ((shard[1:] == shard[:-1]) & (row[1:] > row[:-1]))
    if not rises.all():
        return "the rows are not in the order of (shard, row), or one place is listed twice"
    return None


def _listed_twice(keys: pa.ChunkedArray) -> str | None:
    """A key that occurs more than once, or None. Numbers are compared, text only where they tie."""
    hashes = hash_keys(keys, "twice", available_cpus())
    order = np.argsort(hashes)
    same = np.flatnonzero(np.diff(hashes[order]) == 0)
    if not same.size:
        return None
    suspects = keys.take(pa.array(np.union1d(order[same], order[same + 1])))
    counts = pc.value_counts(suspects)
    twice = counts.filter(pc.greater(counts.field("counts"), 1))
    return twice[0]["values"].as_py() if len(twice) else None
