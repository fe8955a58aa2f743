"""A tar is accounted for to its last byte, and its members make samples wherever they lie."""

from __future__ import annotations

import errno
import io
import os
import struct
import tarfile

import pytest

from core.errors import UserError
from data.corpus.sharded import tar as reader
from data.corpus.specs import open_corpus
from tests.data.shards import samples, write_tar


def tar_of(*names: str) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as tar:
        for name in names:
            member = tarfile.TarInfo(name)
            member.size = len(name) * 100
            tar.addfile(member, io.BytesIO(name.encode() * 100))
    return stream.getvalue()


def read(path, content: bytes, options: str = ""):
    path.write_bytes(content)
    return samples(open_corpus(f"{path}{options}"))


def keys(found):
    good = [s for s in found if s.error is None]
    assert all(s.data == (s.key.rpartition("/")[2] + ".jpg").encode() * 100 for s in good)
    return [s.key.removeprefix("a.tar/") if s.error is None else s.error[0] for s in found]


ONE, TWO = tar_of("0.jpg", "1.jpg"), tar_of("2.jpg", "3.jpg", "4.jpg")


@pytest.mark.parametrize(("content", "expected"), [
    (ONE + TWO, ["0", "1", "2", "3", "4"]),
    (ONE.rstrip(b"\0") + bytes(-len(ONE.rstrip(b"\0")) % 512) + TWO, ["0", "1", "2", "3", "4"]),
    (ONE + bytes(100_000) + TWO + bytes(7), ["0", "1", "2", "3", "4"]),
    (ONE + bytes(300_007) + TWO, ["0", "1", "2", "3", "4"]),  # nor is it a multiple of a block
    (ONE + b"a letter" * 99 + TWO, ["0", "1", "damaged-shard", "2", "3", "4"]),
    (b"a letter" * 99 + TWO, ["damaged-shard", "2", "3", "4"]),
    (ONE + b"a letter", ["0", "1", "damaged-shard"]),
    (ONE + b"a letter" * 9999, ["0", "1", "damaged-shard"]),
    (ONE + os.urandom(600_000) + TWO, ["0", "1", "damaged-shard", "2", "3", "4"]),
    (ONE + TWO[:2000], ["0", "1", "2", "damaged-shard", "damaged-shard"]),
    (ONE + TWO[:2048], ["0", "1", "2", "3", "damaged-shard"]),
    (b"", ["damaged-shard"]),
    (bytes(10240), []),
])  # fmt: skip
def test_read_to_the_end_of_the_file(tmp_path, content, expected):
    found = read(tmp_path / "a.tar", content)
    assert keys(found) == expected
    corpus = open_corpus(tmp_path / "a.tar")
    places = [(s.key, s.shard, s.row) for s in found]
    assert [s.data for s in corpus.fetch(places[::-1])] == [s.data for s in found[::-1]]


def test_a_lost_stretch_says_where_and_how_many_bytes(tmp_path):
    found = read(tmp_path / "a.tar", ONE + b"a letter" * 99 + TWO)
    assert found[2].key == f"a.tar#{len(ONE)}"
    assert found[2].error[1] == (
        f"after an end mark, no tar header at byte {len(ONE):,}: 792 bytes from there are neither "
        "a member nor padding"
    )
    middle = bytearray(TWO)
    middle[1024:1536] = b"\x55" * 512
    first, lost, last = read(tmp_path / "a.tar", bytes(middle))
    assert (first.key, lost.error[0], last.key) == ("a.tar/2", "damaged-shard", "a.tar/4")


def test_what_pax_and_gnu_headers_say_of_no_image_is_no_row(tmp_path):
    path = tmp_path / "a.tar"
    for form in (tarfile.PAX_FORMAT, tarfile.GNU_FORMAT):
        pax = {"comment": "of the whole archive"} if form == tarfile.PAX_FORMAT else None
        with tarfile.open(path, "w", format=form, pax_headers=pax) as tar:
            for kind, name in ((b"V", "label"), (b"D", "dir/"), (tarfile.DIRTYPE, "d"),
                               (tarfile.REGTYPE, "d/./" + "n" * 200 + ".jpg"),
                               (tarfile.REGTYPE, "./d//1.jpg")):  # fmt: skip
                member = tarfile.TarInfo(name)
                member.type = kind
                tar.addfile(member)
        whole = path.read_bytes()
        found = read(path, whole + whole)
        names = ["a.tar/d/" + "n" * 200, "a.tar/d/1"]
        assert [s.key for s in found] == names * 2 and not any(s.error for s in found)


def test_a_sparse_member_says_what_it_is(tmp_path):
    header = tarfile.TarInfo("s.jpg")
    header.size, header.type = 512, tarfile.GNUTYPE_SPARSE
    block = bytearray(header.tobuf(tarfile.GNU_FORMAT))
    block[386:410] = b"%011o\0%011o\0" % (0, 512)
    block[483:495] = b"%011o\0" % 4096
    block[148:156] = b"%06o\0 " % tarfile.calc_chksums(block)[0]
    found = read(tmp_path / "a.tar", bytes(block) + bytes(b"x" * 512) + TWO)
    assert [s.key for s in found] == ["a.tar/s", "a.tar/2", "a.tar/3", "a.tar/4"]
    assert "a sparse file; make the tar again" in found[0].error[1]


def test_sizes_that_lead_nowhere_end_no_pass(tmp_path):
    for kind, size in ((b"0", b"-0000001000\0"), (b"L", b"77777777777\0"),
                       (b"0", b"\x80" + struct.pack(">3xQ", 2**60)),
                       (b"x", b"\xff" * 12)):  # fmt: skip
        block = bytearray(tarfile.TarInfo("b.jpg").tobuf(tarfile.GNU_FORMAT))
        block[156:157], block[124:136] = kind, size
        block[148:156] = b"%06o\0 " % tarfile.calc_chksums(block)[0]
        found = read(tmp_path / "a.tar", ONE + bytes(block) + TWO)
        assert [s.data for s in found[:2]] == [b"0.jpg" * 100, b"1.jpg" * 100]
        assert found[2].error[0] in ("damaged-shard", "too-large"), size


def test_dots_in_names(tmp_path):
    names = [f"{lat}.{lon:04d}_7.5678.jpg" for lat in (40, 50) for lon in range(6)]
    names += ["50.jpg", "2019.07.01/x.1.JPG", "v1.2_final.png", "a..tif"]
    found = samples(open_corpus(write_tar(tmp_path / "a.tar", {n: n.encode() for n in names})))
    assert [s.key for s in found] == [f"a.tar/{n.rpartition('.')[0]}" for n in names]
    assert [s.data for s in found] == [n.encode() for n in names]


def test_what_may_be_read_in_two_ways_is_not_guessed_and_the_ways_out_work(tmp_path):
    members = {"t.north.jpg": b"n", "t.south.jpg": b"s", "a.jpg": b"a", "a.final.jpg": b"f",
               "b.jpg": b"b", "b.seg.png": b"m", "c.rgb.tif": b"c", "c.json": b"{}"}  # fmt: skip
    path = write_tar(tmp_path / "a.tar", members)
    t, a, b, c = samples(open_corpus(path))
    for sample in (t, a):
        assert "image=EXTENSION" in sample.error[1] and "SPEC?key=member" in sample.error[1]
    assert (b.data, c.data) == (b"b", b"c")  # a mask beside its image, and a field called rgb.tif
    assert [s.data for s in samples(open_corpus(f"{path}?image=jpg"))] == [None, b"a", b"b", None]
    assert samples(open_corpus(f"{path}?image=south.jpg"))[0].data == b"s"
    each = samples(open_corpus(f"{path}?key=member"))
    assert {s.key: s.data for s in each} == {n: d for n, d in members.items() if d != b"{}"}


def test_members_of_a_sample_anywhere_in_the_tar(tmp_path):
    names = [f"d/{i:03d}" for i in range(12)]
    columns = [[(f"{n}.json", b"{}") for n in names], [(f"{n}.jpg", n.encode()) for n in names]]
    for order in (columns[0] + columns[1], columns[1] + columns[0], columns[0] + columns[1][::-1]):
        for option in ("", "?key=member"):
            found = samples(open_corpus(f"{write_tar(tmp_path / 'a.tar', order)}{option}"))
            assert len(found) == 12 and all(s.error is None for s in found)
            assert sorted(s.data for s in found) == [n.encode() for n in names]
    again = write_tar(tmp_path / "a.tar", columns[0] + columns[1] + columns[1][:1])
    assert [s.key for s in samples(open_corpus(again))][-1] == "a.tar/d/000"  # a second of it


def test_by_its_member_a_file_that_is_named_as_no_image_is_for_the_decoder(tmp_path):
    path = write_tar(tmp_path / "a.tar", {"bare": b"1", "d/0.5": b"2", "x.txt": b"3",
                                          "y.jpg": b"4", "y.txt": b"5"})  # fmt: skip
    found = samples(open_corpus(f"{path}?key=member"))
    assert [(s.key, s.data) for s in found] == [
        ("bare", b"1"), ("d/0.5", b"2"), ("x.txt", b"3"), ("y.jpg", b"4")
    ]  # fmt: skip


@pytest.mark.parametrize("code", [errno.EMFILE, errno.EIO, errno.ESTALE])
def test_what_the_system_refuses_is_no_damage(tmp_path, monkeypatch, code):
    path = write_tar(tmp_path / "a.tar", {"0.jpg": b"x"})
    corpus = open_corpus(path)
    batch = corpus.batch("a.tar")

    def refuse(*_):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(reader.os, "pread", refuse)
    with pytest.raises(UserError, match=rf"a\.tar: cannot be read now \({os.strerror(code)}"):
        list(batch)
    os.utime(path, (1, 1))
    with pytest.raises(UserError, match="run the same command again"):
        samples(open_corpus(path))


def test_links_to_members_are_followed_as_in_a_folder(tmp_path):
    path = tmp_path / "a.tar"
    with tarfile.open(path, "w") as tar:
        for name, kind, target in (
            ("d/a.jpg", tarfile.REGTYPE, ""), ("hard.jpg", tarfile.LNKTYPE, "d/a.jpg"),
            ("d/soft.jpg", tarfile.SYMTYPE, "../e/b.jpg"), ("e/again.jpg", tarfile.SYMTYPE,
            "../d/soft.jpg"), ("e/b.jpg", tarfile.REGTYPE, ""), ("x.jpg", tarfile.SYMTYPE, "y.jpg"),
            ("y.jpg", tarfile.SYMTYPE, "x.jpg"), ("e/up.jpg", tarfile.SYMTYPE, "../../d/a.jpg"),
            ("folder", tarfile.SYMTYPE, "d"),
        ):  # fmt: skip
            member = tarfile.TarInfo(name)
            member.type, member.linkname = kind, target
            member.size = 0 if target else 7
            tar.addfile(member, io.BytesIO(name[:7].encode().ljust(7)))
    found = {s.key: s.data for s in samples(open_corpus(f"{path}?key=member"))}
    assert found == {
        "d/a.jpg": b"d/a.jpg", "hard.jpg": b"d/a.jpg", "d/soft.jpg": b"e/b.jpg",
        "e/again.jpg": b"e/b.jpg", "e/b.jpg": b"e/b.jpg",
        **dict.fromkeys(("x.jpg", "y.jpg", "e/up.jpg", "folder")),
    }  # fmt: skip
