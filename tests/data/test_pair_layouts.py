"""SECOND and OpenEarthMap as people hold them, and their Parquet copies unpacked."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from core.errors import UserError
from data.pairs.listing import open_sis, open_sr
from data.pairs.palettes import PALETTES, decode_mask
from data.unpack import main as unpack
from downstream.tasks.bands import read_bands
from downstream.tasks.dataset import choose_palette, read_mask


def touch(root: Path, *names: str) -> Path:
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.zeros((4, 4, 3), np.uint8)).save(path)
    return root


def pairs(folder: str, numbers: range, one: str = "im1", two: str = "im2") -> list[str]:
    return [f"{folder}{date}/{n:03}.png" for date in (one, two) for n in numbers]


def keys(items) -> list[str]:
    return [item.key for item in items]


class TestSecond:
    @pytest.mark.parametrize(
        ("train", "test", "dates"),
        [
            ("", "test/", ("im1", "im2")),
            ("SECOND/train/", "SECOND/test/", ("im1", "im2")),
            ("SECOND_train_set/", "SECOND_total_test/test/", ("im1", "im2")),
            ("Train/", "Test/", ("A", "B")),
            ("train/", "val/", ("time1", "time2")),
        ],
    )
    def test_layouts(self, tmp_path, train, test, dates):
        touch(tmp_path, *pairs(train, range(4), *dates), *pairs(test, range(10, 12), *dates))
        listing = open_sr(tmp_path)
        assert listing.layout == "second" and set(listing.splits) == {"train", "test"}
        assert len(listing.items("train")) == 8 and len(listing.items("test")) == 4
        groups = [{item.group for item in listing.items(split)} for split in ("train", "test")]
        assert len(groups[0]) == 4 and len(groups[1]) == 2 and not groups[0] & groups[1]
        assert len(open_sr(tmp_path, ("im1",)).items("train")) == 4

    def test_three_splits_are_three(self, tmp_path):
        for n, split in enumerate(("train", "val", "test")):
            touch(tmp_path, *pairs(f"{split}/", range(n * 10, n * 10 + 2)))
        assert set(open_sr(tmp_path).splits) == {"train", "val", "test"}

    def test_without_a_split_both_dates_stay_on_one_side(self, tmp_path):
        listing = open_sr(touch(tmp_path, *pairs("", range(40), "A", "B")))
        stems = [{item.image.stem for item in listing.items(s)} for s in ("train", "test")]
        assert len(stems[0]) == 32 and len(stems[1]) == 8 and not stems[0] & stems[1]

    def test_folders_that_only_look_like_dates(self, tmp_path):
        touch(tmp_path, *(f"a/x{n}.png" for n in range(5)), *(f"b/y{n}.png" for n in range(5)))
        assert open_sr(tmp_path).layout == "folder"

    def test_two_places_of_one_split(self, tmp_path):
        touch(tmp_path, *pairs("", range(2)), *pairs("train/", range(2)))
        with pytest.raises(UserError, match="both hold pairs of split 'train'"):
            open_sr(tmp_path)

    def make(self, root: Path, index: bool) -> tuple[Path, np.ndarray]:
        """Two pairs for training and one beside, with labels; `index`: colours in label1_rgb."""
        palette = PALETTES["second"]
        ids = np.arange(7, dtype=np.uint8).repeat(7).reshape(7, 7)
        for side, numbers in (("", (1, 2)), ("test/", (3,))):
            for n in numbers:
                touch(root, f"{side}im1/{n}.png", f"{side}im2/{n}.png")
                for date in (1, 2):
                    rgb = root / f"{side}label{date}{'_rgb' if index else ''}"
                    rgb.mkdir(parents=True, exist_ok=True)
                    Image.fromarray(palette.paint(ids)).save(rgb / f"{n}.png")
                    if index:
                        grey = root / f"{side}label{date}"
                        grey.mkdir(exist_ok=True)
                        Image.fromarray(ids[::-1].copy()).save(grey / f"{n}.png")
        return root, ids

    @pytest.mark.parametrize("index", [False, True])
    def test_labels_as_masks(self, tmp_path, index):
        root, ids = self.make(tmp_path, index)
        (root / "label2_rgb" if index else root / "label2").joinpath("2.png").unlink()
        listing = open_sis(root)
        assert listing.layout == "second" and set(listing.splits) == {"train", "val"}
        assert keys(listing.items("train")) == ["im1/1.png", "im1/2.png", "im2/1.png"]
        assert {item.group for item in listing.items("val")} == {"test/3"}
        assert listing.report.counts == {"image without a label": 1}
        items = listing.items("train")
        palette = choose_palette(items, listing.layout, listing.report, 1, True)
        assert palette.name == "second"
        np.testing.assert_array_equal(palette.ids(read_mask(items[0]), "x")[0], ids)

    def test_labels_of_class_ids(self, tmp_path):
        root, ids = self.make(tmp_path, True)
        for folder in [p for p in root.rglob("label?_rgb") if p.is_dir()]:
            for path in folder.iterdir():
                path.unlink()
            folder.rmdir()
        items = open_sis(root).items("train")
        np.testing.assert_array_equal(read_mask(items[0]), ids[::-1])
        assert choose_palette(items, "second", open_sis(root).report, 1, True).name == "second"


def geotiff(path: Path, pixels: np.ndarray, **options: object) -> None:
    import rasterio
    from rasterio.transform import from_origin

    path.parent.mkdir(parents=True, exist_ok=True)
    bands = pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1)
    with rasterio.open(
        path, "w", driver="GTiff", width=bands.shape[2], height=bands.shape[1],
        count=len(bands), dtype="uint8", crs="EPSG:32633",
        transform=from_origin(500_000, 5_000_000, 0.5, 0.5), **options,
    ) as file:  # fmt: skip
        file.write(bands)


class TestOpenEarthMap:
    IMAGE = np.random.default_rng(0).integers(0, 256, (96, 80, 3), dtype=np.uint8)
    IDS = np.arange(96 * 80).reshape(96, 80).astype(np.uint8) % 9

    @pytest.mark.filterwarnings("ignore::PendingDeprecationWarning")  # rasterio's own
    @pytest.mark.parametrize(
        "options",
        [
            {},
            {"tiled": True, "blockxsize": 32, "blockysize": 32, "compress": "lzw", "predictor": 2},
            {"compress": "deflate", "interleave": "band"},
            {"nodata": 0, "compress": "packbits"},
        ],
    )
    def test_geotiff_tiles(self, tmp_path, options):
        root = tmp_path / "images" / "OpenEarthMap_wo_xBD"
        geotiff(root / "aachen/images/aachen_1.tif", self.IMAGE, **options)
        geotiff(root / "aachen/labels/aachen_1.tif", self.IDS, **options)
        (root / "train.txt").write_text("aachen_1.tif\n")
        listing = open_sis(tmp_path)  # with a parent called images
        (item,) = listing.items("train")
        np.testing.assert_array_equal(read_bands(item, "rgb"), self.IMAGE)
        np.testing.assert_array_equal(read_mask(item), self.IDS)
        palette = choose_palette([item], listing.layout, listing.report, 1, True)
        assert palette.classes == 9 and palette.names[0] == "unknown"
        with pytest.raises(UserError, match="class ids beyond palette"):
            palette.check_ids(self.IDS + 1, "x")
        assert listing.report.notes[0].endswith("no val.txt, so nothing is in split 'val'")

    def test_all_regions_in_one_folder(self, tmp_path):
        names = [f"{region}_{n}.tif" for region in ("aachen", "santa-rosa") for n in (1, 2)]
        touch(tmp_path, *(f"{kind}/{name}" for kind in ("images", "labels") for name in names))
        (tmp_path / "train.txt").write_text("\n".join(names[:2]))
        (tmp_path / "val.txt").write_text("\n".join(names[2:]))
        listing = open_sis(tmp_path)
        assert listing.layout == "openearthmap"
        assert {item.group for item in listing.items("val")} == {"santa-rosa"}
        assert listing.items("train")[0].mask == tmp_path / "labels" / "aachen_1.tif"

    def test_what_xbd_lacks_is_told_from_what_is_lost(self, tmp_path):
        root = touch(tmp_path / "a" / "b", "x/images/x_1.tif", "x/labels/x_1.tif")
        (root / "train.txt").write_text("x_1.tif\nfire_3.tif\nx_2.tif\n")
        (root / "xbd_files.csv").write_text("id,name,source\n0,fire_3.tif,fire_pre_disaster.png\n")
        assert open_sis(tmp_path).report.counts == {
            "listed in train.txt, not on disk": 1,
            "listed in train.txt, not on disk (an xBD image)": 1,
        }

    def test_one_name_twice(self, tmp_path):
        touch(tmp_path, "x/images/x_1.tif", "y/images/x_1.tif")
        (tmp_path / "train.txt").write_text("x_1.tif\n")
        with pytest.raises(UserError, match="its name is taken by"):
            open_sis(tmp_path)


def png(value: int) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(np.full((4, 4, 3), value, np.uint8)).save(stream, "PNG")
    return stream.getvalue()


class TestUnpack:
    def write(self, path: Path, columns: dict[str, list]) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(pa.table(columns), path)

    def test_second(self, tmp_path, capsys):
        for split, n in (("train", 3), ("test", 2)):
            names = [f"{split}{i}.png" for i in range(n)]
            image = [{"bytes": png(i), "path": None} for i in range(n)]
            columns = dict.fromkeys(("t1_image", "t2_image", "t1_mask", "t2_mask"), image)
            path = tmp_path / f"p/data/{split}-00000-of-00001.parquet"
            self.write(path, {**columns, "image_name": names})
        command = ["--parquet", str(tmp_path / "p"), "--out", str(tmp_path / "s")]
        assert unpack(command) == 0
        listing = open_sr(tmp_path / "s")
        assert len(listing.items("train")) == 6 and len(listing.items("test")) == 4
        assert (tmp_path / "s/test/im2/test1.png").read_bytes() == png(1)
        assert len(open_sis(tmp_path / "s").items("train")) == 6
        assert unpack(command) == 0 and "already done" in capsys.readouterr().out

    def test_open_earth_map(self, tmp_path):
        rows = {"train": ["aachen_1.tif", "accra_1.tif"], "val": ["accra_2.tif"]}
        for split, names in rows.items():
            columns = {c: [png(3)] * len(names) for c in ("image", "mask")}
            self.write(tmp_path / f"p/{split}-0.parquet", {**columns, "image_name": names})
        self.write(tmp_path / "p/test-0.parquet", {"image": [png(1)], "image_name": ["oslo_9.tif"]})
        unpack(["--parquet", str(tmp_path / "p"), "--out", str(tmp_path / "o")])
        listing = open_sis(tmp_path / "o")
        assert listing.layout == "openearthmap"
        assert keys(listing.items("train")) == ["aachen/images/aachen_1.png",
                                                "accra/images/accra_1.png"]  # fmt: skip
        assert listing.report.counts == {"test image without a label": 1}

    @pytest.mark.parametrize(
        "name,columns,message",
        [
            ("train-0", {"image_name": ["../x"], "image": [b"x"]}, "must not lead out"),
            ("train-0", {"image_name": ["a/x"], "image": [b"x"]}, "is no file name"),
            ("train-0", {"image_name": ["x"], "image": [b"x"]}, "is no image"),
            ("train-0", {"image_name": ["x"]}, "neither SECOND"),
            ("all", {"image_name": ["x"], "image": [b"x"]}, "of which split"),
        ],
    )
    def test_bad_input(self, tmp_path, name, columns, message):
        self.write(tmp_path / f"p/{name}.parquet", columns)
        with pytest.raises(UserError, match=message):
            unpack(["--parquet", str(tmp_path / "p"), "--out", str(tmp_path / "o")])


def test_real_masks_and_images(shared_data):
    items = open_sis(shared_data / "sis").items("val")
    assert decode_mask(items[0].mask.read_bytes()).ndim == 3
    listing = open_sr(shared_data / "sr")
    assert listing.layout == "folder"
    assert read_bands(listing.items("test")[0], "rgb").shape == (512, 512, 3)
