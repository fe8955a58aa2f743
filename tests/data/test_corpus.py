"""Folders as corpora: every file has one printable name, a fixed place, and is never lost."""

from __future__ import annotations

import os
import pickle
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

import data.corpus.folder
from core.errors import UserError
from data.corpus.base import key_of_path, path_of_key
from data.corpus.specs import open_corpus
from prune import score
from tests.data.pictures import encode, scene


def fill(root, names):
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"bytes of " + os.fsencode(name))


def keys(corpus):
    return [sample.key for shard in corpus.shards() for sample in corpus.read(shard)]


def test_lists_recursively_in_byte_order_without_hidden_files(tmp_path):
    fill(tmp_path, ["b.jpg", "a/z.jpg", "a.jpg", "a/b/c.png", "B.txt", ".hidden", ".git/x.jpg",
                    "a/.tmp", "é.jpg", "x.jpg/inside.jpg"])  # fmt: skip
    corpus = open_corpus(tmp_path)
    expected = ["B.txt", "a.jpg", "a/b/c.png", "a/z.jpg", "b.jpg", "x.jpg/inside.jpg", "é.jpg"]
    assert keys(corpus) == expected == sorted(expected, key=str.encode)
    assert len(corpus) == corpus.count("files-00000") == 7
    assert all(s.data == b"bytes of " + s.key.encode() for s in corpus.read("files-00000"))


def test_sidecars_are_left_out_and_counted(tmp_path, capsys):
    beside = {
        "a.tif.ovr": ".ovr", "a.ovr": ".ovr", "a.tif.msk": ".msk", "a.tif.aux.xml": ".aux.xml",
        "a.jpg.xml": ".xml", "a.tfw": ".tfw", "a.JGW": ".jgw", "a.prj": ".prj", "a.rrd": ".rrd",
        "d/b.jpg.tmp": ".tmp", "d/b.jpg.tmp-4711": ".tmp", "d/b.jpg_original": "_original",
        "d/b.png~": "~", "d/b.jpg.part": ".part", "d/b.tif.crdownload": ".crdownload",
        "d/b.jpeg.bak": ".bak", "d/Thumbs.db": "Thumbs.db", "d/desktop.ini": "desktop.ini",
        "@eaDir/a.jpg": "@eaDir", "__MACOSX/a.jpg": "__MACOSX", "._a.jpg": "hidden",
        ".DS_Store": "hidden",
    }  # fmt: skip
    kept = ["a.tif", "a_mask.png", "a_ovr.tif", "d/b.jpg", "d/b.tmp", "d/notes.xml", "readme.txt"]
    fill(tmp_path / "c", [*beside, *kept])
    corpus = open_corpus(tmp_path / "c")
    assert keys(corpus) == kept
    assert corpus.facts() == {"left_out": Counter(beside.values())}
    (tmp_path / "c" / "b.jpg").write_bytes(encode(scene(), "JPEG"))
    assert score.main(["--corpus", str(tmp_path / "c"), "--out", str(tmp_path / "s")]) == 0
    shown = capsys.readouterr().out
    assert f"{len(beside)} files are no images of it, left out: .aux.xml 1, .bak 1, " in shown
    fill(tmp_path / "only", ["a.tfw", "a.tif.ovr"])
    with pytest.raises(UserError, match=r"no files in it \(hidden ones and sidecars do not"):
        keys(open_corpus(tmp_path / "only"))


def test_shards_rows_and_batches(tmp_path, monkeypatch):
    monkeypatch.setattr(data.corpus.folder, "SHARD_FILES", 4)
    fill(tmp_path, [f"{n:02d}" for n in range(10)])
    corpus = open_corpus(tmp_path)
    assert corpus.shards() == ["files-00000", "files-00001", "files-00002"]
    assert [corpus.count(shard) for shard in corpus.shards()] == [4, 4, 2] == corpus.counts()
    places = [(s.key, s.shard, s.row) for s in corpus.read("files-00002")]
    assert places == [("08", "files-00002", 0), ("09", "files-00002", 1)]
    batch = pickle.loads(pickle.dumps(corpus.batch("files-00001", 1, 3)))
    assert [(s.key, s.row) for s in batch] == [("05", 1), ("06", 2)] and len(batch) == 2
    assert len(corpus.batch("files-00002", 1, 99)) == 1
    for shard in ("files-00003", "files-1", "other"):
        with pytest.raises(UserError, match="no shard"):
            corpus.batch(shard)


def test_fetch_keeps_the_order_given(tmp_path):
    fill(tmp_path, ["a", "b", "c"])
    corpus = open_corpus(tmp_path)
    wanted = [("c", "files-00000", 2), ("a", "files-00000", 0), ("gone", "files-00000", 7)]
    found = list(corpus.fetch(wanted))
    assert [(s.key, s.shard, s.row) for s in found] == wanted
    assert found[0].data == b"bytes of c" and found[1].data == b"bytes of a"
    assert found[2].data is None and found[2].error == ("unreadable", "No such file or directory")


@pytest.mark.parametrize("key", ["../secret", "/etc/passwd", "a/../../secret"])
def test_fetch_does_not_leave_the_corpus(tmp_path, key):
    fill(tmp_path, ["corpus/a", "secret"])
    with pytest.raises(UserError, match="lead out"):
        list(open_corpus(tmp_path / "corpus").fetch([(key, "files-00000", 0)]))


def test_identity_follows_names_and_sizes(tmp_path):
    fill(tmp_path, ["a", "b"])
    first = open_corpus(tmp_path).fingerprint()
    assert open_corpus(tmp_path).fingerprint() == first
    (tmp_path / ".hidden").write_text("no matter")
    assert open_corpus(tmp_path).fingerprint() == first
    (tmp_path / "a").write_text("another size, this one")
    changed = open_corpus(tmp_path).fingerprint()
    (tmp_path / "a").rename(tmp_path / "c")
    assert len({first, changed, open_corpus(tmp_path).fingerprint()}) == 3


def test_names_that_are_no_utf8(tmp_path):
    names = [b"caf\xe9.jpg", b"back\\slash", b"new\nline", b"\xff/deep\x80.png", b"\\xe9"]
    for name in names:
        path = tmp_path / os.fsdecode(name)
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(name)
    corpus = open_corpus(tmp_path)
    samples = list(corpus.read("files-00000"))
    assert {s.data for s in samples} == set(names)
    named = {s.data: s.key for s in samples}
    assert named[b"caf\xe9.jpg"] == "caf\\xe9.jpg" and named[b"\\xe9"] == "\\\\xe9"
    assert all(key.encode() and key.isprintable() for key in named.values())
    fetched = corpus.fetch([(s.key, s.shard, s.row) for s in samples])
    assert [s.data for s in fetched] == [s.data for s in samples]


PART = st.binary(min_size=1, max_size=12).map(lambda raw: raw.replace(b"/", b"_"))


@given(PART.filter(lambda raw: raw != b".."), PART.filter(lambda raw: raw != b".."))
def test_keys_are_reversible_and_unique(first, second):
    one, other = os.fsdecode(first), os.fsdecode(second)
    key = key_of_path(one)
    key.encode()
    assert path_of_key(key) == one
    assert (key == key_of_path(other)) == (first == second)


def test_links(tmp_path):
    fill(tmp_path, ["corpus/a/x.jpg", "elsewhere/y.jpg", "elsewhere/sub/z.jpg", "single.jpg"])
    corpus = tmp_path / "corpus"
    (corpus / "file.jpg").symlink_to(tmp_path / "single.jpg")
    (corpus / "disk").symlink_to(tmp_path / "elsewhere")
    (corpus / "twice").symlink_to(tmp_path / "elsewhere")  # led there already
    (corpus / "a" / "up").symlink_to(corpus)  # back into the corpus
    (tmp_path / "elsewhere" / "home").symlink_to(corpus)
    (tmp_path / "elsewhere" / "loop").symlink_to(tmp_path / "elsewhere")
    (corpus / "broken.jpg").symlink_to("nowhere")
    (corpus / "self.jpg").symlink_to("self.jpg")
    samples = {s.key: s for s in open_corpus(corpus).read("files-00000")}
    assert list(samples) == ["a/x.jpg", "broken.jpg", "disk/sub/z.jpg", "disk/y.jpg", "file.jpg",
                             "self.jpg"]  # fmt: skip
    assert samples["file.jpg"].data == b"bytes of single.jpg"
    for key in ("broken.jpg", "self.jpg"):
        assert samples[key].data is None and samples[key].error[0] == "unreadable"


def test_what_cannot_be_read_is_a_sample_with_a_reason(tmp_path, monkeypatch):
    fill(tmp_path, ["a.jpg", "big.jpg", "vanishes.jpg"])
    os.mkfifo(tmp_path / "pipe.jpg")
    monkeypatch.setattr(data.corpus.folder, "MAX_FILE_BYTES", 15)
    corpus = open_corpus(tmp_path)
    assert len(corpus) == 4
    (tmp_path / "vanishes.jpg").unlink()
    errors = {s.key: s.error for s in corpus.read("files-00000")}
    assert errors["a.jpg"] is None
    assert errors["big.jpg"] == ("too-large", "16 bytes, limit 15")
    assert errors["pipe.jpg"] == ("unreadable", "not a regular file")
    assert errors["vanishes.jpg"] == ("unreadable", "No such file or directory")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_permission_denied(tmp_path):
    fill(tmp_path, ["locked.jpg", "folder/x.jpg"])
    (tmp_path / "locked.jpg").chmod(0)
    (sample, *_) = [s for s in open_corpus(tmp_path).read("files-00000") if s.key == "locked.jpg"]
    assert sample.error == ("unreadable", "Permission denied")
    (tmp_path / "folder").chmod(0)
    try:
        with pytest.raises(UserError, match="cannot be listed"):
            open_corpus(tmp_path).fingerprint()
    finally:
        (tmp_path / "folder").chmod(0o700)


def test_missing_empty_and_unknown_corpora(tmp_path):
    with pytest.raises(UserError, match="no such corpus"):
        open_corpus(tmp_path / "absent")
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / ".only-hidden").touch()
    with pytest.raises(UserError, match="no files in it"):
        open_corpus(tmp_path / "empty").fingerprint()
    (tmp_path / "file.xyz").touch()
    with pytest.raises(UserError, match=r"understood are:\n  FOLDER"):
        open_corpus(tmp_path / "file.xyz")
