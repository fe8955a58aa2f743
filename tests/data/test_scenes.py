"""Reference sets: class folders in every wrapping, Parquet, unions, draws, and what is said."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from core.errors import UserError
from data.reference.sets import open_reader, open_scenes, stratified
from data.reference.specs import resolve
from data.scenes import main
from tests.data.shards import jpeg, write_arrow


def touch(root: Path, *names: str, data: bytes = b"x") -> Path:
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return root


@pytest.fixture(autouse=True)
def no_variables(monkeypatch):
    for name in ("UCM", "NWPU", "AID", "WHURS19", "RSD46"):
        monkeypatch.delenv(f"{name}_ROOT", raising=False)


IMAGES = [f"{label}/{n}.jpg" for label in ("Airport", "bare_land") for n in range(3)]


class TestFolders:
    @pytest.mark.parametrize(
        "above",
        [
            [""],
            ["UCMerced_LandUse/Images/"],
            ["AID/AID/"],
            ["train/", "val/"],
            ["Dataset/train/train/", "Dataset/Test/Test/"],
        ],
    )
    def test_classes_below_any_wrapping(self, tmp_path, above):
        for folder in above:
            touch(tmp_path, *(folder + name for name in IMAGES))
        touch(tmp_path, "readme.txt", "__MACOSX/._x.jpg")
        scenes = open_scenes(tmp_path)
        assert scenes.classes == ["Airport", "bare_land"]
        assert len(scenes.locations) == 6 * len(above) == len(set(scenes.locations))
        assert scenes.loose == ["readme.txt"]

    def test_folders_within_a_class_belong_to_it(self, tmp_path):
        touch(tmp_path, "a/2020/1.jpg", "a/2021/1.jpg", "b/1.jpg", "train/1.jpg")
        scenes = open_scenes(tmp_path)
        assert Counter(scenes.labels) == {"a": 2, "b": 1, "train": 1}

    def test_a_class_may_be_called_test_when_others_are_not(self, tmp_path):
        touch(tmp_path, "test/x/1.jpg", "river/x/1.jpg")
        assert open_scenes(tmp_path).classes == ["river", "test"]

    def test_classes_without_a_file_are_named(self, tmp_path):
        touch(tmp_path, *(f"Images/{name}" for name in IMAGES))
        (tmp_path / "Images" / "hollow").mkdir()
        assert open_scenes(tmp_path).empty == ["hollow"]

    def test_real_scenes(self, shared_data):
        scenes = open_scenes(shared_data / "reference")
        assert len(scenes.locations) == 700 and len(scenes.classes) == 7 and not scenes.notes
        aid = open_scenes(f"aid:{shared_data / 'corpus'}")
        assert len(aid.classes) == 30 and len(aid.locations) == 4000
        assert any("10,000 are published" in note for note in aid.notes)


def write_parquet(path: Path, labels: list[object], names: list[str] | None = None, **more) -> Path:
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    image = pa.array([{"bytes": jpeg(n), "path": f"{n}.jpg"} for n in range(len(labels))], kind)
    table = pa.table({"image": image, "label": pa.array(labels), **more})
    features: dict[str, object] = {"image": {"_type": "Image"}}
    if names is not None:
        features["label"] = {"names": names, "_type": "ClassLabel"}
    hf = json.dumps({"info": {"features": features}})
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table.replace_schema_metadata({"huggingface": hf}), path, row_group_size=2)
    return path


class TestTables:
    def test_names_come_from_the_class_label(self, tmp_path):
        write_parquet(tmp_path / "data/train-0.parquet", [1, 0, None, 1, -1], ["port", "river"])
        (tmp_path / "card.png").write_bytes(b"x")
        touch(tmp_path, ".cache/huggingface/x.parquet")
        scenes = open_scenes(f"aid:{tmp_path}")
        assert scenes.labels == ["aid/river", "aid/port", "aid/river"]
        shard = "data/train-0.parquet"
        keys = [f"aid/{shard}#{row}" for row in (0, 1, 3)]
        assert scenes.locations == [(k, shard, r) for k, r in zip(keys, (0, 1, 3), strict=True)]
        assert scenes.loose == [f"aid/{shard}#2", f"aid/{shard}#4"]
        found = list(open_reader(scenes.specs).fetch(scenes.locations[::-1]))
        assert [s.key for s in found] == keys[::-1]
        assert [s.data for s in found] == [jpeg(3), jpeg(1), jpeg(0)]

    def test_text_and_bare_numbers(self, tmp_path):
        write_parquet(tmp_path / "a.parquet", ["port", "river"])
        assert open_scenes(tmp_path / "a.parquet").labels == ["port", "river"]
        write_parquet(tmp_path / "b.parquet", [7, 3])
        assert open_scenes(str(tmp_path / "b.parquet")).labels == ["7", "3"]

    def test_arrow_files_and_a_named_column(self, tmp_path):
        columns = {"picture": pa.array([jpeg(0)]), "thumb": pa.array([jpeg(1)]), "kind": ["port"]}
        write_arrow(tmp_path / "x.arrow", columns)
        spec = f"{tmp_path}?image=picture&label=kind"
        scenes = open_scenes(spec)
        assert scenes.labels == ["port"]
        (sample,) = open_reader(scenes.specs).fetch(scenes.locations)
        assert sample.data == jpeg(0)

    @pytest.mark.parametrize(
        "labels,options,message",
        [
            ([[1], [2]], "", "is list<"),
            ([1.5, 2.5], "", "is double, not a label"),
            ([0, 1], "?label=kind", "no column 'kind'"),
            ([0, 5], "", "holds 5, but names 2 classes"),
        ],
    )
    def test_columns_that_are_no_labels(self, tmp_path, labels, options, message):
        names = ["a", "b"] if labels == [0, 5] else None
        path = write_parquet(tmp_path / "a.parquet", labels, names)
        with pytest.raises(UserError, match=message):
            open_scenes(f"{path}{options}")

    def test_no_label_column(self, tmp_path):
        write_arrow(tmp_path / "x.arrow", {"image": pa.array([jpeg(0)]), "caption": ["port"]})
        with pytest.raises(UserError, match=r"no label column; it has image.*\?label=COLUMN"):
            open_scenes(tmp_path)

    def test_a_damaged_file_is_a_reject_not_a_stop(self, tmp_path):
        write_parquet(tmp_path / "a.parquet", ["port", "river"])
        whole = write_parquet(tmp_path / "b.parquet", ["port", "river"])
        whole.write_bytes(whole.read_bytes()[:-40])
        scenes = open_scenes(tmp_path)
        assert len(scenes.locations) == 2 and scenes.loose == ["b.parquet#0"]


class TestUnions:
    def make(self, root: Path) -> Path:
        for name in ("UCMerced_LandUse", "NWPU-RESISC45", "AID", "WHU-RS19", "RSD46-WHU"):
            touch(root / name, *IMAGES)
        return root

    def test_keys_and_labels_are_unique_across_sets(self, tmp_path):
        scenes = open_scenes(f"union5:{self.make(tmp_path)}")
        assert len(scenes.locations) == len({key for key, _, _ in scenes.locations}) == 30
        assert len(scenes.classes) == 10 and "whurs19/Airport" in scenes.classes
        keys = [key for key, _, _ in scenes.locations]
        mixed = scenes.locations[::7]
        found = list(open_reader(scenes.specs).fetch(mixed))
        assert [s.key for s in found] == keys[::7] and all(s.data == b"x" for s in found)

    def test_says_what_differs_from_what_is_published(self, tmp_path):
        notes = "\n".join(open_scenes(f"union5:{self.make(tmp_path)}").notes)
        assert "ucm: 6 images, 2,100 are published" in notes
        assert "nwpu: 2 classes, 45 are published" in notes
        assert "aid: Airport 3, bare_land 3: 220 to 420 images a class" in notes
        assert "whurs19: 6 images, 1,005 are published" in notes
        assert "rsd46: 11,000 were to be drawn; all 6 are taken" in notes
        assert "union5: 30 images, the paper's has 55,605" in notes
        assert "43,600" in "\n".join(open_scenes(f"union3:{tmp_path}").notes)

    def test_counts_as_published_are_no_note(self, tmp_path):
        names = [f"Images/class{c:02}/{n:03}.tif" for c in range(21) for n in range(100)]
        touch(tmp_path, *names)
        assert open_scenes(f"ucm:{tmp_path}").notes == []
        (tmp_path / names[0]).rename(tmp_path / "Images/class01/notes.txt")
        assert [note.split(": ", 1)[1] for note in open_scenes(f"ucm:{tmp_path}").notes] == [
            "1 files in class folders are not named as images",
            "2,099 images, 2,100 are published",
            "class00 99, class01 101: 100 images a class are published",
        ]

    def test_variables_stand_for_places(self, tmp_path, monkeypatch):
        self.make(tmp_path)
        with pytest.raises(UserError, match="set UCM_ROOT"):
            open_scenes("ucm:")
        monkeypatch.setenv("UCM_ROOT", str(tmp_path / "UCMerced_LandUse"))
        monkeypatch.setenv("NWPU_ROOT", str(tmp_path / "NWPU-RESISC45"))
        one, two = open_scenes("ucm:,nwpu:"), open_scenes(["ucm:", "nwpu:"])
        assert one.locations == two.locations and one.fingerprint == two.fingerprint
        monkeypatch.setenv("AID_ROOT", str(tmp_path / "AID"))
        assert len(open_scenes("union3:").locations) == 18
        (tmp_path / "elsewhere").mkdir()
        (tmp_path / "AID").rename(tmp_path / "elsewhere" / "aid")
        monkeypatch.delenv("AID_ROOT")
        with pytest.raises(UserError, match="no folder of aid in it"):
            open_scenes(f"union3:{tmp_path}")

    def test_plain_folders_together(self, tmp_path):
        self.make(tmp_path)
        scenes = open_scenes([str(tmp_path / "AID"), f"mine:{tmp_path / 'WHU-RS19'}"])
        assert {key.split("/")[0] for key, _, _ in scenes.locations} == {"AID", "mine"}
        assert [s.key for s in open_reader(scenes.specs).fetch(scenes.locations[5:7])] == [
            "AID/bare_land/2.jpg",
            "mine/Airport/0.jpg",
        ]
        with pytest.raises(UserError, match="names 'ucm' twice"):
            open_scenes(f"ucm:{tmp_path / 'AID'},ucm:{tmp_path / 'AID'}")

    def test_what_is_nothing(self, tmp_path):
        with pytest.raises(UserError, match="no such folder"):
            open_scenes(f"aid:{tmp_path / 'nowhere'}")
        with pytest.raises(UserError, match="unknown option 'm'"):
            open_scenes(f"{self.make(tmp_path)}?m=3")
        with pytest.raises(UserError, match="whole numbers"):
            resolve("aid:/x?n=many")


class TestDraw:
    def test_rsd46_gives_239_of_each_class_and_six_more(self):
        labels = [f"class{c:02}" for c in range(46) for _ in range(500)]
        keys = [f"{label}/{i}" for i, label in enumerate(labels)]
        drawn = stratified(keys, labels, 11_000, 0)
        counts = Counter(labels[i] for i in drawn)
        assert len(drawn) == len(set(drawn)) == 11_000 and drawn == sorted(drawn)
        assert [counts[f"class{c:02}"] for c in range(46)] == [240] * 6 + [239] * 40
        assert drawn != stratified(keys, labels, 11_000, 1)
        assert drawn == stratified(keys, labels, 11_000, 0)

    def test_small_classes_leave_their_share_to_others(self):
        labels = ["a"] * 3 + ["b"] * 50 + ["c"] * 50
        drawn = stratified([str(i) for i in range(103)], labels, 30, 0)
        assert Counter(labels[i] for i in drawn) == {"a": 3, "b": 14, "c": 13}
        assert stratified(["x", "y"], ["a", "b"], 9, 0) == [0, 1]

    def test_does_not_depend_on_what_lies_above(self, tmp_path):
        names = [f"c{c}/{n}.jpg" for c in range(4) for n in range(20)]
        touch(tmp_path / "a", *names)
        touch(tmp_path / "b", *(f"RSD46/all/{name}" for name in names))
        one, two = (open_scenes(f"rsd46:{tmp_path / x}?n=10") for x in "ab")
        ends = [[key.split("/")[-2:] for key, _, _ in s.locations] for s in (one, two)]
        assert ends[0] == ends[1] and len(ends[0]) == 10
        assert one.fingerprint != open_scenes(f"rsd46:{tmp_path / 'a'}?n=10&seed=1").fingerprint
        whole = open_scenes(f"rsd46:{tmp_path / 'a'}?n=all")
        assert len(whole.locations) == 80
        assert [d["sample"] for d in one.describe()] == [10]

    def test_what_is_no_image_by_name_or_empty_is_not_drawn(self, tmp_path):
        touch(tmp_path, "a/1.jpg", "a/2.jpg", "b/1.jpg")
        touch(tmp_path, "a/Thumbs.db", "b/2.jpg", data=b"")
        drawn = open_scenes(f"rsd46:{tmp_path}?n=4")
        keys = [key for key, _, _ in drawn.locations]
        assert keys == ["rsd46/a/1.jpg", "rsd46/a/2.jpg", "rsd46/b/1.jpg"]


def test_the_command_prints_counts_and_notes(tmp_path, capsys):
    touch(tmp_path, *IMAGES)
    assert main([f"ucm:{tmp_path}"]) == 0
    printed = capsys.readouterr().out
    assert "note: ucm: 2 classes, 21 are published" in printed and "3 to 3" in printed
    with pytest.raises(UserError, match="name a reference"):
        main([])
