"""Which files of a folder are its shards, and which rows of them the data set."""

from __future__ import annotations

import json
import random

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from core.errors import UserError
from data.corpus.folder import FolderCorpus
from data.corpus.specs import expand, open_corpus
from data.reference.specs import open_place, resolve
from data.reference.tables import table_scenes
from tests.data.shards import images, jpeg, samples, write_arrow, write_tar


def arrow(path, *data: bytes, names: bool = True):
    columns = {"image": images(*data), "label": [d.decode() for d in data]}
    if names:
        columns["img_name"] = [f"n{d.decode()}" for d in data]
    return write_arrow(path, columns)


def saved(folder, indices=(), names=True, files=3, rows=4):
    data = [b"%02d" % i for i in range(files * rows)]
    for i in range(files):
        arrow(folder / f"data-{i}.arrow", *data[rows * i : rows * i + rows], names=names)
    state = {"_data_files": [{"filename": f"data-{i}.arrow"} for i in range(files)],
             "_indices_data_files": [{"filename": "indices.arrow"}]}  # fmt: skip
    write_arrow(folder / "indices.arrow", {"indices": pa.array(indices, pa.uint64())})
    (folder / "state.json").write_text(json.dumps(state))
    (folder / "dataset_info.json").write_text("{}")
    return data


def test_saved_with_indices(tmp_path):
    chosen = [9, 2, 11, 2, 3, 0, 8]
    data = saved(tmp_path / "s", chosen, names=False)
    for spec in (f"{tmp_path}/s", f"git10m:{tmp_path}/s", f"{tmp_path}/s/*.arrow"):
        corpus = open_corpus(spec)
        corpus.check()
        found = samples(corpus)
        assert len(corpus) == len(found) == 7
        assert [corpus.count(shard) for shard in corpus.shards()] == [4, 0, 3]
        assert [s.data for s in found] == [data[i] for i in (2, 2, 3, 0, 9, 11, 8)]
        assert [s.key for s in found][:4] == [f"data-0.arrow#{i}" for i in (2, 2, 3, 0)]
        places = [(s.key, s.shard, s.row) for s in found] * 2
        random.Random(1).shuffle(places)
        assert [(s.key, s.shard, s.row) for s in corpus.fetch(places)] == places
        assert [s.data for s in corpus.batch("data-2.arrow", 1)] == [data[11], data[8]]
    whole = corpus.fingerprint()
    saved(tmp_path / "s", [*chosen[:-1], 7], names=False)
    assert open_corpus(spec).fingerprint() != whole
    place = resolve(f"{tmp_path}/s")[0][0]
    locations, labels, _ = table_scenes(open_place(place))
    assert sorted(labels) == ["00", "02", "02", "03", "07", "09", "11"] and len(locations) == 7


def test_indices_that_cannot_be_applied_are_refused_by_name(tmp_path):
    saved(tmp_path, [1, 12])
    with pytest.raises(UserError, match=r"indices\.arrow: names row 12, but the shards have 12 r"):
        samples(open_corpus(tmp_path))
    with pytest.raises(UserError, match="which rows of all its shards are the data set; n"):
        open_corpus(tmp_path / "data-1.arrow")
    (tmp_path / "indices.arrow").write_bytes(b"")
    with pytest.raises(UserError, match=r"indices\.arrow: does not say which rows"):
        samples(open_corpus(tmp_path))
    saved(tmp_path, [1, 2])
    path = tmp_path / "data-0.arrow"
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(UserError, match=r"data-0\.arrow: .*cut short; its rows cannot be told"):
        samples(open_corpus(tmp_path))
    state = json.loads((tmp_path / "state.json").read_text())
    state["_data_files"][0]["take"] = 2
    (tmp_path / "state.json").write_text(json.dumps(state))
    with pytest.raises(UserError, match=r"state\.json: 'take' of a file"):
        open_corpus(tmp_path)


def test_a_hub_cache_is_its_shards(tmp_path):
    folder = tmp_path / "git-10m" / "default" / "0.0.0" / "abc"
    for i in range(2):
        arrow(folder / f"git-10m-train-{i:05d}-of-00002.arrow", b"%d0" % i, b"%d1" % i)
    arrow(folder / "git-10m-test.arrow", b"20")
    write_arrow(folder / "cache-0123456789abcdef.arrow", {"indices": pa.array([1, 0], pa.uint64())})
    arrow(folder / "cache-aa_00000_of_00002.arrow", b"90", b"91")
    specs = (f"{folder}", f"{folder}/*.arrow", f"git10m:{tmp_path}", f"{tmp_path}")
    for spec in specs:
        open_corpus(spec).check()
        assert len(samples(open_corpus(spec))) == 5
    info = {"splits": {"train": {"dataset_name": "git-10m", "shard_lengths": [2, 2]},
                       "test": {"dataset_name": "git-10m"}}}  # fmt: skip
    (folder / "dataset_info.json").write_text(json.dumps(info))
    arrow(folder / "mine.arrow", b"80")
    for spec in specs:
        assert len(samples(open_corpus(spec))) == 5
    assert len(samples(open_corpus(f"{folder}/*-train-*.arrow"))) == 4
    assert len(samples(open_corpus(f"{folder}/cache-aa*"))) == 2  # named, it is read
    (folder / "git-10m-train-00001-of-00002.arrow").unlink()
    assert len(samples(open_corpus(f"{folder}/*-train-*.arrow"))) == 2
    with pytest.raises(UserError, match=r"train-00001-of-00002\.arrow: no such file.*_info\.json"):
        open_corpus(folder)


def test_what_img2dataset_writes_is_its_tars(tmp_path):
    for i in range(2):
        members = {f"{i}{k:08d}.{e}": jpeg() if e == "jpg" else b"{}"
                   for k in range(3) for e in ("jpg", "json", "txt")}  # fmt: skip
        write_tar(tmp_path / f"{i:05d}.tar", members)
        pq.write_table(pa.table({"url": ["u"], "key": ["k"]}), tmp_path / f"{i:05d}.parquet")
        (tmp_path / f"{i:05d}_stats.json").write_text("{}")
    found = samples(open_corpus(tmp_path))
    assert len(found) == 6 and all(s.data == jpeg() for s in found)
    (tmp_path / "00001.tar").unlink()
    with pytest.raises(UserError, match=r"00001\.tar: no such file, but 00001\.parquet beside it"):
        open_corpus(tmp_path)
    assert len(samples(open_corpus(f"{tmp_path}/*.tar"))) == 3
    (tmp_path / "00001_stats.json").unlink()
    with pytest.raises(UserError, match=r"holds \.parquet and \.tar files; say which: '.*/\*\.tar"):
        open_corpus(tmp_path)
    files = tmp_path / "files"
    write = {"00000/0.jpg": jpeg(), "00000/0.json": b"{}", "00000/0.txt": b"", "00000.parquet": b""}
    for name, data in write.items():
        (files / name).parent.mkdir(parents=True, exist_ok=True)
        (files / name).write_bytes(data)
    assert isinstance(open_corpus(files), FolderCorpus)
    inside = tmp_path / "inside"
    inside.mkdir()
    table = pa.table({"key": ["000"], "jpg": [b"x"], "url": ["u"], "exif": ["{}"]})
    pq.write_table(table, inside / "00000.parquet")
    (inside / "00000_stats.json").write_text("{}")
    assert [s.key for s in samples(open_corpus(f"{inside}/*.parquet?key=key"))] == ["000"]


def test_shards_in_folders_below(tmp_path):
    table = pa.table({"image": images(b"x")})
    for name in ("y=2/part-0.parquet", "y=1/part-0.PARQUET", "_metadata", "_SUCCESS",
                 "y=1/.part-0.parquet.crc", "_temporary/0/part-9.parquet"):  # fmt: skip
        (tmp_path / "p" / name).parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(table, tmp_path / "p" / name)
    assert open_corpus(tmp_path / "p").shards() == ["y=1/part-0.PARQUET", "y=2/part-0.parquet"]
    (tmp_path / "p" / "_delta_log").mkdir()
    (tmp_path / "p" / "_delta_log" / "0.json").touch()
    with pytest.raises(UserError, match="a table of Delta Lake"):
        open_corpus(tmp_path / "p")
    for name in ("a.TAR", "b/c/d.tar", "b/e.tar"):
        write_tar(tmp_path / "t" / name, {"0.jpg": name.encode()})
    (tmp_path / "t" / "b" / "round").symlink_to(tmp_path / "t")
    (tmp_path / "t" / "notes").mkdir()
    (tmp_path / "t" / "notes" / "list.csv").touch()
    assert open_corpus(tmp_path / "t").shards() == ["a.TAR", "b/c/d.tar", "b/e.tar"]
    (tmp_path / "t" / "b" / "x.parquet").touch()
    with pytest.raises(UserError, match=r"'.*/t/\*\.tar'"):
        open_corpus(tmp_path / "t")


@pytest.mark.parametrize("name", ["b.tar.gz", "b.tgz", "b.tar.zst"])
def test_a_compressed_tar_beside_others_is_refused_by_name(tmp_path, name):
    write_tar(tmp_path / "a.tar", {"0.jpg": jpeg()})
    (tmp_path / name).touch()
    with pytest.raises(UserError, match=rf"{name}: a compressed tar is not read; decompress it"):
        open_corpus(tmp_path)
    assert len(samples(open_corpus(f"{tmp_path}/*.tar"))) == 1
    (tmp_path / "a.tar").rename(tmp_path / "a.zip")
    with pytest.raises(UserError, match="decompress it first"):
        open_corpus(tmp_path)
    (tmp_path / name).unlink()
    with pytest.raises(UserError, match=r"a\.zip: unpack it first"):
        open_corpus(tmp_path)


def test_braces_that_pad_or_go_down(tmp_path):
    for i in range(13):
        (tmp_path / f"{i:03d}.tar").touch()
    names = [p.name for p in expand(f"{tmp_path}/{{000..012}}.tar")]
    assert names == [f"{i:03d}.tar" for i in range(13)]
    down = expand(f"{tmp_path}/{{2..000}}.tar")
    assert [p.name for p in down] == ["002.tar", "001.tar", "000.tar"]


def test_a_list_with_a_byte_order_mark_quotes_and_commas(tmp_path):
    (tmp_path / "a,b.jpg").write_bytes(b"1")
    (tmp_path / "c.jpg").write_bytes(b"2")
    (tmp_path / "l.CSV").write_bytes('\ufeff"a,b.jpg",x\r\n"c.jpg","y\r\nz"\r\nc.jpg\r\n'.encode())
    found = samples(open_corpus(tmp_path / "l.CSV"))
    assert [(s.key, s.data) for s in found] == [("a,b.jpg", b"1"), ("c.jpg", b"2"), ("c.jpg", b"2")]


def test_unfinished_downloads_and_several_revisions_are_refused_by_name(tmp_path):
    hub = tmp_path / "datasets--a--b"
    for revision in ("aa", "bb"):
        write_tar(hub / "snapshots" / revision / "data" / "0.tar", {"0.jpg": jpeg()})
    for spec in (f"{hub}", f"rs5m:{hub}"):
        with pytest.raises(UserError, match=r"2 revisions of one data set; name one: .*/aa"):
            open_corpus(spec)
    assert open_corpus(hub / "snapshots" / "aa").shards() == ["data/0.tar"]
    (hub / "snapshots" / "aa" / "1.tar.part").touch()
    with pytest.raises(UserError, match=r"1\.tar\.part: an unfinished download"):
        open_corpus(hub / "snapshots" / "aa")
