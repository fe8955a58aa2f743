"""Only the chips whose centre lies in a polygon, whatever the polygons' coordinate system."""

from __future__ import annotations

import numpy as np
import pyogrio
import pytest
import shapely
from rasterio.warp import transform

from core.errors import UserError
from data.corpus.rasters import geotiff
from data.corpus.rasters.urban import urban
from data.corpus.specs import open_corpus
from tests.data.rasters import NAME, pixels, write_raster
from tests.data.shards import samples

WEST, NORTH = 485_900.0, 5_209_200.0  # of write_raster
CRS = "EPSG:26914"


def write_polygons(path, shapes, crs, driver):
    geometry = np.array([shapely.to_wkb(shape) for shape in shapes], dtype=object)
    kind = shapes[0].geom_type
    pyogrio.raw.write(path, geometry, [], fields=[], crs=crs, geometry_type=kind, driver=driver)
    return path


def box(left, top, right, bottom):
    """A rectangle by pixels of the raster."""
    return shapely.box(WEST + left, NORTH - bottom, WEST + right, NORTH - top)


@pytest.fixture
def naip(tmp_path):
    write_raster(tmp_path / "naip" / NAME, pixels(96, 130))
    return tmp_path / "naip"


def kept(naip, polygons):
    found = samples(open_corpus(f"{naip}?chip=32&urban={polygons}"))
    assert len(found) == 15
    assert {s.error[0] for s in found if s.error} <= {"not-urban", "partial-chip"}
    return [tuple(s.more["window"][:2]) for s in found if s.error is None]


@pytest.mark.parametrize(("name", "driver"), [
    ("u.gpkg", "GPKG"), ("u.shp", "ESRI Shapefile"), ("u.geojson", "GeoJSON"),
    ("u.fgb", "FlatGeobuf"),
])  # fmt: skip
def test_chips_by_their_centre(naip, tmp_path, name, driver):
    # the middle of the first chip; most of the second without its middle; the whole of a third
    shapes = [box(10, 10, 20, 20), box(32, 0, 47, 32), box(64, 64, 96, 96)]
    crs = CRS
    if driver == "GeoJSON":  # which is in degrees by definition
        crs = "EPSG:4326"
        shapes = [
            shapely.transform(shape, lambda p: np.column_stack(transform(CRS, crs, *p.T)))
            for shape in shapes
        ]
    path = write_polygons(tmp_path / name, shapes, crs, driver)
    assert kept(naip, path) == [(0, 0), (64, 64)]


def test_polygons_elsewhere_keep_nothing_and_other_files_are_refused(naip, tmp_path):
    away = write_polygons(tmp_path / "away.gpkg", [box(9000, 0, 9100, 50)], CRS, "GPKG")
    assert kept(naip, away) == []
    first = open_corpus(f"{naip}?chip=32&urban={away}").fingerprint()
    here = write_polygons(tmp_path / "here.gpkg", [box(0, 0, 96, 96)], CRS, "GPKG")
    assert kept(naip, here) == [(x, y) for y in (0, 32, 64) for x in (0, 32, 64)]
    assert open_corpus(f"{naip}?chip=32&urban={here}").fingerprint() != first
    points = write_polygons(tmp_path / "p.gpkg", [shapely.Point(WEST, NORTH)], CRS, "GPKG")
    nowhere = write_polygons(tmp_path / "n.gpkg", [box(0, 0, 9, 9)], None, "GPKG")
    (tmp_path / "t.gpkg").write_text("not a file of polygons")
    for path, message in {
        points: "holds Point geometries, not polygons",
        nowhere: "has no coordinate system",
        tmp_path / "t.gpkg": "not a file of polygons",
    }.items():
        with pytest.raises(UserError, match=message):
            open_corpus(f"{naip}?chip=32&urban={path}").check()


def test_a_raster_without_coordinates_is_nowhere(naip, tmp_path):
    here = write_polygons(tmp_path / "here.gpkg", [box(0, 0, 96, 96)], CRS, "GPKG")
    write_raster(naip / NAME.replace("_se_", "_sw_"), pixels(32, 32), crs=None)
    errors = [s.error for s in samples(open_corpus(f"{naip}?chip=32&urban={here}"))]
    assert errors[-1][0] == "no-crs" and errors[0] is None


def test_each_cell_is_placed_once_and_as_one_alone_would_be(naip, tmp_path, monkeypatch):
    path = write_polygons(tmp_path / "u.gpkg", [box(10, 10, 70, 40), box(90, 60, 96, 96)], CRS,
                          "GPKG")  # fmt: skip
    corpus = open_corpus(f"{naip}?chip=16&urban={path}")
    calls = []
    real = geotiff._centre
    monkeypatch.setattr(geotiff, "_centre", lambda *place: calls.append(place) or real(*place))
    geotiff._urban_cells.cache_clear()
    found = samples(corpus)
    cells = 6 * 9
    assert len(found) == cells == len(calls)
    places = {s.key: s.error for s in found}
    for place, sample in zip(calls, found, strict=True):
        x, y = real(*place)
        inside = bool(urban(str(path), CRS, (WEST, NORTH - 96, WEST + 130, NORTH), [(x, y)])[0])
        if sample.error is None or sample.error[0] == "not-urban":
            assert inside == (places[sample.key] is None)


def test_urban_chips_at_another_resolution_are_by_their_place_on_the_ground(tmp_path):
    """0.5 m brought to 1 m: centres are metres of the ground, not pixels of the file."""
    write_raster(tmp_path / "fine" / NAME, pixels(192, 260), metres=0.5)  # 96 x 130 m
    shapes = [box(10, 10, 20, 20), box(64, 64, 96, 96)]
    polygons = write_polygons(tmp_path / "u.gpkg", shapes, CRS, "GPKG")
    assert kept(f"usa1m:{tmp_path / 'fine'}", polygons) == [(0, 0), (64, 64)]
