"""Tar shards: every sample is a row with its image or with the reason why there is none."""

from __future__ import annotations

import io
import os
import pickle
import tarfile

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from core.errors import UserError
from data.corpus.sharded import tar as reader
from data.corpus.sharded import tarwalk
from data.corpus.specs import open_corpus
from tests.data.shards import jpeg, samples, write_tar


def errors(path):
    return {s.key.removeprefix(f"{path.name}/"): s.error for s in samples(open_corpus(path))}


def test_members_with_one_name_are_one_sample(tmp_path):
    path = write_tar(tmp_path / "a.tar", {
        "d/0.cls": b"3", "d/0.jpg": b"first", "d/1.JPEG": b"second", "d/1.txt": b"a town",
        "d/2.left.png": b"third", "d/2.json": b"{}", "./d/3.tif": b"fourth", "e/3.tif": b"fifth",
    })  # fmt: skip
    found = samples(open_corpus(path))
    assert [(s.key, s.shard, s.row, s.data, s.name) for s in found] == [
        ("a.tar/d/0", "a.tar", 0, b"first", "x.jpg"),
        ("a.tar/d/1", "a.tar", 1, b"second", "x.JPEG"),
        ("a.tar/d/2", "a.tar", 2, b"third", "x.left.png"),
        ("a.tar/d/3", "a.tar", 3, b"fourth", "x.tif"),
        ("a.tar/e/3", "a.tar", 4, b"fifth", "x.tif"),
    ]


def test_rs5m_members_take_any_format(tmp_path):
    path = write_tar(tmp_path / "rs3-train-0000.tar", {
        "00.caption": b"a field", "00.img_content": b"any format", "00.img_name": b"x.gif",
        "01.caption": b"no picture", "01.img_name": b"y.jpg",
    })  # fmt: skip
    one, two = samples(open_corpus(path))
    assert (one.key, one.data, one.name) == ("rs3-train-0000.tar/00", b"any format", "")
    assert two.data is None and two.error[0] == "no-image" and "caption, img_name" in two.error[1]


def test_which_member_is_the_image(tmp_path):
    members = {"0.jpg": b"j", "0.mask.png": b"m", "1.jpg": b"j", "1.png": b"p"}
    path = write_tar(tmp_path / "a.tar", members | {"2.a.jpg": b"a", "2.b.jpg": b"b"})
    first, second, third = samples(open_corpus(path))
    assert first.data == b"j"  # 'jpg' is an image's extension, 'mask.png' is not
    for sample in (second, third):
        assert sample.error[0] == "no-image" and "SPEC?image=" in sample.error[1]
    chosen = samples(open_corpus(f"{path}?image=png"))
    assert [s.data for s in chosen] == [None, b"p", None]
    assert [s.data for s in samples(open_corpus(f"{path}?image=b.jpg"))] == [None, None, b"b"]
    with pytest.raises(UserError, match="key=row: of a tar, key=member is all there is"):
        open_corpus(f"{path}?key=row")
    with pytest.raises(UserError, match="unknown option 'width'"):
        open_corpus(f"{path}?width=3")
    named = samples(open_corpus(f"{path}?key=member"))
    assert [s.key for s in named] == [
        "0.jpg", "0.mask.png", "1.jpg", "1.png", "2.a.jpg", "2.b.jpg"
    ]  # fmt: skip
    assert [s.data for s in named] == [b"j", b"m", b"j", b"p", b"a", b"b"]


def test_what_is_no_plain_file_is_a_row_with_a_reason(tmp_path):
    path = tmp_path / "a.tar"
    with tarfile.open(path, "w") as tar:
        for name, kind, target in (
            ("d", tarfile.DIRTYPE, ""), ("soft.jpg", tarfile.SYMTYPE, "/etc/passwd"),
            ("hard.jpg", tarfile.LNKTYPE, "gone.jpg"), ("pipe.jpg", tarfile.FIFOTYPE, ""),
        ):  # fmt: skip
            member = tarfile.TarInfo(name)
            member.type, member.linkname = kind, target
            tar.addfile(member)
        for name in ("../escape.jpg", "/abs/olute.jpg", "a/../../b.jpg", ".hidden.jpg",
                     "d/.x/y.jpg", "./._mac.jpg", "good.jpg"):  # fmt: skip
            member = tarfile.TarInfo(name)
            member.size = 4
            tar.addfile(member, io.BytesIO(b"data"))
    found = errors(path)
    assert found == {
        "soft": ("unreadable", "a symbolic link to '/etc/passwd', which is no image in this tar"),
        "hard": ("unreadable", "a hard link to 'gone.jpg', which is no image in this tar"),
        "pipe": ("unreadable", "not a regular file"),
        **dict.fromkeys(("../escape", "/abs/olute", "a/../../b"), tarwalk.UNSAFE),
        "good": None,
    }


@pytest.mark.parametrize("format", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_every_dialect_gives_tarfiles_names_and_bytes(tmp_path, format):
    names = ["short.jpg", f"{'long' * 30}/{'er' * 40}.jpg", f"{'d' * 90}/x.jpg", "caf\udce9.jpg",
             "Ünï.jpg", "q" * 99 + ".jpg"]  # fmt: skip
    if format == tarfile.USTAR_FORMAT:
        names.remove("q" * 99 + ".jpg")
    path = tmp_path / "a.tar"
    with tarfile.open(path, "w", format=format, errors="surrogateescape") as tar:
        for i, name in enumerate(names):
            member = tarfile.TarInfo(name)
            member.size, member.mtime = 500 * i, 0.5 if i % 2 else 1
            tar.addfile(member, io.BytesIO(bytes([i]) * 500 * i))
    found = samples(open_corpus(path))
    assert [s.data for s in found] == [bytes([i]) * 500 * i for i in range(len(names))]
    expected = [n.removesuffix(".jpg").replace("\udce9", "\\xe9") for n in names]
    assert [s.key.removeprefix("a.tar/") for s in found] == expected
    assert all(s.key.isprintable() for s in found)


def test_cut_anywhere_the_rows_before_are_read_and_the_loss_is_said(tmp_path):
    names = [f"{i}.jpg" for i in range(4)]
    whole = write_tar(tmp_path / "whole.tar", {n: n.encode() * 300 for n in names}).read_bytes()
    path = tmp_path / "cut.tar"
    for cut in [*range(0, 8192, 512), 100, 700, 1900, 5000, 8000]:
        path.write_bytes(whole[:cut])
        found = samples(open_corpus(path))
        good = [s for s in found if s.error is None]
        lost = [s for s in found if s.error is not None]
        assert [s.data for s in good] == [n.encode() * 300 for n in names[: len(good)]]
        assert lost and {s.error[0] for s in lost} == {"damaged-shard"}, cut
        assert len(good) == sum(cut >= 2048 * (i + 1) - 36 for i in range(4)), cut
        assert lost[-1].key == "cut.tar#end"
    path.write_bytes(whole[:8704])  # one of the two zero blocks is there
    assert all(s.error is None for s in samples(open_corpus(path)))


def test_a_flipped_header_is_a_row_and_no_bytes_crash_it(tmp_path):
    whole = write_tar(tmp_path / "w.tar", {f"{i}.jpg": b"x" * 600 for i in range(3)}).read_bytes()
    path = tmp_path / "a.tar"
    path.write_bytes(whole[:1536] + b"\x55" + whole[1537:])
    first, lost, last = samples(open_corpus(path))
    assert first.data == last.data == b"x" * 600 and last.key == "a.tar/2"
    assert lost.key == "a.tar#1536" and "no tar header at byte 1,536: 1,536 b" in lost.error[1]
    for content in (b"", b"not a tar at all", os.urandom(4096), b"<html>" * 1000):
        path.write_bytes(content)
        (sample,) = samples(open_corpus(path))
        assert sample.error[0] == "damaged-shard"


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_damaged_tars_never_raise(tmp_path_factory, data):
    folder = tmp_path_factory.mktemp("damaged")
    whole = bytearray(
        write_tar(folder / "a.tar", {f"{i}.jpg": b"x" * 700 for i in range(4)}).read_bytes()
    )
    for _ in range(data.draw(st.integers(1, 6))):
        whole[data.draw(st.integers(0, len(whole) - 1))] = data.draw(st.integers(0, 255))
    (folder / "a.tar").write_bytes(whole)
    assert all(s.error is None or s.data is None for s in samples(open_corpus(folder / "a.tar")))


def test_compressed_tars_are_refused_before_a_pass(tmp_path):
    with tarfile.open(tmp_path / "a.tar", "w:gz"):
        pass
    with pytest.raises(UserError, match=r"a\.tar: compressed with gzip.*decompress it"):
        open_corpus(tmp_path / "a.tar").check()
    with tarfile.open(tmp_path / "a.tar.gz", "w:gz"):
        pass
    with pytest.raises(UserError, match="decompress it first"):
        open_corpus(tmp_path / "a.tar.gz")


@pytest.fixture
def corpus(tmp_path):
    for n in range(6):
        members = {f"{i:02d}.jpg": f"{n} {i}".encode() for i in range(5)}
        write_tar(tmp_path / f"s-{n}.tar", members)
    return open_corpus(tmp_path)


def test_batches_travel_and_fetch_keeps_the_order(corpus):
    batch = pickle.loads(pickle.dumps(corpus.batch("s-3.tar", 1, 4)))
    assert len(batch) == 3 and [s.data for s in batch] == [b"3 1", b"3 2", b"3 3"]
    everything = [(s.key, s.shard, s.row) for s in samples(corpus)]
    mixed = [everything[i] for i in (29, 0, 7, 28, 3, 14, 0)]
    found = list(corpus.fetch(mixed))
    assert [(s.key, s.shard, s.row) for s in found] == mixed
    assert [s.data for s in found] == [b"5 4", b"0 0", b"1 2", b"5 3", b"0 3", b"2 4", b"0 0"]


def test_a_mixed_order_indexes_each_tar_once(corpus, monkeypatch):
    opened = []
    plain = reader.tar_members
    monkeypatch.setattr(reader, "tar_members", lambda path: opened.append(path) or plain(path))
    everything = [(s.key, s.shard, s.row) for s in samples(corpus)]
    assert len(opened) == 6
    mixed = everything[::5] + everything[1::5] + everything[2::5]
    assert [s.data for s in corpus.fetch(mixed)][-1] == b"5 2"
    assert len(opened) <= 12


def test_another_corpus_a_cut_one_and_a_vanished_shard(corpus, tmp_path):
    with pytest.raises(UserError, match=r"row 2 of shard 's-1\.tar' is 's-1\.tar/02', not 'other'"):
        list(corpus.fetch([("other", "s-1.tar", 2)]))
    with pytest.raises(UserError, match="has 5 samples, but row 9"):
        list(corpus.fetch([("s-1.tar/09", "s-1.tar", 9)]))
    before = corpus.fingerprint()
    batch = corpus.batch("s-5.tar")
    (tmp_path / "s-5.tar").unlink()
    assert {s.error for s in batch} == {("unreadable", "No such file or directory")}
    again = open_corpus(tmp_path)
    assert again.fingerprint() != before
    with pytest.raises(UserError, match=r"no shard 's-5.tar'.*moved or deleted"):
        list(again.fetch([("s-5.tar/00", "s-5.tar", 0)]))


def test_a_huge_member_is_not_read(tmp_path, monkeypatch):
    monkeypatch.setattr(tarwalk, "MAX_FILE_BYTES", 5000)
    path = write_tar(tmp_path / "a.tar", {"big.jpg": bytes(5001), "good.jpg": jpeg()})
    big, good = samples(open_corpus(path))
    assert big.error == ("too-large", "5,001 bytes, limit 5,000") and good.data == jpeg()
