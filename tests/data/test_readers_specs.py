"""What a specification on the command line means, and what is said when it means nothing."""

from __future__ import annotations

import json

import pytest

from core.errors import UserError
from data.corpus.folder import FolderCorpus
from data.corpus.specs import PRESETS, expand, open_corpus, split_options
from tests.data.shards import images, jpeg, samples, write_arrow, write_tar


def arrow(path, name):
    return write_arrow(path, {"image": images(name.encode())})


def data(corpus):
    return [s.data for s in samples(corpus)]


def test_braces_and_wildcards(tmp_path):
    for name in ("a-0008.tar", "a-0009.tar", "a-0010.tar", "b-8.tar", "b-11.tar", "d/c.tar"):
        write_tar(tmp_path / name, {"0.jpg": name.encode()})

    def names(pattern):
        return [p.relative_to(tmp_path).as_posix() for p in expand(f"{tmp_path}/{pattern}")]

    assert names("a-{0008..0010}.tar") == ["a-0008.tar", "a-0009.tar", "a-0010.tar"]
    assert names("{b-{8..8},d/c}.tar") == ["b-8.tar", "d/c.tar"]
    assert names("{b,a}-*.tar") == [
        "b-11.tar", "b-8.tar", "a-0008.tar", "a-0009.tar", "a-0010.tar"
    ]  # fmt: skip
    with pytest.raises(UserError, match=r"a-0011\.tar: no such file \(2 missing, 3 there\)"):
        expand(f"{tmp_path}/a-{{0008..0012}}.tar")
    with pytest.raises(UserError, match=r"x-\*\.tar: nothing there"):
        open_corpus(f"{tmp_path}/x-*.tar")
    corpus = open_corpus(f"{tmp_path}/{{d,.}}/*.tar")  # named from what does not vary
    assert corpus.shards()[0] == "d/c.tar" and len(corpus.shards()) == 6
    assert open_corpus(f"{tmp_path}/d/*.tar").shards() == ["c.tar"]


def test_options():
    assert split_options("a/b.arrow?image=x&key=row") == ("a/b.arrow", {"image": "x", "key": "row"})
    assert split_options("a/b-?.arrow") == ("a/b-?.arrow", {})
    assert split_options("a/b-?x.arrow?key=row") == ("a/b-?x.arrow", {"key": "row"})


def test_folders_of_shards_and_of_images(tmp_path):
    write_tar(tmp_path / "tars" / "b.tar", {"0.jpg": b"b"})
    write_tar(tmp_path / "tars" / "a.tar", {"0.jpg": b"a"})
    (tmp_path / "tars" / "README.md").touch()
    (tmp_path / "tars" / ".cache").mkdir()
    assert data(open_corpus(tmp_path / "tars")) == [b"a", b"b"]
    assert isinstance(open_corpus(f"folder:{tmp_path}/tars"), FolderCorpus)
    arrow(tmp_path / "tars" / "c.arrow", "c")
    with pytest.raises(UserError, match=r"holds \.arrow and \.tar files; say which"):
        open_corpus(tmp_path / "tars")
    for other in ("x.jpg", "class/x.jpg"):  # a list beside images is not the corpus
        folder = tmp_path / other.replace("/", "-")
        arrow(folder / "list.arrow", "no")
        (folder / other).parent.mkdir(exist_ok=True)
        (folder / other).write_bytes(jpeg())
        assert len(open_corpus(folder)) == 2 and isinstance(open_corpus(folder), FolderCorpus)


def test_saved_to_disk(tmp_path):
    def save(folder, *names):
        for name in names:
            arrow(folder / name, name)
        files = {"_data_files": [{"filename": name} for name in names]}
        (folder / "state.json").write_text(json.dumps(files))
        (folder / "dataset_info.json").write_text("{}")

    save(tmp_path / "one", "data-1.arrow", "data-0.arrow")
    arrow(tmp_path / "one" / "cache-123.arrow", "left over from a map()")
    corpus = open_corpus(tmp_path / "one")
    assert data(corpus) == [b"data-1.arrow", b"data-0.arrow"]
    save(tmp_path / "both" / "train", "data-0.arrow")
    save(tmp_path / "both" / "test", "data-0.arrow")
    (tmp_path / "both" / "dataset_dict.json").write_text('{"splits": ["train", "test"]}')
    corpus = open_corpus(f"git10m:{tmp_path}/both")
    assert corpus.shards() == ["train/data-0.arrow", "test/data-0.arrow"]
    (tmp_path / "both" / "test" / "data-0.arrow").unlink()
    with pytest.raises(UserError, match=r"test/data-0\.arrow: No such file"):
        open_corpus(tmp_path / "both")
    (tmp_path / "one" / "state.json").write_text("{")
    with pytest.raises(UserError, match=r"state\.json: unreadable"):
        open_corpus(tmp_path / "one")


def test_presets(tmp_path):
    write_tar(tmp_path / "r" / "train" / "rs3-train-0000.tar", {"0.img_content": b"t"})
    write_tar(tmp_path / "r" / "val" / "rs3-val-0000.tar", {"0.img_content": b"v"})
    corpus = open_corpus(f"rs5m:{tmp_path}/r")
    assert corpus.shards() == ["train/rs3-train-0000.tar", "val/rs3-val-0000.tar"]
    assert data(corpus) == [b"t", b"v"]
    arrow(tmp_path / "g" / "lcybuaa___git-10_m" / "0.0.0" / "hash" / "git-10m-train.arrow", "x")
    assert data(open_corpus(f"git10m:{tmp_path}/g")) == [b"x"]
    (tmp_path / "e" / "images").mkdir(parents=True)
    (tmp_path / "e" / "images" / "x.jpg").write_bytes(b"y")
    (tmp_path / "e" / "meta.json").touch()
    assert data(open_corpus(f"git10m:{tmp_path}/e")) == [b"y"]
    with pytest.raises(UserError, match="is not a folder"):
        open_corpus(f"rs5m:{tmp_path}/absent")
    with pytest.raises(UserError, match="no option 'image'"):
        open_corpus(f"folder:{tmp_path}/e?image=x")


def test_a_list_of_images(tmp_path):
    for name in ("img_only/rs3/ben/a.png", "img_only/rs3/fmow/b.png", "img_only/rs3/fmow/a.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(name.encode())
    path = tmp_path / "rs3_train.csv"
    path.write_text('img_name,caption\nb.png,"one, two\nlines"\n\na.png,x\nfmow/a.png\ngone.png,\n'
                    "../../secret.png,x\nb.png,again\n")  # fmt: skip
    corpus = open_corpus(f"rs5m:{tmp_path}")
    found = samples(corpus)
    assert [(s.key, s.row, s.data) for s in found] == [
        ("b.png", 0, b"img_only/rs3/fmow/b.png"), ("a.png", 1, b"img_only/rs3/ben/a.png"),
        ("fmow/a.png", 2, b"img_only/rs3/fmow/a.png"), ("gone.png", 3, None),
        ("../../secret.png", 4, None), ("b.png", 5, b"img_only/rs3/fmow/b.png"),
    ]  # fmt: skip
    assert found[3].error[0] == "unreadable" and found[4].error[0] == "unsafe-name"
    places = [(s.key, s.shard, s.row) for s in found[:3]]
    assert [s.data for s in corpus.fetch(places[::-1])] == [s.data for s in found[2::-1]]
    some = corpus.batch("lines-00000", 1, 3)
    assert len(corpus) == 6 and len(some) == 2
    assert [sample.key for sample in some] == ["a.png", "fmow/a.png"]
    before = corpus.fingerprint()
    path.write_text("c.png,x\n")
    assert open_corpus(path).fingerprint() != before
    path.write_text("\n")
    with pytest.raises(UserError, match="names no images"):
        open_corpus(path).shards()
    (tmp_path / "other.csv").touch()
    with pytest.raises(UserError, match=r"several lists \(other\.csv, rs3_train\.csv\)"):
        open_corpus(f"rs5m:{tmp_path}")


def test_long_lists_are_cut_into_shards(tmp_path, monkeypatch):
    monkeypatch.setattr("data.corpus.listed.SHARD_FILES", 4)
    lines = [f'n{i}.jpg,"caption\nof {i}"\r\n' for i in range(10)]
    (tmp_path / "l.csv").write_bytes(("\ufeffimg_name,caption\r\n" + "".join(lines)).encode())
    corpus = open_corpus(tmp_path / "l.csv")
    assert [corpus.count(shard) for shard in corpus.shards()] == [4, 4, 2]
    assert [s.key for s in samples(corpus)] == [f"n{i}.jpg" for i in range(10)]


def test_what_is_not_understood_is_told_with_what_is(tmp_path):
    with pytest.raises(UserError) as caught:
        open_corpus("git-10m:/data/x")
    assert "no such corpus" in str(caught.value)
    assert all(f"{name}: " in str(caught.value) for name in PRESETS)
    write_tar(tmp_path / "a.tar", {})
    (tmp_path / "a.zip").touch()
    with pytest.raises(UserError, match=r"a\.zip is not a kind of corpus"):
        open_corpus(f"{tmp_path}/a.{{tar,zip}}")


def test_lists_from_windows_and_with_absolute_paths(tmp_path):
    for name in ("a/b/0.png", "a/b/1.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(name.encode())

    def read(*names):
        (tmp_path / "l.csv").write_text("\r\n".join(["img_name,text", *(f"{n},x" for n in names)]))
        corpus = open_corpus(tmp_path / "l.csv")
        samples = [s for shard in corpus.shards() for s in corpus.read(shard)]
        fetched = corpus.fetch([(s.key, s.shard, s.row) for s in samples])
        assert [s.data for s in fetched] == [s.data for s in samples]
        return {s.key: s.data for s in samples}

    both = {"a/b/0.png": b"a/b/0.png", "a/b/1.png": b"a/b/1.png"}
    assert read("a\\b\\0.png", "a/b/1.png") == both
    assert read(f"{tmp_path}/a/b/0.png", "a/b/1.png") == both
    (drive,) = read("C:\\data\\0.png")
    corpus = open_corpus(tmp_path / "l.csv")
    (sample,) = corpus.read(corpus.shards()[0])
    assert drive == "C:/data/0.png" and "a Windows drive" in (sample.error or ("", ""))[1]
    (tmp_path / "a\\b.png").write_bytes(b"backslash")  # where a file has one, it is a letter
    assert read("a\\b.png") == {"a\\\\b.png": b"backslash"}
