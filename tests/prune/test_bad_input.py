"""Bad input through whole passes: a row with a reason, or one error that names file and way out."""

from __future__ import annotations

import io
import os
import tarfile

import pyarrow as pa
import pytest

from core.errors import UserError
from core.stage import read_manifest
from data.corpus.specs import open_corpus
from data.formats.tables import read_parts
from prune.embed import main as embed
from prune.score import main
from tests.data.pictures import encode, png, scene
from tests.data.rasters import NAME, pixels, write_raster
from tests.data.shards import images, jpeg, write_arrow, write_tar

GIF = encode(scene(), "GIF")
BOMB = png(60000, 60000, 8, 0, b"")


def score(corpus, out):
    return main(["--corpus", str(corpus), "--out", str(out), "--workers", "1"])


def table(out):
    """Rows of a score table, after a look at its arithmetic."""
    rows = read_parts(out).to_pylist()
    summary = read_manifest(out)["summary"]
    assert summary["n"] == len(rows) == summary["ok"] + sum(summary["rejected"].values())
    assert summary["ok"] == sum(row["status"] == "ok" for row in rows)
    for row in rows:
        rejected = row["status"] == "rejected"
        assert rejected == bool(row["reason"]) == (row["entropy"] is None), row
    assert len({row["key"] for row in rows if row["reason"] != "duplicate-key"}) >= summary["ok"]
    return rows


def reasons(out):
    return {row["key"]: row["reason"] for row in table(out)}


def test_a_tar_with_escapes_links_odd_names_and_a_cut_end(tmp_path):
    path = tmp_path / "c" / "a.tar"
    path.parent.mkdir()
    with tarfile.open(path, "w", errors="surrogateescape") as tar:
        def add(name, data=b"", kind=tarfile.REGTYPE, target=""):
            member = tarfile.TarInfo(name)
            member.type, member.linkname, member.size = kind, target, len(data)
            tar.addfile(member, io.BytesIO(data))

        add("good.jpg", jpeg(1))
        add("/etc/passwd.jpg", jpeg(2))
        add("../up.jpg", jpeg(3))
        add("soft.jpg", kind=tarfile.SYMTYPE, target="/etc/passwd")
        add("hard.jpg", kind=tarfile.LNKTYPE, target="good.jpg")
        add("caf\udce9.jpg", jpeg(4))
        add("zero.jpg")
        add("gif.jpg", GIF)
        add("bomb.png", BOMB)
        add("good.jpg", jpeg(5))
        add("last.jpg", jpeg(6) * 3)
    path.write_bytes(path.read_bytes()[: -10240 + 600])  # into the last image
    path.write_bytes(path.read_bytes().rstrip(b"\0")[:-700])
    score(path.parent, tmp_path / "out")
    found = [(r["key"], r["reason"]) for r in table(tmp_path / "out")]
    assert found == [
        ("a.tar/good", ""), ("a.tar//etc/passwd", "unsafe-name"), ("a.tar/../up", "unsafe-name"),
        ("a.tar/soft", "unreadable"), ("a.tar/hard", ""), ("a.tar/caf\\xe9", ""),
        ("a.tar/zero", "empty"), ("a.tar/gif", "misnamed"), ("a.tar/bomb", "too-large"),
        ("a.tar/good", "duplicate-key"), ("a.tar/last", "damaged-shard"),
        ("a.tar#end", "damaged-shard"),
    ]  # fmt: skip


def test_arrow_cut_in_the_middle_beside_whole_ones(tmp_path):
    names = [f"{i}.png" if i == 6 else f"{i}.jpg" for i in range(8)]
    data = [jpeg(i) for i in range(4)] + [b"", GIF, BOMB, None]
    columns = {"image": images(*data), "img_name": names}
    write_arrow(tmp_path / "c" / "0.arrow", columns)
    many = {"image": images(*(jpeg(i) for i in range(250))),
            "img_name": [f"m{i}.jpg" for i in range(250)]}  # fmt: skip
    path = write_arrow(tmp_path / "c" / "1.arrow", many)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    (tmp_path / "c" / "2.arrow").touch()
    score(tmp_path / "c", tmp_path / "out")
    found = reasons(tmp_path / "out")
    assert [found[name] for name in names] == [
        "", "", "", "", "empty", "misnamed", "too-large", "no-image",
    ]  # fmt: skip
    assert found["1.arrow#100"] == "damaged-shard" and found["m99.jpg"] == ""
    assert found["2.arrow#0"] == "damaged-shard" and len(found) == 8 + 100 + 1 + 1


@pytest.mark.parametrize(("columns", "message"), [
    ({"label": [1, 2]}, r"b\.arrow: no image column.*Name one with SPEC\?image=COLUMN"),
    ({"image": ["a", "b"]}, r"b\.arrow: column 'image' is string, not encoded images"),
    ({"image": images(b"x"), "img_quality_score": [1.0]}, r"b\.arrow: has other columns"),
])  # fmt: skip
def test_columns_of_another_kind_end_the_run_before_it_begins(tmp_path, columns, message):
    write_arrow(tmp_path / "c" / "a.arrow", {"image": images(jpeg())})
    write_arrow(tmp_path / "c" / "b.arrow", pa.table(columns))
    with pytest.raises(UserError, match=message):
        score(tmp_path / "c", tmp_path / "out")
    assert not list(tmp_path.glob("out/part-*"))


@pytest.mark.parametrize("form", ["tar", "arrow", "geotiff"])
def test_a_shard_that_vanishes_between_two_passes(form, tmp_path):
    folder = tmp_path / "c"
    for n, quarter in enumerate(("ne", "nw")):
        if form == "tar":
            path = write_tar(folder / f"{n}.tar", {f"{i}.png": encode(scene(9 * n + i), "PNG")
                                                   for i in range(4)})  # fmt: skip
        elif form == "arrow":
            path = write_arrow(folder / f"{n}.arrow", {"image": images(jpeg(n), jpeg(n + 5))})
        else:
            path = folder / NAME.replace("_se_", f"_{quarter}_")
            write_raster(path, pixels(64, 64, seed=n))
    spec = f"usa1m:{folder}?chip=32" if form == "geotiff" else str(folder)
    score(spec, tmp_path / "scores")
    rows = len(table(tmp_path / "scores"))
    path.unlink()
    with pytest.raises(UserError) as caught:
        embed(["--corpus", spec, "--scores", str(tmp_path / "scores"), "--keep", "1",
               "--out", str(tmp_path / "embeddings"), "--workers", "1"])  # fmt: skip
    assert path.name in str(caught.value) or "no chip of it" in str(caught.value)
    gone = rf"(?s){rows // 2} gone \(first .*score into another --out"
    with pytest.raises(UserError, match=gone):
        score(spec, tmp_path / "scores")


@pytest.mark.slow  # it takes long to make them
def test_many_shards_of_files_in_one_folder(tmp_path):
    folder = tmp_path / "c"
    folder.mkdir()
    for i in range(20_500):
        os.close(os.open(f"{folder}/{i:06d}.jpg", os.O_CREAT | os.O_WRONLY))
    (folder / "020000.jpg").write_bytes(jpeg())
    corpus = open_corpus(folder)
    assert len(corpus) == 20_500 and len(corpus.shards()) == 6
    found = list(corpus.read("files-00004"))
    (sample,) = (s for s in found if s.data)
    assert len(found) == 4096 and (sample.key, sample.row) == ("020000.jpg", 20_000 % 4096)
    last = next(corpus.fetch([("020499.jpg", "files-00005", 20_499 % 4096)]))
    assert last.data == b"" and last.key == "020499.jpg"
    score(folder, tmp_path / "out")
    summary = read_manifest(tmp_path / "out")["summary"]
    assert (summary["n"], summary["ok"], summary["rejected"]) == (20_500, 1, {"empty": 20_499})


TRAPS = {
    "rgba_fourth_band_is_alpha.tif": ("alpha-band", "is alpha, not near infrared"),
    "landsat_not_rgbn.tif": ("band-order", "nothing says that its four bands are red, green"),
    "float64_bgrn.tif": ("not-8-bit", "float64"),
}


def test_real_traps_are_refused_for_what_their_names_say(shared_data, tmp_path):
    good = next((shared_data / "naip").glob("*2015*.tif"))
    mixed = tmp_path / "mixed"
    mixed.mkdir()
    for path in [good, *(shared_data / "traps" / name for name in TRAPS)]:
        (mixed / path.name).symlink_to(path)
    score(f"usa1m:{mixed}", tmp_path / "mixed-scores")
    rows = {r["key"]: r for r in table(tmp_path / "mixed-scores")}
    summary = read_manifest(tmp_path / "mixed-scores")["summary"]
    assert summary["refused_rasters"] == 3 and summary["rasters"] == 4 and summary["ok"] == 6
    for spec in (f"usa1m:{shared_data}/traps", f"{shared_data}/traps"):
        with pytest.raises(UserError) as caught:
            score(spec, tmp_path / f"traps-{len(spec)}")
        for name, (reason, text) in TRAPS.items():
            assert rows[name]["reason"] == reason and text in rows[name]["detail"]
            assert f"refused: {name}: {reason}: " in str(caught.value)
    for name, (reason, _) in TRAPS.items():
        with pytest.raises(UserError, match=f"refused: {name}: {reason}: "):
            score(shared_data / "traps" / name, tmp_path / name.removesuffix(".tif"))


def test_real_naip_is_read_as_chips_with_window_and_day(shared_data, tmp_path, capsys):
    score(shared_data / "naip", tmp_path / "scores")
    rows = table(tmp_path / "scores")
    ok = [row for row in rows if row["status"] == "ok"]
    assert len(rows) == 36 and len(ok) == 18 and "36 chips of 3 files" in capsys.readouterr().out
    assert {row["date"] for row in ok} == {"2009-08-18", "2015-09-26", "2020-08-31"}
    assert {tuple(row["window"]) for row in ok} == {
        (x, y, 256, 256) for x in (0, 256, 512) for y in (0, 256)
    }
    assert {(row["crs"], row["resolution_m"]) for row in ok} == {("EPSG:26914", 5.0)}
    first = next(r for r in ok if r["key"] == "m_4709963_se_14_1_20150926.tif#256,0,256x256")
    assert first["bounds"] == [487180.0, 5207965.0, 488460.0, 5209245.0]
    assert {row["reason"] for row in rows} == {"", "partial-chip"}
