"""Stage I's pass: every file becomes one row, whatever it is, whoever is killed when."""

from __future__ import annotations

import hashlib
import io
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from PIL import Image

import data.corpus.folder
from core.errors import UserError
from core.stage import fingerprint, read_manifest
from data.formats.scores import SCORES
from data.formats.tables import read_parts
from prune.score import main
from tests.data.pictures import bad, encode, good, scene

ROOT = Path(__file__).parents[2]
GOOD, BAD = good(), bad()


def write(folder, files):
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)


def score(corpus, out, *flags):
    return main(["--corpus", str(corpus), "--out", str(out), "--workers", "1", *flags])


def rows(out):
    return {row["key"]: row for row in read_parts(out).to_pylist()}


def parts(out):
    return {path.name: path.read_bytes() for path in sorted(out.glob("part-*.parquet"))}


@pytest.fixture(scope="module")
def jpegs():
    return {f"{n // 10}/{n:03d}.jpg": encode(scene(n), "JPEG") for n in range(60)}


def test_every_kind_of_file_is_a_row(tmp_path):
    corpus, out = tmp_path / "corpus", tmp_path / "scores"
    write(corpus, GOOD)
    write(corpus, {name: content for name, (_, content) in BAD.items()})
    (corpus / "broken.jpg").symlink_to("nowhere")
    (corpus / "folder.jpg").mkdir()
    assert score(corpus, out) == 0
    table = read_parts(out)
    assert table.schema.equals(SCORES)
    found = rows(out)
    assert list(found) == sorted([*GOOD, *BAD, "broken.jpg"])
    for name, content in GOOD.items():
        row = found[name]
        assert (row["status"], row["reason"]) == ("ok", ""), row
        assert (row["width"], row["height"]) == (48, 40)
        assert row["digest"] == hashlib.sha256(content).hexdigest()
        assert row["bytes"] == len(content) and 0 < row["entropy"] <= 8
    for name, (reason, content) in BAD.items():
        row = found[name]
        assert (row["status"], row["reason"]) == ("rejected", reason), row
        assert row["entropy"] is None and row["bytes"] == len(content)
        assert row["digest"] == hashlib.sha256(content).hexdigest()
    assert found["tiny.jpg"]["width"] == 48 and found["tiny.jpg"]["height"] == 15
    assert found["colour-alpha.png"]["detail"] == "alpha dropped"
    broken = found["broken.jpg"]
    assert broken["reason"] == "unreadable" and broken["digest"] is None and broken["bytes"] == 0
    summary = read_manifest(out)["summary"]
    assert summary["n"] == len(found) and summary["ok"] == len(GOOD)
    assert sum(summary["rejected"].values()) == len(BAD) + 1


def test_entropy_is_that_of_pillows_luma(tmp_path):
    corpus = tmp_path / "corpus"
    files = {n: c for n, c in GOOD.items() if "alpha" not in n and "four" not in n}
    write(corpus, files)
    score(corpus, tmp_path / "scores", "--luma", "rgb")
    for name, row in rows(tmp_path / "scores").items():
        with Image.open(io.BytesIO(files[name])) as image:
            expected = image.convert("RGB").convert("L").entropy()
        assert row["entropy"] == pytest.approx(expected, abs=1e-11), name


def test_parts_do_not_depend_on_workers(tmp_path, jpegs, monkeypatch):
    monkeypatch.setattr(data.corpus.folder, "SHARD_FILES", 25)
    monkeypatch.setattr("prune.stage1.score.BATCH", 7)
    corpus = tmp_path / "corpus"
    write(corpus, jpegs)
    score(corpus, tmp_path / "one")
    score(corpus, tmp_path / "three", "--workers", "3")
    assert parts(tmp_path / "one") == parts(tmp_path / "three")
    assert list(parts(tmp_path / "one")) == [f"part-0000{n}.parquet" for n in range(3)]
    assert fingerprint(tmp_path / "one") == fingerprint(tmp_path / "three")
    table = read_parts(tmp_path / "one")
    assert table["row"].to_pylist() == [*range(25), *range(25), *range(10)]


def test_a_second_run_has_nothing_to_do_and_mends_a_damaged_part(tmp_path, jpegs, capsys):
    corpus, out = tmp_path / "corpus", tmp_path / "scores"
    write(corpus, jpegs)
    score(corpus, out)
    before = parts(out)
    assert score(corpus, out, "--workers", "2") == 0
    assert "already done" in capsys.readouterr().out
    (out / "part-00000.parquet").write_bytes(before["part-00000.parquet"][:-10])
    score(corpus, out)
    assert parts(out) == before


def test_killed_and_run_again_gives_the_same_bytes(tmp_path, jpegs):
    """Kill -9 in the middle; finished parts are kept, and the result is the undisturbed one."""
    corpus = tmp_path / "corpus"
    write(corpus, {f"{copy}/{name}": c for copy in range(2) for name, c in jpegs.items()})
    script = (
        "import time, sys, data.corpus.folder, prune.score, prune.stage1.score as s\n"
        "data.corpus.folder.SHARD_FILES = 15; s.BATCH = 5\n"
        "plain = s.score_batch\n"
        "def slow(*given, **more):\n    time.sleep(0.05); return plain(*given, **more)\n"
        "s.score_batch = slow\n"
        "prune.score.main(sys.argv[1:])\n"
    )

    def start(out):
        flags = ["--corpus", str(corpus), "--out", str(out), "--workers", "1"]
        return subprocess.Popen(
            [sys.executable, "-c", script, *flags], cwd=ROOT, env={**os.environ}
        )

    assert start(tmp_path / "calm").wait() == 0
    out = tmp_path / "killed"
    process = start(out)
    while len(list(out.glob("part-*.parquet"))) < 3:
        assert process.poll() is None
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    kept = {path: path.stat().st_mtime_ns for path in out.glob("part-*.parquet")}
    assert 3 <= len(kept) < 8 and not (out / "manifest.json").exists()
    assert start(out).wait() == 0
    assert parts(out) == parts(tmp_path / "calm") and len(parts(out)) == 8
    assert all(path.stat().st_mtime_ns == made for path, made in kept.items())
    assert fingerprint(out) == fingerprint(tmp_path / "calm")


def test_a_changed_corpus_is_refused_and_the_change_named(tmp_path, jpegs):
    corpus, out = tmp_path / "corpus", tmp_path / "scores"
    write(corpus, jpegs)
    score(corpus, out)
    (corpus / "0" / "new.jpg").write_bytes(jpegs["0/000.jpg"])
    (corpus / "1" / "010.jpg").unlink()
    (corpus / "2" / "020.jpg").write_bytes(b"cut")
    with pytest.raises(UserError) as caught:
        score(corpus, out)
    for change in ("1 new (first '0/new.jpg')", "1 gone (first '1/010.jpg')",
                   "1 of another size (first '2/020.jpg')"):  # fmt: skip
        assert change in str(caught.value)
    with pytest.raises(UserError, match="min_side: 16 there, 20 now"):
        score(corpus, out, "--min-side", "20")


def test_names_that_are_no_utf8(tmp_path, jpegs):
    corpus = tmp_path / "corpus"
    corpus.mkdir()
    content = jpegs["0/000.jpg"]
    with open(os.fsencode(corpus) + b"/caf\xe9.jpg", "wb") as stream:
        stream.write(content)
    score(corpus, tmp_path / "scores")
    assert list(rows(tmp_path / "scores")) == ["caf\\xe9.jpg"]
    assert score(corpus, tmp_path / "scores") == 0


def test_copies_are_counted_and_named(tmp_path, jpegs, capsys):
    placeholder = encode(Image.new("RGB", (32, 32), (200, 200, 200)), "PNG")
    corpus, out = tmp_path / "corpus", tmp_path / "scores"
    write(corpus, {**dict(list(jpegs.items())[:5]), "z/twin.jpg": jpegs["0/000.jpg"]})
    write(corpus, {f"blank/{n}.png": placeholder for n in range(4)})
    write(corpus, {f"broken/{n}.png": placeholder[:50] for n in range(9)})
    score(corpus, out)
    summary = read_manifest(out)["summary"]
    assert summary["copies"] == 4
    assert [(r["count"], r["key"]) for r in summary["repeated"]] == [
        (4, "blank/0.png"),
        (2, "0/000.jpg"),
    ]
    assert "most often, 4 times: blank/0.png" in capsys.readouterr().out
    assert rows(out)["blank/0.png"]["entropy"] == 0.0


def test_nothing_usable_is_an_error_that_keeps_the_table(tmp_path):
    corpus, out = tmp_path / "corpus", tmp_path / "scores"
    write(corpus, {"a.jpg": b"", "b.jpg": b"<html>"})
    for _ in range(2):
        with pytest.raises(UserError, match=r"0 ok, 2 rejected \(empty 1, not-an-image 1\)"):
            score(corpus, out)
    assert [row["reason"] for row in rows(out).values()] == ["empty", "not-an-image"]
    assert not (out / "manifest.json").exists()


def test_options_reach_the_decoder(tmp_path):
    corpus = tmp_path / "corpus"
    picture = encode(scene(), "PNG")
    write(corpus, {"a.png": picture, "b.jpg": picture, "c.png": encode(scene(width=9), "PNG")})
    score(corpus, tmp_path / "lax", "--accept-misnamed", "--min-side", "9")
    lax = rows(tmp_path / "lax")
    assert all(row["status"] == "ok" for row in lax.values())
    assert lax["b.jpg"]["detail"] == "PNG content under a .jpg name"
    score(
        corpus,
        tmp_path / "tight",
        "--max-pixels",
        "400",
        "--min-side",
        "9",
        "--entropy",
        "gradient",
    )
    assert {k: r["reason"] for k, r in rows(tmp_path / "tight").items()} == {
        "a.png": "too-large", "b.jpg": "misnamed", "c.png": ""}  # fmt: skip
    assert rows(tmp_path / "tight")["c.png"]["entropy"] != lax["c.png"]["entropy"]


def test_what_the_user_can_mend(tmp_path, jpegs):
    write(tmp_path / "corpus", jpegs)
    with pytest.raises(UserError, match="no such corpus"):
        score(tmp_path / "absent", tmp_path / "scores")
    with pytest.raises(UserError, match="lies inside"):
        score(tmp_path / "corpus", tmp_path / "corpus" / "scores")
    with pytest.raises(UserError, match="name a folder"):
        score(tmp_path / "corpus", tmp_path / "scores.parquet")
    with pytest.raises(UserError, match="--workers 0: input should be greater than or equal to 1"):
        main(["--corpus", str(tmp_path), "--out", str(tmp_path / "s"), "--workers", "0"])


def test_real_corpus(shared_data, tmp_path):
    """Four classes of AID: all of it decodes, and the flattest class is the one one expects."""
    corpus = tmp_path / "corpus"
    corpus.mkdir()
    for name in ("Desert", "DenseResidential", "Beach", "Port"):
        (corpus / name).symlink_to(shared_data / "corpus" / "aid" / name)
    score(corpus, tmp_path / "scores", "--workers", "2")
    by_class: dict[str, list[float]] = {}
    for key, row in rows(tmp_path / "scores").items():
        assert row["status"] == "ok"
        by_class.setdefault(key.split("/")[0], []).append(row["entropy"])
    means = {name: sum(values) / len(values) for name, values in by_class.items()}
    assert len(means) == 4 and min(means, key=means.__getitem__) == "Desert"
