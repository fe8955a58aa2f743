"""Tables of parts: what is written comes back, and damage is named."""

from __future__ import annotations

import pyarrow as pa
import pytest

from core.errors import UserError
from data.formats.tables import part_paths, read_parts, write_part

SCHEMA = pa.schema([("key", pa.string()), ("row", pa.int64())])


def test_round_trip_in_part_order(tmp_path):
    write_part(tmp_path, 1, {"key": ["b"], "row": [0]}, SCHEMA)
    write_part(tmp_path, 0, pa.table({"row": [1, 2], "key": ["x", "y"]}), SCHEMA)
    (tmp_path / "part-00009.parquet.tmp-12").touch()
    assert read_parts(tmp_path).to_pydict() == {"key": ["x", "y", "b"], "row": [1, 2, 0]}
    assert read_parts(tmp_path, ["row"]).column_names == ["row"]


def test_same_rows_same_bytes(tmp_path):
    first = write_part(tmp_path / "a", 0, {"key": ["b"], "row": [0]}, SCHEMA)
    second = write_part(tmp_path / "b", 0, {"row": [0], "key": ["b"]}, SCHEMA)
    assert first.read_bytes() == second.read_bytes()


def test_what_is_wrong_is_named(tmp_path):
    with pytest.raises(UserError, match="no such folder"):
        read_parts(tmp_path / "absent")
    with pytest.raises(UserError, match="not a finished table"):
        read_parts(tmp_path)
    path = write_part(tmp_path, 2, {"key": ["b"], "row": [0]}, SCHEMA)
    with pytest.raises(UserError, match=r"part-00000\.parquet: missing"):
        part_paths(tmp_path)
    path = path.rename(tmp_path / "part-00000.parquet")
    with pytest.raises(UserError, match="no column 'entropy'"):
        read_parts(tmp_path, ["entropy"])
    path.write_bytes(path.read_bytes()[:-3])
    with pytest.raises(UserError, match="damaged"):
        read_parts(tmp_path)
