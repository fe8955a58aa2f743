"""Arrow and Parquet files are accounted for to the last row, and only damage is called damage."""

from __future__ import annotations

import errno
import os
import random
from itertools import pairwise

import pyarrow as pa
import pyarrow.feather as feather
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from core.errors import UserError
from data.corpus.sharded import opened
from data.corpus.specs import open_corpus
from tests.data.shards import images, samples, write_arrow


def rows(start: int, stop: int) -> pa.Table:
    names = [f"{i:03d}.jpg" for i in range(start, stop)]
    return pa.table({"image": images(*(n.encode() * 9 for n in names)), "img_name": names})


def write_file(path, table):
    with pa.ipc.new_file(str(path), table.schema) as writer:
        writer.write_table(table, max_chunksize=4)
    return path


@pytest.mark.parametrize("write", [write_arrow, write_file])
def test_arrow_files_that_were_joined_are_read_to_the_end(tmp_path, write):
    parts = [write(tmp_path / f"{i}.part", rows(10 * i, 10 * i + 10)) for i in range(3)]
    path, content = tmp_path / "a.arrow", [part.read_bytes() for part in parts]
    path.write_bytes(content[0] + content[1] + bytes(4096) + content[2])
    found = samples(open_corpus(path))
    assert [s.data for s in found] == [f"{i:03d}.jpg".encode() * 9 for i in range(30)]
    for rest, detail in (
        (content[1][:-700], "after 1"), (b"something else" * 99, "after 10 rows"),
        (write(tmp_path / "o", pa.table({"x": [1]})).read_bytes(), "another table with other col"),
    ):  # fmt: skip
        path.write_bytes(content[0] + rest)
        *good, lost = samples(open_corpus(path))
        assert len(good) >= 10 and lost.error[0] == "damaged-shard" and detail in lost.error[1]


def test_a_parquet_file_joined_to_another_is_no_sound_one(tmp_path):
    for sizes in ((10, 50), (50, 10), (10, 10)):
        first, second = (tmp_path / f"{i}.part" for i in range(2))
        pq.write_table(rows(0, sizes[0]), first, row_group_size=7, write_page_index=True)
        pq.write_table(rows(100, 100 + sizes[1]), second, row_group_size=7, write_page_index=True)
        assert len(samples(open_corpus(pq_copy(tmp_path, second.read_bytes())))) == sizes[1]
        path = pq_copy(tmp_path, first.read_bytes() + second.read_bytes())
        (lost,) = samples(open_corpus(path))
        size = first.stat().st_size
        assert lost.error[0] == "damaged-shard"
        assert f"joined to it at byte {size:,}" in lost.error[1]


def pq_copy(folder, content):
    path = folder / "a.parquet"
    path.write_bytes(content)
    return path


def test_a_row_group_too_large_for_one_piece_is_read_in_pieces(tmp_path, monkeypatch):
    monkeypatch.setattr(opened, "WHOLE_GROUP", 20_000)
    monkeypatch.setattr(opened, "PIECE_BYTES", 4_000)
    table = pa.table({"image": images(*(bytes([i]) * 1000 for i in range(100)))})
    path = tmp_path / "a.parquet"
    with pq.ParquetWriter(path, table.schema, use_dictionary=False) as writer:
        for start, stop in pairwise([0, 10, 60, 61, 100]):
            writer.write_table(table.slice(start, stop - start), row_group_size=1000)
    assert [opened.ParquetTable(os.fspath(path)).piece(i) for i in range(4)] == [32, 3, 32, 3]
    check_all(path, 100)


def check_all(path, count):
    """In order, in odd stretches and at random, the same rows."""
    corpus = open_corpus(path)
    (shard,) = corpus.shards()
    found = samples(corpus)
    assert [s.data[0] for s in found] == list(range(count))
    some = list(corpus.batch(shard, 5, count - 5))
    assert [s.data[0] for s in some] == list(range(5, count - 5))
    places = [(s.key, s.shard, s.row) for s in found]
    random.Random(0).shuffle(places)
    assert [s.data[0] for s in corpus.fetch(places)] == [row for _, _, row in places]


def test_what_pyarrow_cannot_read_at_once_is_read_row_by_row(tmp_path, monkeypatch):
    """A dictionary of a few large images hides how many bytes the rows of a group have."""
    table = pa.table({"image": images(*(bytes([i]) * 100 for i in range(40)))})
    pq.write_table(table, path := tmp_path / "a.parquet")

    def refuse(*_, **__):
        raise pa.ArrowNotImplementedError("Nested data conversions not implemented")

    monkeypatch.setattr(pq.ParquetFile, "read_row_group", refuse)
    check_all(path, 40)
    plain = pq.ParquetFile.iter_batches
    monkeypatch.setattr(pq.ParquetFile, "iter_batches", refuse)
    os.utime(path, (1, 1))
    with pytest.raises(UserError, match=r"a\.parquet: pyarrow .* cannot read it \(Nested data"):
        samples(open_corpus(path))
    monkeypatch.setattr(pq.ParquetFile, "iter_batches", plain)
    os.utime(path, (2, 2))
    check_all(path, 40)


@pytest.mark.parametrize(("error", "message"), [
    (pa.ArrowCapacityError("array cannot contain more than 2147483646 bytes"), "fewer rows in"),
    (pa.ArrowNotImplementedError("Support for codec 'lzo' not built"), "common compression"),
    (MemoryError(), "not enough memory"),
    (OSError(errno.EMFILE, os.strerror(errno.EMFILE)), "limit on open files"),
    (OSError(errno.EIO, os.strerror(errno.EIO)), "the disk or the network drive failed"),
])  # fmt: skip
def test_what_is_no_damage_is_not_called_so(tmp_path, monkeypatch, error, message):
    pq.write_table(rows(0, 3), tmp_path / "a.parquet")
    write_arrow(tmp_path / "b.arrow", rows(0, 3))

    def refuse(*_, **__):
        raise error

    for name in ("read_row_group", "iter_batches"):
        monkeypatch.setattr(pq.ParquetFile, name, refuse)
    monkeypatch.setattr(pa, "memory_map", refuse)
    for name in ("a.parquet", "b.arrow"):
        with pytest.raises(UserError, match=rf"{name}: .*{message}"):
            samples(open_corpus(tmp_path / name))


def test_feather_is_an_arrow_file_and_its_first_version_is_refused_by_name(tmp_path):
    feather.write_feather(rows(0, 5), str(tmp_path / "a.feather"), compression="zstd")
    assert len(samples(open_corpus(tmp_path / "a.feather"))) == 5
    assert len(samples(open_corpus(tmp_path))) == 5
    (tmp_path / "a.feather").write_bytes(b"FEA1" + bytes(100))
    with pytest.raises(UserError, match="Feather V1"):
        open_corpus(tmp_path / "a.feather").check()


@pytest.mark.parametrize("kind", ["arrow", "parquet"])
def test_columns_of_every_type_that_can_hold_images_and_names(tmp_path, kind):
    data = [b"0" * 50, None, b"1" * 50, b"0" * 50]
    names = ["a", "b", "", "é"]
    large = pa.struct([("bytes", pa.large_binary()), ("path", pa.large_string())])
    both = [{"bytes": d, "path": n} for d, n in zip(data, names, strict=True)]
    struct = pa.array(both, large)
    kinds = [pa.array(data, t) for t in (pa.binary(), pa.large_binary(), pa.binary_view())]
    texts = [pa.array(names, t) for t in (pa.string(), pa.large_string(), pa.string_view())]
    for image in (*kinds, kinds[0].dictionary_encode(), kinds[1].dictionary_encode(), struct):
        for name in (*texts, texts[0].dictionary_encode()):
            path = tmp_path / f"a.{kind}"
            path.unlink(missing_ok=True)
            table = pa.table({"image": image, "img_name": name})
            write_arrow(path, table) if kind == "arrow" else pq.write_table(table, path)
            found = samples(open_corpus(path))
            assert [s.data for s in found] == data
            assert [s.key for s in found] == ["a", "b", f"a.{kind}#2", "é"]


def test_files_without_rows_beside_others(tmp_path):
    early = {"image": images(b"x"), "text": ["17_GOOGLE_LEVEL_a road"]}
    late = {"image": images(b"y", b"z"), "text": [None, "16_GOOGLE_LEVEL_a field"]}
    for i, table in enumerate((pa.table(early).slice(0, 0), pa.table(early), pa.table(late))):
        pq.write_table(table, tmp_path / f"{i}.parquet")
    (tmp_path / "_SUCCESS").touch()
    corpus = open_corpus(tmp_path)
    corpus.check()
    assert corpus.extras == ("resolution_m",)
    assert [s.resolution_m for s in samples(corpus)] == [1.0, None, 2.0]


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_damaged_parquet_is_rejected_rows_as_many_as_are_counted(tmp_path_factory, data):
    path = tmp_path_factory.mktemp("damaged") / "a.parquet"
    pq.write_table(rows(0, 20), path, row_group_size=7)
    whole = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        whole[data.draw(st.integers(4, len(whole) - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(whole)
    try:
        corpus = open_corpus(path)
        corpus.check()
        assert len(samples(corpus)) == len(corpus)
    except UserError:
        pass  # the schema itself was hit
