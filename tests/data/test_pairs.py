"""Layouts, pairing and splits of the SR and SIS sets."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from core.errors import UserError
from data.pairs.listing import file_names, natural, open_sis, open_sr


def touch(root: Path, *names: str) -> None:
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.zeros((4, 4, 3), np.uint8)).save(path)


def keys(items) -> list[str]:
    return [item.key for item in items]


class TestSecond:
    @pytest.mark.parametrize(
        ("train", "test"), [("", "test/"), ("train/", "test/"), ("Train/", "Test/")]
    )
    def test_official_split_in_each_layout(self, tmp_path: Path, train: str, test: str) -> None:
        touch(tmp_path, *(f"{train}{date}/{n}.png" for date in ("im1", "im2") for n in (1, 2, 3)))
        touch(tmp_path, *(f"{test}{date}/{n}.png" for date in ("im1", "im2") for n in (4, 5)))
        touch(tmp_path, f"{train}label1/1.png", f"{test}label2/4.png")
        listing = open_sr(tmp_path)
        assert listing.layout == "second"
        assert len(listing.items("train")) == 6 and len(listing.items("test")) == 4
        assert {item.image.stem for item in listing.items("test")} == {"4", "5"}
        assert not listing.report.counts
        assert not any("label" in item.key for item in listing.items("train"))

    def test_first_date_only(self, tmp_path: Path) -> None:
        touch(tmp_path, "im1/1.png", "im1/2.png", "im2/1.png", "test/im1/3.png", "test/im2/3.png")
        listing = open_sr(tmp_path, ("im1",))
        assert keys(listing.items("train")) == ["im1/1.png", "im1/2.png"]
        assert keys(listing.items("test")) == ["test/im1/3.png"]

    def test_half_a_pair_is_counted(self, tmp_path: Path) -> None:
        touch(tmp_path, "im1/1.png", "im1/2.png", "im2/1.png", "test/im1/3.png", "test/im2/3.png")
        listing = open_sr(tmp_path)
        assert keys(listing.items("train")) == ["im1/1.png", "im2/1.png"]
        assert listing.report.counts == {"pair without its other date": 1}

    def test_without_a_test_folder_pairs_stay_whole(self, tmp_path: Path) -> None:
        touch(tmp_path, *(f"im{date}/{n:03}.png" for date in (1, 2) for n in range(40)))
        listing = open_sr(tmp_path)
        train, test = listing.items("train"), listing.items("test")
        assert len(train) == 64 and len(test) == 16
        assert not {i.image.stem for i in train} & {i.image.stem for i in test}

    def test_the_same_number_in_train_and_test_is_another_place(self, tmp_path: Path) -> None:
        names = [f"{s}/im{d}/1.png" for s in ("train", "test") for d in (1, 2)]
        touch(tmp_path, *names)
        listing = open_sr(tmp_path)
        groups = {item.group for split in ("train", "test") for item in listing.items(split)}
        assert groups == {"train/1", "test/1"}

    def test_missing_date_folder(self, tmp_path: Path) -> None:
        touch(tmp_path, "im1/1.png")
        with pytest.raises(UserError, match=r"no im2/"):
            open_sr(tmp_path)


class TestFolder:
    def test_split_is_stable_and_does_not_depend_on_the_root(self, tmp_path: Path) -> None:
        names = [f"aerial/{n}.jpg" for n in range(50)]
        touch(tmp_path / "a", *names)
        touch(tmp_path / "b", *reversed(names))
        (tmp_path / "a" / "notes.txt").write_text("not an image")
        one, two = open_sr(tmp_path / "a"), open_sr(tmp_path / "b")
        assert one.layout == "folder" and len(one.items("test")) == 10
        assert keys(one.items("test")) == keys(two.items("test"))
        assert sorted(keys(one.items("test")) + keys(one.items("train"))) == sorted(names)
        assert keys(one.items("test")) != sorted(names)[:10]  # hashed, not the first ones

    def test_nothing_there(self, tmp_path: Path) -> None:
        with pytest.raises(UserError, match="no images"):
            open_sr(tmp_path)
        with pytest.raises(UserError, match="no such folder"):
            open_sr(tmp_path / "absent")

    def test_a_single_image_cannot_be_split(self, tmp_path: Path) -> None:
        touch(tmp_path, "a.png")
        assert len(open_sr(tmp_path).items("train")) == 1
        with pytest.raises(UserError, match="nothing in split 'test'"):
            open_sr(tmp_path).items("test")

    def test_real_aerial_images(self, shared_data: Path) -> None:
        listing = open_sr(shared_data / "sr")
        assert len(listing.items("train")) == 72 and len(listing.items("test")) == 18


class TestOpenEarthMap:
    def make(self, root: Path) -> Path:
        base = root / "images" / "OpenEarthMap_wo_xBD"  # 'images' in a parent, as users have it
        for name in ("aachen_1", "aachen_2", "accra_1", "accra_2"):
            region = name.split("_")[0]
            touch(base, f"{region}/images/{name}.tif", f"{region}/labels/{name}.tif")
        touch(base, "accra/images/accra_3.tif", "accra/images/accra_4.tif")
        (base / "train.txt").write_text("aachen_1.tif\r\naachen_2.tif\nsanta-rosa_1.tif\n\n")
        (base / "val.txt").write_text("accra_1.tif\naachen_2.tif")
        (base / "test.txt").write_text("accra_3.tif\n")
        return base

    @pytest.mark.parametrize("above", [False, True])
    def test_lists_pairs_and_counts(self, tmp_path: Path, above: bool) -> None:
        base = self.make(tmp_path)
        listing = open_sis(base.parent if above else base)
        assert listing.layout == "openearthmap"
        assert keys(listing.items("train")) == ["aachen/images/aachen_1.tif"]
        val = ["aachen/images/aachen_2.tif", "accra/images/accra_1.tif"]
        assert keys(listing.items("val")) == val
        for item in listing.items("val"):
            assert item.mask == item.image.parent.parent / "labels" / item.image.name
        assert listing.report.counts == {
            "listed in train.txt, not on disk": 1,
            "listed twice": 1,
            "test image without a label": 1,
            "on disk, in no split list": 2,
        }

    def test_withheld_labels_say_so(self, tmp_path: Path) -> None:
        with pytest.raises(UserError, match="test image without a label: 1"):
            open_sis(self.make(tmp_path)).items("test")


class TestGroups:
    def test_split_by_tile_in_natural_order_and_pairs_by_stem(self, tmp_path: Path) -> None:
        root = tmp_path / "images"
        for tile in ("tile1", "tile2", "tile9", "tile10"):
            for n in (1, 2, 3):
                touch(root, f"{tile}/images/part_{n}.jpg", f"{tile}/masks/part_{n}.png")
        (root / "tile1/masks/part_1.png").unlink()
        (root / "tile2/images/part_2.jpg").unlink()
        touch(root, "tile2/images/part_3.png")
        listing = open_sis(root)
        assert {item.group for item in listing.items("val")} == {"tile10"}
        assert {item.group for item in listing.items("train")} == {"tile1", "tile2", "tile9"}
        for item in [*listing.items("train"), *listing.items("val")]:
            assert item.mask is not None and item.mask.stem == item.image.stem
            assert item.mask.parent.parent == item.image.parent.parent
        assert listing.report.counts == {
            "image without a mask": 1,
            "mask without an image": 2,  # the second: its image's stem is taken by two files
            "two files with one stem": 1,
        }

    def test_folders_that_state_the_split(self, tmp_path: Path) -> None:
        for folder in ("train/a", "train/b", "val/c", "extra/d"):
            touch(tmp_path, f"{folder}/images/1.png", f"{folder}/labels/1.png")
        listing = open_sis(tmp_path)
        assert keys(listing.items("train")) == ["train/a/images/1.png", "train/b/images/1.png"]
        assert keys(listing.items("val")) == ["val/c/images/1.png"]
        assert listing.report.counts == {"group in neither train nor val": 1}

    def test_a_single_group_is_split_by_hash_and_says_so(self, tmp_path: Path) -> None:
        touch(tmp_path, *(f"{kind}/{n}.png" for kind in ("images", "masks") for n in range(10)))
        listing = open_sis(tmp_path)
        assert len(listing.items("val")) == 2
        assert any("both sides" in note for note in listing.report.notes)

    def test_neither_layout(self, tmp_path: Path) -> None:
        touch(tmp_path, "a/1.png")
        with pytest.raises(UserError, match="neither OpenEarthMap"):
            open_sis(tmp_path)

    def test_real_dubai_tiles(self, shared_data: Path) -> None:
        listing = open_sis(shared_data / "sis" / "dubai")
        assert len(listing.items("train")) == 36 and not listing.report.counts
        assert {item.group for item in listing.items("val")} == {"tile5"}
        above = open_sis(shared_data / "sis")
        assert {item.group for item in above.items("val")} == {"dubai/tile5"}


def test_natural_order() -> None:
    names = ["tile10", "tile9", "a", "tile1b", "tile1", "2"]
    assert sorted(names, key=natural) == ["2", "a", "tile1", "tile1b", "tile9", "tile10"]


def test_file_names_are_flat_and_unique() -> None:
    names = file_names(["im1/1.png", "im2/1.png", "a.png", "a.jpg"])
    assert names[:2] == ["im1__1", "im2__1"]
    assert len(set(names)) == 4 and not any("/" in name for name in names)


def test_identity_follows_the_files(tmp_path: Path) -> None:
    touch(tmp_path, *(f"{n}.png" for n in range(10)))
    before = open_sr(tmp_path).fingerprint("train")
    assert before == open_sr(tmp_path).fingerprint("train") != open_sr(tmp_path).fingerprint("test")
    touch(tmp_path, "new1.png", "new2.png", "new3.png", "new4.png", "new5.png")
    assert open_sr(tmp_path).fingerprint("train") != before


def test_links_to_nowhere_are_counted(tmp_path: Path) -> None:
    for name in ("a", "b"):
        Image.new("RGB", (8, 8)).save(tmp_path / f"{name}.png")
    (tmp_path / "gone.png").symlink_to(tmp_path / "absent.png")
    listing = open_sr(tmp_path)
    assert listing.report.counts == {"unreadable": 1}
    assert listing.fingerprint("train")


def test_a_split_list_in_another_encoding_is_one_error(tmp_path: Path) -> None:
    (tmp_path / "koeln" / "images").mkdir(parents=True)
    (tmp_path / "train.txt").write_bytes("köln_1.tif\n".encode("latin-1"))
    with pytest.raises(UserError, match=r"train\.txt: not UTF-8"):
        open_sis(tmp_path)
