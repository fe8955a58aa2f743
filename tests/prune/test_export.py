"""prune.index export: what other tools read is the subset, byte for byte."""

from __future__ import annotations

import json
import tarfile

import numpy as np
import pyarrow.parquet as pq
import pytest

from core.errors import UserError
from core.stage import sha256_file
from data.formats.index import read_index
from prune.index import main as index
from prune.score import main as score
from prune.select import main as select
from world.write.encode import jpeg


@pytest.fixture
def subset(tmp_path):
    random = np.random.default_rng(0)
    corpus = tmp_path / "corpus"
    (corpus / "a.b").mkdir(parents=True)
    for i in range(12):
        image = random.integers(0, 20 * (i + 1), (20, 24, 3)).astype(np.uint8)
        (corpus / "a.b" / f"tile.{i:02d}.jpg").write_bytes(jpeg(image, 90))
    score(["--corpus", str(corpus), "--out", str(tmp_path / "scores"), "--workers", "1"])
    out = tmp_path / "subset.parquet"
    flags = ["--method", "entropy", "--ratio", "0.4", "--scores", str(tmp_path / "scores")]
    assert select([*flags, "--out", str(out)]) == 0
    return out, corpus


def run(subset, form, out, *flags):
    assert index(["export", str(subset[0]), "--to", form, "--out", str(out), *flags]) == 0


def test_keys(subset, tmp_path):
    run(subset, "keys", tmp_path / "keys.txt")
    keys = read_index(subset[0])[0]["key"].to_pylist()
    assert len(keys) == 7
    assert (tmp_path / "keys.txt").read_text().splitlines() == keys


def test_parquet_for_datasets(subset, tmp_path):
    run(subset, "parquet", tmp_path / "plain")
    plain = pq.read_table(tmp_path / "plain" / "subset-00000.parquet")
    table, metadata = read_index(subset[0])
    assert plain.replace_schema_metadata(None).equals(table)
    features = json.loads(plain.schema.metadata[b"huggingface"])["info"]["features"]
    assert features["entropy"] == {"dtype": "float64", "_type": "Value"}
    assert features["similarity"] == {"dtype": "float32", "_type": "Value"}
    assert features["key"]["dtype"] == "string" and features["cluster"]["dtype"] == "int32"
    assert json.loads(plain.schema.metadata[b"rsprune"]) == metadata

    run(subset, "parquet", tmp_path / "images", "--corpus", str(subset[1]), "--shard-rows", "3")
    files = sorted((tmp_path / "images").glob("*.parquet"))
    tables = [pq.read_table(file) for file in files]
    assert [t.num_rows for t in tables] == [3, 3, 1]
    features = json.loads(tables[0].schema.metadata[b"huggingface"])["info"]["features"]
    assert features["image"] == {"_type": "Image"} and list(features) == tables[0].column_names
    rows = [row for t in tables for row in t.to_pylist()]
    assert [row["key"] for row in rows] == table["key"].to_pylist()
    for row in rows:
        assert row["image"]["bytes"] == (subset[1] / row["key"]).read_bytes()
        assert row["image"]["path"] == row["key"]


def test_webdataset_continues_and_repeats(subset, tmp_path):
    flags = ("--corpus", str(subset[1]), "--shard-rows", "4")
    run(subset, "webdataset", tmp_path / "one", *flags)
    members = {}
    for path in sorted((tmp_path / "one").glob("*.tar")):
        with tarfile.open(path) as tar:
            members |= {m.name: tar.extractfile(m).read() for m in tar}  # type: ignore[union-attr]
    table, _ = read_index(subset[0])
    assert len(members) == 2 * table.num_rows
    for i, row in enumerate(table.to_pylist()):
        assert members[f"{i:09d}.jpg"] == (subset[1] / row["key"]).read_bytes()
        assert json.loads(members[f"{i:09d}.json"]) == row
    # A stopped export: the second file is missing, the first must not be made again.
    first = tmp_path / "one" / "subset-000000.tar"
    before = first.stat().st_mtime_ns
    digest = sha256_file(tmp_path / "one" / "subset-000001.tar")
    (tmp_path / "one" / "subset-000001.tar").unlink()
    run(subset, "webdataset", tmp_path / "one", *flags)
    assert first.stat().st_mtime_ns == before
    assert sha256_file(tmp_path / "one" / "subset-000001.tar") == digest


def test_croissant(subset, tmp_path):
    run(subset, "croissant", tmp_path / "croissant.json", "--license", "CC-BY-NC-ND-4.0")
    found = json.loads((tmp_path / "croissant.json").read_text())
    assert found["@type"] == "sc:Dataset"
    assert found["conformsTo"] == "http://mlcommons.org/croissant/1.0"
    assert {"name", "description", "license", "url"} <= set(found)
    (file,) = found["distribution"]
    assert file["@type"] == "cr:FileObject" and file["sha256"] == sha256_file(subset[0])
    (records,) = found["recordSet"]
    columns = [field["source"]["extract"]["column"] for field in records["field"]]
    assert columns == read_index(subset[0])[0].column_names
    assert {field["source"]["fileObject"]["@id"] for field in records["field"]} == {file["@id"]}
    assert records["key"]["@id"] in {field["@id"] for field in records["field"]}
    # Every term that is used without a prefix is in the context or of schema.org.
    terms = {key for field in records["field"] for key in field} | set(records) | set(file)
    schema_org = {"name", "description", "contentUrl", "contentSize", "encodingFormat", "sha256"}
    assert terms - schema_org - {"@id", "@type"} <= set(found["@context"])


def test_export_refuses(subset, tmp_path, monkeypatch):
    with pytest.raises(UserError, match="needs --corpus"):
        run(subset, "webdataset", tmp_path / "x")
    with pytest.raises(UserError, match=r"ending in \.txt"):
        run(subset, "keys", tmp_path / "x")
    with pytest.raises(UserError, match="name of a folder"):
        run(subset, "parquet", tmp_path / "x.parquet")
    with pytest.raises(UserError, match="lies inside"):
        run(subset, "webdataset", subset[1] / "x", "--corpus", str(subset[1]))
    gone = read_index(subset[0])[0]["key"][2].as_py()
    (subset[1] / gone).unlink()
    with pytest.raises(UserError, match=rf"'{gone}': was readable when it was scored"):
        run(subset, "webdataset", tmp_path / "x", "--corpus", str(subset[1]))
    assert not (tmp_path / "x").exists()
    monkeypatch.setattr("data.corpus.verified.TRIED", 1)  # only the export itself can find it
    with pytest.raises(UserError, match=rf"{gone} of the subset cannot be read"):
        run(subset, "webdataset", tmp_path / "x", "--corpus", str(subset[1]))


@pytest.mark.parametrize("tried", [1, 32])
def test_export_refuses_other_bytes_under_a_name(subset, tmp_path, monkeypatch, tried):
    monkeypatch.setattr("data.corpus.verified.TRIED", tried)
    key = read_index(subset[0])[0]["key"][2].as_py()
    pixels = np.random.default_rng(9).integers(0, 256, (20, 24, 3)).astype(np.uint8)
    (subset[1] / key).write_bytes(jpeg(pixels, 90))
    for form in ("webdataset", "parquet"):
        with pytest.raises(UserError, match=rf"'{key}': its bytes .* are not those that were"):
            run(subset, form, tmp_path / form, "--corpus", str(subset[1]))
        assert not list((tmp_path / form).glob("subset-*"))


def test_an_index_of_version_01_is_exported(subset, tmp_path, capsys):
    old = tmp_path / "old.parquet"
    pq.write_table(pq.read_table(subset[0]).drop_columns(["digest"]), old)
    run((old, subset[1]), "webdataset", tmp_path / "tars", "--corpus", str(subset[1]))
    assert "has no digests" in capsys.readouterr().err
    run((old, subset[1]), "croissant", tmp_path / "croissant.json")
    (records,) = json.loads((tmp_path / "croissant.json").read_text())["recordSet"]
    columns = [field["source"]["extract"]["column"] for field in records["field"]]
    assert columns == pq.read_schema(old).names
