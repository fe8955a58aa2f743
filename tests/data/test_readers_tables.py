"""Arrow and Parquet shards: both schemas of Git-10M, every odd column, every kind of damage."""

from __future__ import annotations

import json
import pickle

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from core.errors import UserError
from data.corpus.specs import open_corpus
from tests.data.shards import images, samples, write_arrow


def write_parquet(path, columns, **options):
    pq.write_table(columns if isinstance(columns, pa.Table) else pa.table(columns), path, **options)
    return path


WRITERS = {"arrow": write_arrow, "parquet": write_parquet}


@pytest.fixture(params=WRITERS)
def write(request, tmp_path):
    """write(columns) -> path, in both formats."""
    return lambda columns, name="a": WRITERS[request.param](
        tmp_path / f"{name}.{request.param}", columns
    )


def test_git10m_current_columns(write):
    path = write({
        "image": images(b"0", b"1", b"2", b"3", paths=["p.jpg", None, None, None]),
        "img_name": ["x.jpg", "y.jpg", "", None],
        "img_quality_score": [0.25, None, float("nan"), 4.5],
        "caption": ["a", "b", "c", "d"], "caption_length": [1, 1, 1, 1],
        "resolution": ["1.0", None, "", "x"],
        "Google_location": ["17_3_4", None, "19_1_2", "nowhere"],
    })  # fmt: skip
    corpus = open_corpus(f"git10m:{path.parent}")
    assert corpus.extras == ("quality", "resolution_m")
    found = samples(corpus)
    assert [s.key for s in found] == ["x.jpg", "y.jpg", f"{path.name}#2", f"{path.name}#3"]
    assert [s.data for s in found] == [b"0", b"1", b"2", b"3"]
    assert [s.quality for s in found] == [0.25, None, None, 4.5]
    assert [s.resolution_m for s in found] == [1.0, None, 0.25, None]
    assert [s.name for s in found] == ["p.jpg", None, None, None]


def test_git10m_early_columns(write):
    texts = ["17_GOOGLE_LEVEL_a road", "0_GOOGLE_LEVEL_a field", "16_GOOGLE_LEVEL_", None, "plain"]
    path = write({"image": images(*[b"x"] * 5), "text": texts})
    corpus = open_corpus(path)
    assert corpus.extras == ("resolution_m",)
    found = samples(corpus)
    assert [s.resolution_m for s in found] == [1.0, None, 2.0, None, None]
    assert [s.key for s in found] == [f"{path.name}#{i}" for i in range(5)]
    other = write({"image": images(b"x"), "text": ["a caption like any other"]}, "other")
    assert open_corpus(other).extras == ()


def test_columns_of_other_shapes(write):
    plain = write({"id": [7, 8], "picture": pa.array([b"a", None], pa.large_binary())}, "plain")
    one, two = samples(open_corpus(f"{plain}?key=id"))
    assert (one.key, one.data, two.key, two.data) == ("7", b"a", "8", None)
    assert two.error == ("no-image", "no bytes in column 'picture'")
    named = write({"image": images(None, paths=["a/b.jpg"]), "img_name": ["n"]}, "named")
    (sample,) = samples(open_corpus(named))
    assert sample.error[1].endswith("only a path to 'a/b.jpg'")
    (sample,) = samples(open_corpus(f"{named}?key=row"))
    assert sample.key == f"{named.name}#0"
    two = write({"one": images(b"1"), "two": images(b"2")}, "two")
    assert [s.data for s in samples(open_corpus(f"{two}?image=two"))] == [b"2"]
    with pytest.raises(UserError, match="columns one and two may both be it"):
        open_corpus(two).check()
    declared = {"info": {"features": {"one": {"_type": "Value"}, "two": {"_type": "Image"}}}}
    table = pa.table({"one": images(b"1"), "two": images(b"2")})
    table = table.replace_schema_metadata({"huggingface": json.dumps(declared)})
    assert [s.data for s in samples(open_corpus(write(table, "declared")))] == [b"2"]


@pytest.mark.parametrize(
    ("columns", "spec", "message"),
    [
        ({"label": [1]}, "", r"no image column: none of its columns is; it has label \(int64\)"),
        ({"image": [1]}, "", r"column 'image' is int64, not encoded images"),
        ({"image": [[1]]}, "", r"column 'image' is list<.*not encoded images"),
        ({"image": images(b"x")}, "?image=img", r"no column 'img' \(\?image=img\); it has image"),
        ({"image": images(b"x")}, "?key=id", r"no column 'id'"),
        ({"image": images(b"x")}, "?width=3", r"unknown option 'width'"),
    ],
)
def test_what_is_wrong_in_kind_is_refused_before_a_pass(write, columns, spec, message):
    path = write(columns)
    with pytest.raises(UserError, match=message):
        open_corpus(f"{path}{spec}").check()


def test_shards_with_different_columns_are_refused(write):
    write({"image": images(b"x"), "img_quality_score": [1.0]}, "a")
    path = write({"image": images(b"y")}, "b")
    with pytest.raises(UserError, match=r"b\.\w+: has other columns"):
        open_corpus(path.parent).check()


def test_names_that_are_no_utf8_or_not_printable(write):
    raw = pa.array([b"caf\xe9.jpg", b"new\nline", "é".encode()])
    names = pa.Array.from_buffers(pa.string(), 3, raw.buffers())
    path = write({"image": images(b"0", b"1", b"2"), "img_name": names})
    assert [s.key for s in samples(open_corpus(path))] == ["caf\\xe9.jpg", "new\\x0aline", "é"]


def test_batches_chunks_and_fetch(tmp_path):
    table = pa.table({"image": images(*[str(i).encode() for i in range(950)])})
    for path in (
        write_arrow(tmp_path / "a" / "a.arrow", table),
        write_parquet(tmp_path / "a.parquet", table, row_group_size=90),
    ):
        corpus = open_corpus(path)
        (shard,) = corpus.shards()
        assert corpus.count(shard) == len(corpus) == 950
        batch = pickle.loads(pickle.dumps(corpus.batch(shard, 85, 215)))
        assert [s.data for s in batch] == [str(i).encode() for i in range(85, 215)]
        order = [949, 3, 500, 3, 0]
        found = list(corpus.fetch([(f"{shard}#{i}", shard, i) for i in order]))
        assert [s.data for s in found] == [str(i).encode() for i in order]
        with pytest.raises(UserError, match=r"is 'a.*#4', not 'other'"):
            list(corpus.fetch([("other", shard, 4)]))
        with pytest.raises(UserError, match="has 950 samples, but row 950"):
            list(corpus.fetch([("x", shard, 950)]))


def test_ipc_files_with_and_without_their_footer(tmp_path):
    table = pa.table({"image": images(*[bytes([i]) * 900 for i in range(30)])})
    path = tmp_path / "a.arrow"
    with pa.ipc.new_file(str(path), table.schema) as writer:
        writer.write_table(table, max_chunksize=10)
    assert [s.data[0] for s in samples(open_corpus(path))] == list(range(30))
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    *good, last = samples(open_corpus(path))
    assert [s.data[0] for s in good] == list(range(10))
    assert last.error[0] == "damaged-shard" and "after 10 rows: cut short" in last.error[1]


def test_cut_anywhere_the_batches_before_are_read_and_the_loss_is_said(tmp_path):
    path = tmp_path / "a.arrow"
    table = pa.table({"image": images(*[bytes([i % 256]) * 300 for i in range(300)])})
    whole = write_arrow(path, table).read_bytes()
    seen = set()
    for cut in [*range(0, len(whole), 7919), len(whole) - 1, len(whole) - 8]:
        path.write_bytes(whole[:cut])
        corpus = open_corpus(path)
        corpus.check()
        *good, last = samples(corpus)
        assert last.error[0] == "damaged-shard", cut
        assert [s.data[0] for s in good] == [i % 256 for i in range(len(good))]
        assert len(corpus) == len(good) + 1
        seen.add(len(good))
    assert seen == {0, 100, 200, 300}


def test_cut_parquet_and_other_content_are_one_rejected_row(tmp_path):
    path = tmp_path / "a.parquet"
    whole = write_parquet(path, {"image": images(b"x" * 999, b"y" * 999)}).read_bytes()
    for content in (whole[:-20], whole[: len(whole) // 2], b"", b"<html>", b"PAR1"):
        for name in ("a.parquet", "a.arrow"):
            (tmp_path / name).write_bytes(content)
            corpus = open_corpus(tmp_path / name)
            corpus.check()
            (sample,) = samples(corpus)
            assert sample.error[0] == "damaged-shard" and sample.key == f"{name}#0"


def test_vanished(write):
    write({"image": images(b"x")}, "a")
    path = write({"image": images(b"y")}, "b")
    corpus = open_corpus(path.parent)
    path.unlink()
    assert [s.error and s.error[0] for s in samples(corpus)] == [None, "unreadable"]


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_damaged_arrow_never_crashes(tmp_path_factory, data):
    """Offsets that lead out of a buffer must be noticed, not followed."""
    path = tmp_path_factory.mktemp("damaged") / "a.arrow"
    columns = {"image": images(*[b"x" * 40] * 20), "img_name": [f"n{i}" for i in range(20)]}
    whole = bytearray(write_arrow(path, columns).read_bytes())
    for _ in range(data.draw(st.integers(1, 8))):
        whole[data.draw(st.integers(600, len(whole) - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(whole)
    try:
        corpus = open_corpus(path)
        corpus.check()
        assert len(samples(corpus)) == len(corpus)
    except UserError:
        pass  # the schema itself was hit
