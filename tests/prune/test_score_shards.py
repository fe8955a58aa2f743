"""Stage I over shards: one corpus in every form gives one table, and no row is lost."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from PIL import ImageDraw

import data.filter as rules
from core.errors import UserError
from core.stage import read_manifest, sha256_file
from data.formats.index import read_index
from data.formats.tables import read_parts
from prune.score import main
from prune.select import main as select
from tests.data.pictures import encode, png, scene
from tests.data.shards import images, jpeg, write_arrow, write_tar
from world.build import main as make_world
from world.convert import main as convert

ROOT = Path(__file__).parents[2]
SPECS = {
    "webdataset": "{}/train-{{00000..00002}}.tar",
    "rs5m": "rs5m:{}",
    "rs5m-csv": "rs5m:{}",
    "arrow-early": "git10m:{}",
    "arrow": "{}/data-*.arrow",
    "arrow-saved": "{}",
    "parquet": "{}",
}


def score(corpus, out, *flags):
    return main(["--corpus", str(corpus), "--out", str(out), "--workers", "1", *flags])


def content(scores):
    names = ("digest", "bytes", "width", "height", "entropy", "status", "reason", "detail")
    return sorted(map(repr, read_parts(scores, names).to_pylist()))


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A world, its corpus as shards of every form, and the score table of each."""
    root = tmp_path_factory.mktemp("world")
    make_world(["--out", str(root / "w"), "--tiles", "120", "--size", "48", "--workers", "1",
                "--reference-per-class", "1", "--sr-images", "1", "--sis-pairs", "1",
                "--broken", "1"])  # fmt: skip
    score(root / "w" / "corpus", root / "scores" / "folder")
    for form, spec in SPECS.items():
        convert(["--world", str(root / "w"), "--out", str(root / form), "--form", form,
                 "--shard-rows", "45"])  # fmt: skip
        score(spec.format(root / form), root / "scores" / form)
    return root


@pytest.mark.parametrize("form", [form for form in SPECS if form != "rs5m"])
def test_every_form_gives_the_table_of_the_folder(world, form):
    expected = content(world / "scores" / "folder")
    assert len(expected) == 120 and content(world / "scores" / form) == expected


def test_rs5m_gives_that_of_a_lax_pass_for_its_members_name_no_format(world, tmp_path):
    score(world / "w" / "corpus", tmp_path / "lax", "--accept-misnamed")
    notes = " content under a .jpg name"
    expected = [row.replace(f"'PNG{notes}'", "''").replace(f"'GIF{notes}'", "''")
                for row in content(tmp_path / "lax")]  # fmt: skip
    assert content(world / "scores" / "rs5m") == sorted(expected)
    assert expected != content(world / "scores" / "folder")


@pytest.mark.parametrize("form", ["arrow", "arrow-saved", "parquet", "rs5m-csv"])
def test_where_keys_are_the_same_so_is_the_subset(world, form, tmp_path):
    def subset(name, method):
        out = tmp_path / f"{name}-{method}.parquet"
        select(["--method", method, "--scores", str(world / "scores" / name), "--ratio", "0.7",
                "--out", str(out)])  # fmt: skip
        return sorted(read_index(out)[0]["key"].to_pylist())

    for method in ("entropy", "random"):
        assert subset(form, method) == subset("folder", method)
        assert len(subset(form, method)) > 20


def test_quality_and_resolution_are_columns_where_the_corpus_has_them(world):
    def names(form):
        return read_parts(world / "scores" / form).schema.names[11:]

    assert names("folder") == names("webdataset") == names("rs5m") == []
    assert names("arrow-early") == ["resolution_m"]
    assert names("arrow") == names("parquet") == ["quality", "resolution_m"]
    table = read_parts(world / "scores" / "arrow")
    early = read_parts(world / "scores" / "arrow-early")
    assert table["resolution_m"].to_pylist() == early["resolution_m"].to_pylist()
    assert set(table["resolution_m"].to_pylist()) == {4.0, 2.0, 1.0, 0.5, None}
    assert table["quality"][0].as_py() == table["bytes"][0].as_py() % 1000 / 1000


@pytest.mark.parametrize("form", ["webdataset", "arrow", "parquet"])
def test_workers_and_a_second_run_change_nothing(world, form, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("prune.stage1.score.BATCH", 16)
    spec = SPECS[form].format(world / form)
    main(["--corpus", spec, "--out", str(tmp_path), "--workers", "2"])
    for path in (world / "scores" / form).glob("part-*.parquet"):
        assert (tmp_path / path.name).read_bytes() == path.read_bytes()
    assert main(["--corpus", spec, "--out", str(tmp_path), "--workers", "1"]) == 0
    assert "already done" in capsys.readouterr().out


def test_a_second_run_answers_without_opening_a_shard(world):
    out = world / "scores" / "arrow"
    code = (
        "import sys; from prune.score import main; main(sys.argv[1:]);"
        "assert not {'pyarrow', 'torch'} & set(sys.modules), 'heavy imports'"
    )
    spec = SPECS["arrow"].format(world / "arrow")
    flags = ["--corpus", spec, "--out", str(out), "--workers", "1"]
    subprocess.run([sys.executable, "-c", code, *flags], cwd=ROOT, check=True)


def test_killed_and_run_again_gives_the_same_bytes(world, tmp_path):
    script = (
        "import time, sys, prune.score, prune.stage1.score as s\n"
        "s.BATCH = 5\n"
        "plain = s.score_batch\n"
        "def slow(*given, **more):\n    time.sleep(0.05); return plain(*given, **more)\n"
        "s.score_batch = slow\n"
        "prune.score.main(sys.argv[1:])\n"
    )
    spec = SPECS["webdataset"].format(world / "webdataset")
    flags = ["--corpus", spec, "--out", str(tmp_path), "--workers", "1"]
    command = [sys.executable, "-c", script, *flags]
    process = subprocess.Popen(command, cwd=ROOT, env={**os.environ})
    while not list(tmp_path.glob("part-*.parquet")):
        assert process.poll() is None
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (tmp_path / "manifest.json").exists()
    subprocess.run(command, cwd=ROOT, check=True)
    for path in (world / "scores" / "webdataset").glob("part-*.parquet"):
        assert (tmp_path / path.name).read_bytes() == path.read_bytes()


def test_all_kinds_of_bad_input_in_one_corpus_add_up(tmp_path):
    """Every sample that was written, and every loss, is one row with a reason."""
    good = [jpeg(i) for i in range(9)]
    gif = encode(scene(), "GIF")
    bomb = png(60000, 60000, 8, 0, b"")
    folder = tmp_path / "c"
    write_tar(folder / "a.tar", [
        ("0.jpg", good[0]), ("1.jpg", b""), ("2.jpg", gif), ("3.png", bomb),
        ("0.jpg", good[1]), ("../4.jpg", good[2]), ("5.txt", b"alone"), ("6.jpg", good[3]),
    ])  # fmt: skip
    whole = write_tar(folder / "b.tar", {f"{i}.jpg": good[i] for i in range(4)}).read_bytes()
    (folder / "b.tar").write_bytes(whole[: len(whole) // 3])
    write_tar(folder / "c.tar", {})
    (folder / "d.tar").touch()
    score(folder, tmp_path / "out", "--statistics")
    rows = read_parts(tmp_path / "out").to_pylist()
    reasons = [(r["key"], r["reason"]) for r in rows if r["shard"] == "a.tar"]
    assert reasons == [
        ("a.tar/0", ""), ("a.tar/1", "empty"), ("a.tar/2", "misnamed"), ("a.tar/3", "too-large"),
        ("a.tar/0", "duplicate-key"), ("a.tar/../4", "unsafe-name"), ("a.tar/5", "no-image"),
        ("a.tar/6", ""),
    ]  # fmt: skip
    assert rows[4]["detail"] == "the name of row 0 of a.tar" and rows[4]["entropy"] is None
    summary = read_manifest(tmp_path / "out")["summary"]
    assert summary["n"] == len(rows) == summary["ok"] + sum(summary["rejected"].values())
    assert {r["shard"] for r in rows} == {"a.tar", "b.tar", "d.tar"}
    assert rows[-1]["reason"] == "damaged-shard" and rows[-1]["key"] == "d.tar#end"


def test_duplicate_names_across_shards_leave_the_first(tmp_path):
    for n, names in enumerate((["a", "b", "c"], ["d", "b", "e"], ["b", "f", None])):
        data = [jpeg(3 * n + i) for i in range(3)]
        columns = {"image": images(*data), "img_name": names}
        write_arrow(tmp_path / "c" / f"{n}.arrow", columns)
    score(tmp_path / "c", tmp_path / "out")
    rows = read_parts(tmp_path / "out").to_pylist()
    again = [(r["shard"], r["row"], r["detail"]) for r in rows if r["reason"] == "duplicate-key"]
    where = "the name of row 1 of 0.arrow"
    assert again == [("1.arrow", 1, where), ("2.arrow", 0, where)]
    ok = [r["key"] for r in rows if r["status"] == "ok"]
    assert ok == ["a", "b", "c", "d", "e", "f", "2.arrow#2"]
    before = {p.name: p.read_bytes() for p in (tmp_path / "out").glob("part-*")}
    (tmp_path / "out" / "manifest.json").unlink()  # stopped before the end: marked again
    score(tmp_path / "c", tmp_path / "out")
    assert {p.name: p.read_bytes() for p in (tmp_path / "out").glob("part-*")} == before
    score(f"{tmp_path}/c/*.arrow?key=row", tmp_path / "rows")
    assert set(read_parts(tmp_path / "rows")["status"].to_pylist()) == {"ok"}


def test_a_shard_that_changed_or_vanished_is_named(tmp_path):
    for n in range(2):
        write_tar(tmp_path / "c" / f"{n}.tar", {f"{i}.jpg": jpeg(i) for i in range(3)})
    score(tmp_path / "c", tmp_path / "out")
    (tmp_path / "c" / "1.tar").unlink()
    with pytest.raises(UserError, match=r"3 gone \(first '1\.tar/0'\)"):
        score(tmp_path / "c", tmp_path / "out")


def test_the_filter_counts_each_rule(tmp_path):
    noise = scene(1, 300, 280)
    wide, grey = scene(2, 700, 280), scene(3, 300, 300).convert("L")
    half = scene(4, 300, 300)
    half.paste((255, 255, 255), (0, 0, 300, 200))
    flat = scene(5, 300, 300)
    flat.paste((90, 90, 90), (0, 0, 300, 297))
    columns = {"image": images(*(encode(i, "PNG") for i in (
        noise, wide, grey, half, flat, noise, scene(6, 300, 200))), b"text"),
        "img_name": list("abcdefgh")}  # fmt: skip
    write_arrow(tmp_path / "c" / "0.arrow", columns)
    write_arrow(tmp_path / "c" / "1.arrow", {k: v[:1] for k, v in columns.items()})
    score(f"{tmp_path}/c/*.arrow?key=row", tmp_path / "all", "--statistics")
    assert rules.main(["--scores", str(tmp_path / "all"), "--out", str(tmp_path / "some")]) == 0
    table = read_parts(tmp_path / "some")
    reasons = dict(zip(table["key"].to_pylist(), table["reason"].to_pylist(), strict=True))
    assert list(reasons.values()) == [
        "", "filter:too-long", "filter:not-rgb", "filter:saturated", "filter:blank",
        "filter:copy", "filter:too-small", "not-an-image", "filter:copy",
    ]  # fmt: skip
    summary = read_manifest(tmp_path / "some")["summary"]
    assert summary["rules"] == {"not-rgb": 1, "too-small": 1, "too-long": 1, "saturated": 1,
                                "border": 0, "blank": 1, "copy": 2}  # fmt: skip
    assert summary["n"] == summary["ok"] + sum(summary["rejected"].values()) == 9
    assert table.filter(pc.equal(table["status"], "rejected"))["entropy"].null_count == 8
    off = ["--no-rgb", "--min-side", "1", "--max-aspect", "-1", "--max-clipped", "-1",
           "--min-entropy", "-1", "--copies"]  # fmt: skip
    rules.main(["--scores", str(tmp_path / "all"), "--out", str(tmp_path / "every"), *off])
    assert read_parts(tmp_path / "every").equals(read_parts(tmp_path / "all"))
    score(f"{tmp_path}/c/*.arrow?key=row", tmp_path / "plain")
    with pytest.raises(UserError, match="no column 'bands'; score with --statistics"):
        rules.main(["--scores", str(tmp_path / "plain"), "--out", str(tmp_path / "no")])
    with pytest.raises(UserError, match=r"no image passes.*too-small 8"):
        rules.main(["--scores", str(tmp_path / "all"), "--out", str(tmp_path / "none"),
                    "--min-side", "999", "--no-rgb"])  # fmt: skip


def test_a_black_collar_is_recorded_and_a_rule_finds_it(tmp_path, capsys):
    whole, corner, shadow = scene(1, 300, 280), scene(2, 300, 280), scene(3, 300, 280)
    ImageDraw.Draw(corner).polygon([(0, 0), (200, 0), (0, 190)], fill=0)
    ImageDraw.Draw(shadow).rectangle((100, 100, 220, 220), fill=0)
    shadow.putpixel((0, 5), (0, 0, 0))
    for name, picture in zip("abc", (whole, corner, shadow), strict=True):
        (tmp_path / "c").mkdir(exist_ok=True)
        picture.save(tmp_path / "c" / f"{name}.png")
        picture.save(tmp_path / "c" / f"{name}.jpg", quality=90)
    score(tmp_path / "c", tmp_path / "all", "--statistics")
    table = read_parts(tmp_path / "all")
    border = dict(zip(table["key"].to_pylist(), table["border"].to_pylist(), strict=True))
    black = np.count_nonzero((np.asarray(corner) == 0).all(axis=2)) / (300 * 280)
    assert border["b.png"] == pytest.approx(black, abs=1e-3) and 0.2 < black < 0.25
    assert border["b.jpg"] == pytest.approx(black, abs=0.02)
    assert [border[f"{n}.{kind}"] for n in "ac" for kind in ("png", "jpg")] == [0, 0, 0, 0]
    rules.main(["--scores", str(tmp_path / "all"), "--out", str(tmp_path / "some")])
    reasons = read_parts(tmp_path / "some")["reason"].to_pylist()
    assert reasons == ["", "", "filter:border", "filter:border", "", ""]
    # A table from before the column: read, filtered by the other rules, and not extended.
    part, manifest = tmp_path / "all" / "part-00000.parquet", tmp_path / "all" / "manifest.json"
    pq.write_table(pq.read_table(part).drop_columns(["border"]), part)
    record = json.loads(manifest.read_text())
    record["files"][part.name] = {"bytes": part.stat().st_size, "sha256": sha256_file(part)}
    manifest.write_text(json.dumps(record))
    capsys.readouterr()
    rules.main(["--scores", str(tmp_path / "all"), "--out", str(tmp_path / "old")])
    assert "--max-border left out: an older table" in capsys.readouterr().out
    assert set(read_parts(tmp_path / "old")["reason"].to_pylist()) == {""}
    with pytest.raises(UserError, match="without the column 'border'"):
        score(tmp_path / "c", tmp_path / "new", "--statistics", "--extend", str(tmp_path / "all"))


def test_the_total_of_a_folder_is_its_files(tmp_path, monkeypatch):
    monkeypatch.setattr("data.corpus.folder.SHARD_FILES", 8)
    for i in range(19):
        (tmp_path / "c").mkdir(exist_ok=True)
        (tmp_path / "c" / f"{i:02}.jpg").write_bytes(jpeg(i))
    totals = []
    monkeypatch.setattr("core.parts.progress", lambda **more: watched(totals, **more))
    score(tmp_path / "c", tmp_path / "s")
    assert set(totals) == {19}


def watched(totals, **more):
    from core.progress import progress

    bar = progress(**more)
    update = bar.update
    bar.update = lambda count: (totals.append(bar.total), update(count))
    return bar
