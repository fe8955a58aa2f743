"""data.unpack: what would be lost without a word is refused."""

from __future__ import annotations

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from core.errors import UserError
from data.unpack import main
from tests.data.shards import images, jpeg


def write(folder, file, columns, names, first=0):
    folder.mkdir(exist_ok=True)
    data = [images(*(jpeg(first + i) for i in range(len(names)))) for _ in columns]
    table = {**dict(zip(columns, data, strict=True)), "image_name": pa.array(names, pa.string())}
    pq.write_table(pa.table(table), folder / file)


SECOND, OEM = ("t1_image", "t2_image"), ("image", "mask")


@pytest.mark.parametrize(("columns", "files"), [
    (SECOND, {"train-0.parquet": ["a.png", "a.png"]}),
    (SECOND, {"train-0.parquet": ["a.png", "a.jpg"]}),  # one name on the disk
    (SECOND, {"test-0.parquet": ["a.png"], "val-0.parquet": ["a.png"]}),  # both below test/
    (OEM, {"train-0.parquet": ["x_1.tif"], "val-0.parquet": ["x_1.tif"]}),
])  # fmt: skip
def test_two_rows_for_one_file(tmp_path, columns, files):
    for n, (file, names) in enumerate(files.items()):
        write(tmp_path / "p", file, columns, names, 5 * n)
    flags = ["--parquet", str(tmp_path / "p"), "--out", str(tmp_path / "out")]
    with pytest.raises(UserError, match=r"\.parquet: '.*' has the place of '.* of .*-0\.parquet'"):
        main(flags)


def test_no_rows_and_names_that_lead_out(tmp_path):
    flags = ["--parquet", str(tmp_path / "p"), "--out", str(tmp_path / "out")]
    write(tmp_path / "p", "train-0.parquet", OEM, [])
    with pytest.raises(UserError, match="hold no rows"):
        main(flags)
    write(tmp_path / "p", "train-0.parquet", OEM, ["../x_1.tif"])
    with pytest.raises(UserError, match=r"train-0\.parquet: image_name '\.\./x_1\.tif'"):
        main(flags)


def test_one_name_in_training_and_test_is_two_files(tmp_path):
    write(tmp_path / "p", "train-0.parquet", SECOND, ["a.png"])
    write(tmp_path / "p", "test-0.parquet", SECOND, ["a.png"], 3)
    assert main(["--parquet", str(tmp_path / "p"), "--out", str(tmp_path / "out")]) == 0
    assert (tmp_path / "out" / "im1" / "a.jpg").read_bytes() == jpeg(0)
    assert (tmp_path / "out" / "test" / "im1" / "a.jpg").read_bytes() == jpeg(3)
