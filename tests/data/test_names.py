"""Lists of names and tables of labels as other programs write them, Windows' among them."""

from __future__ import annotations

import codecs

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from core.errors import UserError
from data.formats.names import listed_names, portable, read_labels
from data.pairs.listing import open_sis
from dit.pretraining.labels import read_labels as labels_of
from prune.studies.truth import read_labels as truth_of

KEYS = ["Forest/001.jpg", "Sea/b c.jpg", "Sea/d.jpg"]
WINDOWS = ["Forest\\001.jpg", "Sea\\b c.jpg", "Sea\\d.jpg"]
ENCODINGS = {
    "utf-8": lambda text: text.encode(),
    "bom": lambda text: codecs.BOM_UTF8 + text.encode(),
    "crlf": lambda text: text.replace("\n", "\r\n").encode(),
    "utf-16": lambda text: text.replace("\n", "\r\n").encode("utf-16"),
}


@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize("name", ["a.tif", "images\\a.tif", ".\\images\\a.tif", '"images/a.tif"  '])
def test_names_of_a_list(tmp_path, encoding, name):
    path = tmp_path / "train.txt"
    path.write_bytes(ENCODINGS[encoding](f"{name}\n\n  \nb.tif\n"))
    assert listed_names(path) == ["a.tif", "b.tif"]


def test_a_list_of_another_encoding_is_named(tmp_path):
    (path := tmp_path / "train.txt").write_bytes("Grün.tif\n".encode("latin-1"))
    with pytest.raises(UserError, match=r"train.txt: not UTF-8 text .* save it as UTF-8"):
        listed_names(path)
    assert portable("  'a\\b' ") == "a/b" and listed_names(tmp_path / "none.txt") == []


def test_a_split_written_on_windows_is_found(tmp_path):
    for folder in ("images", "labels"):
        (tmp_path / "aachen" / folder).mkdir(parents=True)
    for number in range(1, 4):
        for folder, shape in (("images", (8, 8, 3)), ("labels", (8, 8))):
            path = tmp_path / "aachen" / folder / f"aachen_{number}.tif"
            Image.fromarray(np.ones(shape, np.uint8)).save(path)
    lists = {"train": "aachen\\images\\aachen_1.tif", "val": "aachen_2.tif", "test": "aachen_3.tif"}
    for split, name in lists.items():
        (tmp_path / f"{split}.txt").write_bytes(ENCODINGS["utf-16"](f"{name}\n"))
    (tmp_path / "xbd_files.csv").write_text("name\n")
    splits = open_sis(tmp_path).splits
    assert {name: [i.key for i in items] for name, items in splits.items()} == {
        name: [f"aachen/images/aachen_{n}.tif"]
        for n, name in enumerate(("train", "val", "test"), start=1)
    }


@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
@pytest.mark.parametrize("quote", ["", '"'])
def test_labels_of_a_csv(tmp_path, encoding, delimiter, quote):
    path = tmp_path / "labels.csv"
    rows = [["key", "label"], *zip(WINDOWS, ("13", "3", "23"), strict=True)]
    lines = [delimiter.join(f"{quote}{cell}{quote}" for cell in row) for row in rows]
    path.write_bytes(ENCODINGS[encoding]("\n".join(lines) + "  \n"))
    found = labels_of(path, KEYS)
    assert found.names == ["3", "13", "23"] and found.ids.tolist() == [1, 0, 2]
    assert truth_of(path, KEYS) == dict(zip(KEYS, ("13", "3", "23"), strict=True))


def test_labels_and_keys_of_a_csv_keep_their_zeros(tmp_path):
    path = tmp_path / "labels.csv"
    path.write_text("key,label\n0001,01\n0002, 1\n0003,\n")
    keys = ["0001", "0002", "0003"]
    assert read_labels(path).to_pydict() == {"key": keys, "label": ["01", "1", ""]}
    assert truth_of(path, keys) == {"0001": "01", "0002": "1", "0003": ""}  # '' is no class
    with pytest.raises(UserError, match="no label for 1 of 3 images, the first 0003"):
        labels_of(path, keys)


def test_backslashes_in_a_parquet_file_are_understood(tmp_path):
    path = tmp_path / "labels.parquet"
    pq.write_table(pa.table({"key": WINDOWS, "label": ["b", "a", "a"]}), path)
    assert labels_of(path, KEYS).ids.tolist() == [1, 0, 0]
    assert labels_of(path, WINDOWS).ids.tolist() == [1, 0, 0]  # names with a backslash in them
    pq.write_table(pa.table({"key": [*WINDOWS, KEYS[0]], "label": ["b", "a", "a", "c"]}), path)
    with pytest.raises(UserError, match=r"Forest/001.jpg is both b and c"):
        labels_of(path, KEYS)


def test_what_cannot_be_matched_says_how_the_file_names_images(tmp_path):
    path = tmp_path / "labels.csv"
    path.write_text("key,label\nC:\\data\\Forest\\001.jpg,a\n")
    for read in (labels_of, truth_of):
        with pytest.raises(UserError, match=r"no label for 3 of 3.* images as 'C:\\data\\Forest"):
            read(path, KEYS)
    path.write_text("image,class\na,b\n")
    for read in (labels_of, truth_of):
        with pytest.raises(UserError, match=r"columns key, label \(it has image, class\)"):
            read(path, KEYS)
        with pytest.raises(UserError, match="no such file"):
            read(tmp_path / "none.csv", KEYS)
