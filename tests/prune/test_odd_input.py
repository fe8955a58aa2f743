"""Odd files, names, flags and places through the commands: what is said, and what is left alone."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from core.errors import UserError
from data.corpus.specs import open_corpus
from data.formats.tables import read_parts
from data.holdout import main as holdout
from data.pairs.listing import open_sr
from data.reference.sets import open_scenes
from data.setup.check import count_images
from prune.assign import main as assign
from prune.centroids import main as centroids
from prune.compare import main as compare
from prune.embed import main as embed
from prune.judge import main as judge
from prune.score import main as score_main
from prune.select import main as select
from prune.stability import main as stability
from tests.data.pictures import encode, png, scene
from tests.data.shards import images, jpeg, samples, write_arrow, write_tar

ROOT = Path(__file__).parents[2]


def score(corpus, out):
    assert score_main(["--corpus", str(corpus), "--out", str(out), "--workers", "1"]) == 0
    return {row["key"]: row for row in read_parts(out).to_pylist()}


@pytest.fixture
def corpus(tmp_path):
    for n in range(6):
        path = tmp_path / "c" / "class" / f"{n}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(jpeg(n))
    return tmp_path / "c"


def test_a_header_of_more_pixels_than_a_column_holds_is_one_reject(corpus, tmp_path):
    (corpus / "huge.png").write_bytes(png(2**32 - 1, 100, 8, 0, b""))
    rows = score(corpus, tmp_path / "s")
    assert len(rows) == 7 and rows["huge.png"]["reason"] == "too-large"
    assert rows["huge.png"]["width"] is None and "4294967295 x 100" in rows["huge.png"]["detail"]


def test_a_list_with_a_zero_byte_and_one_in_utf16(corpus, tmp_path):
    (corpus / "l.csv").write_bytes(b"0.jpg,x\n1.jpg\0,x\n")
    rows = score(corpus / "l.csv", tmp_path / "s")
    assert rows["0.jpg"]["status"] == "ok"
    assert rows["1.jpg\\x00"]["reason"] == "unreadable"
    (corpus / "l.csv").write_text("0.jpg,x\n", encoding="utf-16")
    with pytest.raises(UserError, match=r"l\.csv: is UTF-16; save it again as UTF-8"):
        score(corpus / "l.csv", tmp_path / "s2")
    (corpus / "l.csv").write_bytes(b"0.jpg,x\r1.jpg,x\r")
    with pytest.raises(UserError, match="a carriage return alone"):
        score(corpus / "l.csv", tmp_path / "s3")


@pytest.mark.parametrize("state", [{}, {"_data_files": None}, {"_data_files": ["a"]}])
def test_a_saved_data_set_whose_state_names_no_files(state, tmp_path):
    (tmp_path / "dataset_info.json").write_text("{}")
    (tmp_path / "state.json").write_text(json.dumps(state))
    with pytest.raises(UserError, match=r"state\.json: does not list the files"):
        open_corpus(tmp_path)


def test_two_columns_of_one_name_and_keys_of_bytes(tmp_path):
    column = images(jpeg())
    path = write_arrow(tmp_path / "twice.arrow", pa.table([column, column], names=["image"] * 2))
    with pytest.raises(UserError, match="two columns are called 'image'"):
        score(path, tmp_path / "s")
    columns = {"image": column, "img_name": pa.array([b"a\xff.jpg"])}
    path = write_arrow(tmp_path / "b.arrow", columns)
    assert [sample.key for sample in samples(open_corpus(path))] == ["a\\xff.jpg"]


def test_links_in_a_circle_beside_shards_and_classes(corpus, tmp_path):
    for name in ("round", "round.tif"):
        (corpus / name).symlink_to(name)
    assert open_scenes(corpus).classes == ["class"]
    assert score(corpus, tmp_path / "s")["round"]["reason"] == "unreadable"


def test_linked_folders_of_shards_are_read_and_dangling_shards_are_missed(tmp_path):
    write_tar(tmp_path / "disk2" / "b.tar", {"1.jpg": jpeg(1)})
    write_tar(tmp_path / "rs5m" / "a.tar", {"0.jpg": jpeg(0)})
    (tmp_path / "rs5m" / "more").symlink_to(tmp_path / "disk2")
    (tmp_path / "rs5m" / "again").symlink_to(tmp_path / "rs5m")
    assert open_corpus(f"rs5m:{tmp_path}/rs5m").shards() == ["a.tar", "more/b.tar"]
    (tmp_path / "rs5m" / "c.tar").symlink_to("gone")
    with pytest.raises(UserError, match=r"c\.tar: No such file"):
        open_corpus(f"rs5m:{tmp_path}/rs5m")


def test_a_corpus_without_a_usable_image_says_why(tmp_path):
    (tmp_path / "c").mkdir()
    (tmp_path / "c" / "a.jpg").write_bytes(encode(scene(), "GIF"))
    with pytest.raises(UserError, match=r"the first: a\.jpg: misnamed: GIF content under a \.jpg"):
        score(tmp_path / "c", tmp_path / "s")


def test_no_command_writes_over_a_file_that_is_not_its_own(corpus, tmp_path):
    before = score(corpus, tmp_path / "s")
    part = tmp_path / "s" / "part-00000.parquet"
    flags = ["--scores", str(tmp_path / "s"), "--out", str(part)]
    with pytest.raises(UserError, match=r"part-00000\.parquet: is there already"):
        select(["--method", "random", "--ratio", "0.5", *flags])
    with pytest.raises(UserError, match=r"part-00000\.parquet: is there already"):
        holdout(["--n", "2", "--holdouts", "pool", *flags])
    assert {row["key"]: row for row in read_parts(tmp_path / "s").to_pylist()} == before
    assert sorted(p.name for p in (tmp_path / "s").iterdir() if p.name[0] != ".") == [
        "manifest.json", "part-00000.parquet",
    ]  # fmt: skip


def test_a_folder_that_is_named_as_a_file_is_refused_before_the_work(corpus, tmp_path):
    embed(["--reference", str(corpus), "--out", str(tmp_path / "r"), "--workers", "1"])
    place = ["--out", str(tmp_path / "x.parquet")]
    here = ["--embeddings", str(tmp_path / "r")]
    for command, flags in (
        (embed, ["--reference", str(corpus)]),
        (centroids, [*here, "--clusters", "2"]),
        (assign, [*here, "--centroids", str(tmp_path / "r")]),
    ):
        with pytest.raises(UserError, match="name a folder, not a file"):
            command([*flags, *place])
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"cannot be written .*Not a directory"):
        embed(["--reference", str(corpus), "--out", str(tmp_path / "file" / "r")])
    with pytest.raises(UserError, match="name a file"):
        holdout(["--scores", str(tmp_path / "r"), "--out", str(tmp_path / "h.pq")])
    assert not list(tmp_path.glob("part-*"))


def test_an_input_of_another_kind_and_numbers_that_are_none(corpus, tmp_path):
    score(corpus, tmp_path / "s")
    embed(["--reference", str(corpus), "--out", str(tmp_path / "r"), "--workers", "1"])
    scores, reference = str(tmp_path / "s"), str(tmp_path / "r")
    out = ["--out", str(tmp_path / "x.parquet")]
    with pytest.raises(UserError, match=r"made by prune\.embed, not by prune\.score"):
        select(["--scores", reference, "--method", "random", *out])
    with pytest.raises(UserError, match=r"made by prune\.score, not by prune\.assign"):
        select(["--scores", scores, "--assignments", scores, *out])
    with pytest.raises(UserError, match=r"--keep 30\.0: .*less than or equal to 1"):
        embed(["--corpus", str(corpus), "--scores", scores, "--keep", "30", *out[:1], "y"])
    with pytest.raises(UserError, match="--seed -1"):
        centroids(["--embeddings", reference, "--clusters", "2", "--seed", "-1", "--out", "y"])
    embed(["--corpus", str(corpus), "--scores", scores, "--keep", "1", "--workers", "1",
           "--out", str(tmp_path / "e")])  # fmt: skip
    centroids(["--embeddings", reference, "--clusters", "2", "--out", str(tmp_path / "k")])
    with pytest.raises(UserError, match="--ram nan: input should be"):
        assign(["--embeddings", str(tmp_path / "e"), "--centroids", str(tmp_path / "k"),
                "--ram", "nan", "--out", str(tmp_path / "a")])  # fmt: skip
    with pytest.raises(UserError, match="--dedup-threshold nan: input should be"):
        select(["--method", "dinov2", "--scores", scores, "--embeddings", str(tmp_path / "e"),
                "--reference", reference, "--near", "nan", "--ratio", "0.5", *out])  # fmt: skip


def test_a_part_without_a_column_that_is_read_as_a_dictionary(tmp_path):
    (tmp_path / "t").mkdir()
    pq.write_table(pa.table({"key": ["a"]}), tmp_path / "t" / "part-00000.parquet")
    with pytest.raises(UserError, match=r"no column 'shard' \(it has key\)"):
        read_parts(tmp_path / "t", ["key"], dictionary=["shard"])


def test_a_tilde_that_no_shell_has_seen(corpus, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    for spec in ("~/c", "git10m:~/c", "~/c/class"):
        assert len(open_corpus(spec)) == 6
    assert open_scenes("ucm:~/c").classes == ["ucm/class"]


def test_places_that_are_not_utf8_and_records_that_are_damaged(corpus, tmp_path):
    with pytest.raises(UserError, match="not UTF-8; choose another"):
        score(corpus, tmp_path / "caf\udce9")
    score(corpus, tmp_path / "s")
    for text in ("{", "[]"):
        (tmp_path / "s" / "manifest.json").write_text(text)
        with pytest.raises(UserError, match=r"manifest\.json: unreadable .*delete it"):
            score(corpus, tmp_path / "s")
    (tmp_path / "s" / "manifest.json").unlink()
    (tmp_path / "s" / "stage.json").write_text("{")
    with pytest.raises(UserError, match=r"stage\.json: unreadable"):
        score(corpus, tmp_path / "s")


def test_the_long_commands_say_at_once_what_is_wrong(corpus, tmp_path):
    (corpus / "loose.jpg").write_bytes(jpeg(9))
    here = ["--corpus", str(corpus), "--reference", str(corpus), "--workers", "1"]
    for command in (judge, compare, stability):
        for flags, message in (
            (["--ratio", "85"], r"--ratio 85\.0: .*0\.85 drops"), (["--keep", "30"], r"--keep 30"),
        ):  # fmt: skip
            with pytest.raises(UserError, match=message):
                command([*here, *flags, "--out", str(tmp_path / "x")])
    assert not (tmp_path / "x").exists()
    for command in (judge, compare):
        with pytest.raises(UserError, match=r"loose\.jpg: not in a class folder"):
            command([*here, "--out", str(tmp_path / command.__module__)])
        there = {p.name for p in (tmp_path / command.__module__).iterdir()}
        assert there == {"scores"}
    labels = ["--labels", str(tmp_path / "gone.csv")]
    with pytest.raises(UserError, match=r"gone\.csv: no such file"):
        compare([*here, *labels, "--out", str(tmp_path / "y")])
    assert not (tmp_path / "y" / "pool").exists()
    with pytest.raises(UserError, match="--seeds: give at least one"):
        judge(["--seeds", "--out", str(tmp_path / "z")])


def test_linked_folders_count_everywhere_and_once(corpus, tmp_path):
    root = tmp_path / "root"
    root.mkdir()
    (root / "one").symlink_to(corpus / "class")
    (root / "two").symlink_to(corpus / "class")  # the same images again: counted once
    (root / "round").symlink_to(root)
    assert len(open_sr(root).splits["train"] + open_sr(root).splits["test"]) == 6
    pq.write_table(pa.table({"image": images(jpeg()), "label": [0]}), tmp_path / "t.parquet")
    (tmp_path / "tables" / "more").mkdir(parents=True)
    (tmp_path / "tables" / "linked").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "t.parquet").rename(tmp_path / "elsewhere" / "t.parquet")
    assert open_scenes(tmp_path / "tables").classes == ["0"]
    assert count_images(str(root), 100) == 6


def test_a_pipe_among_shards_is_refused_and_not_waited_for(tmp_path):
    write_tar(tmp_path / "b.tar", {"0.jpg": jpeg()})
    os.mkfifo(tmp_path / "a.tar")
    with pytest.raises(UserError, match=r"a\.tar: not a regular file"):
        open_corpus(tmp_path)


@pytest.mark.parametrize("closed", [">&-", "2>&-"])
def test_closed_streams_are_no_error(corpus, tmp_path, closed):
    flags = f"--corpus {corpus} --out {tmp_path / 's'} --workers 1"
    line = f"{sys.executable} -m prune.score {flags} {closed}"
    shown = subprocess.run(["bash", "-c", line], cwd=ROOT, capture_output=True, check=False)
    assert shown.returncode == 0 and b"Traceback" not in shown.stderr
