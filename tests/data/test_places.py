"""Hold-outs by place: what shows the ground of a held-out chip leaves the pool."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from core.errors import UserError
from core.stage import read_manifest
from data.curation.holdout import holdout_names, pool, read_holdout, read_named
from data.formats.places import overlapping
from data.formats.tables import read_parts
from data.holdout import main as holdout
from prune.score import main as score
from tests.data.rasters import pixels, write_raster

CRS = "EPSG:26914"


def table(boxes, crs=CRS):
    systems = [crs] * len(boxes) if isinstance(crs, str) else crs
    return pa.table({"crs": pa.array(systems, pa.string()),
                     "bounds": pa.array(list(boxes), pa.list_(pa.float64()))})  # fmt: skip


@pytest.mark.parametrize("seed", range(4))
def test_overlap_is_that_of_every_pair(seed):
    rng = np.random.default_rng(seed)
    corner = rng.uniform(-3000, 3000, (1500, 2)) + 4e5 * seed
    boxes = np.hstack([corner, corner + rng.uniform(10, 120, (1500, 1 + seed % 2))])
    held = rng.random(1500) < 0.03
    one, other = boxes[:, None], boxes[held][None]
    shared = np.minimum(one[..., 2:], other[..., 2:]) - np.maximum(one[..., :2], other[..., :2])
    some, sure = (
        (shared > metres).all(axis=2).any(axis=1) & ~held
        for metres in (0, 0.004 * 120)  # a sliver is no overlap
    )
    found = overlapping(table(boxes.tolist()), held)
    assert not (found & ~some).any() and not (sure & ~found).any() and sure.sum() > 15


def test_neighbours_of_one_grid_share_no_ground_and_unknown_places_none():
    boxes = [[x, y, x + 64, y + 64] for x in range(0, 640, 64) for y in range(0, 640, 64)]
    chosen = np.zeros(102, bool)
    chosen[[0, 37, 100]] = True
    unknown = pa.concat_tables([table(boxes), table([boxes[37], None], [None, CRS])])
    assert not overlapping(unknown, chosen).any()
    assert not overlapping(pa.table({"key": ["a", "b"]}), np.array([True, False])).any()


def test_zones_that_meet_are_compared_in_degrees():
    """A place at the seam of UTM 14 and 15, 96 W, in both; another 30 km off."""
    from rasterio.warp import transform

    (x14,), (y14,) = transform("EPSG:4326", "EPSG:26914", [-96.0], [41.0])
    (x15,), (y15,) = transform("EPSG:4326", "EPSG:26915", [-96.0], [41.0])
    places = (x14, y14), (x15 + 60, y15), (x15 + 30_000, y15), (x14, y14)
    boxes = [[x - 128, y - 128, x + 128, y + 128] for x, y in places]
    systems = ["EPSG:26914", "EPSG:26915", "EPSG:26915", 'LOCAL_CS["here"]']
    found = overlapping(table(boxes, systems), np.array([True, False, False, False]))
    assert found.tolist() == [False, True, False, False]


@pytest.fixture
def dates(tmp_path):
    """One ground on three dates, the third on a grid of its own; and ground elsewhere."""
    for n, (day, shift) in enumerate((("20150101", 0), ("20170101", 0), ("20190101", 7))):
        origin = (485_900.0 + shift, 5_209_200.0 - shift)
        name = f"m_4709963_se_14_1_{day}.tif"
        write_raster(tmp_path / "naip" / name, pixels(96, 128, seed=n), origin=origin)
    write_raster(tmp_path / "naip" / "m_4709963_sw_14_1_20150101.tif", pixels(96, 128, seed=9),
                 origin=(400_000.0, 5_209_200.0))  # fmt: skip
    spec = f"usa1m:{tmp_path}/naip?chip=16"
    assert score(["--corpus", spec, "--out", str(tmp_path / "s"), "--workers=1"]) == 0
    return tmp_path


def test_chips_of_held_out_ground_leave_the_pool(dates, capsys):
    out = dates / "h.parquet"
    flags = ["--scores", str(dates / "s"), "--holdouts", "pool", "--out", str(out)]
    assert holdout([*flags, "--n", "9"]) == 0
    summary = read_manifest(out)["summary"]
    text = f"{summary['ground']:,} chips of the same ground on other dates dropped"
    assert summary["held"] == 9 and text in capsys.readouterr().out
    scores = read_parts(dates / "s")
    held, everything = read_holdout(out, "pool"), read_holdout(out)
    assert held.num_rows == 9 and everything.num_rows == 9 + summary["ground"]
    assert holdout_names(out) == ("pool",)
    assert read_named(out)["key"].to_pylist() == held["key"].to_pylist()  # what is judged
    left = pool(scores, everything)
    assert left.num_rows == summary["pool"] == 4 * 48 - 9 - summary["ground"]

    # by the windows themselves: no chip that is left shares a pixel of ground with one held out
    def ground(rows):
        return {
            (x, y)
            for left, bottom, right, top in rows["bounds"].to_pylist()
            for x in range(int(left), int(right))
            for y in range(int(bottom), int(top))
        }

    keys = scores.filter(pc.is_in(scores["key"], value_set=held["key"].combine_chunks()))
    dropped = scores.filter(pc.is_in(scores["key"], value_set=everything["key"].combine_chunks()))
    assert not ground(keys) & ground(left) and summary["ground"] >= 9
    assert all(ground(dropped.slice(i, 1)) & ground(keys) for i in range(dropped.num_rows))

    joined = dates / "both.parquet"
    assert holdout(["--join", str(out), "--out", str(joined)]) == 0
    assert pool(scores, read_holdout(joined)).num_rows == summary["pool"]


def test_an_n_that_takes_all_ground_is_refused_with_the_reason(dates, capsys):
    spec = f"{dates}/naip/*_se_*.tif?chip=16"  # where all ground has three dates
    assert score(["--corpus", spec, "--out", str(dates / "se"), "--workers=1"]) == 0
    flags = ["--scores", str(dates / "se"), "--holdouts", "pool"]
    with pytest.raises(UserError, match=r"show their ground on other dates.*choose a smaller --n"):
        holdout([*flags, "--n", "143", "--out", str(dates / "all.parquet")])
    assert holdout([*flags, "--n", "40", "--out", str(dates / "most.parquet")]) == 0
    assert "less than half: a smaller --n leaves more to prune" in capsys.readouterr().out
