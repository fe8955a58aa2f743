"""Every layout of TIFF that rasterio writes, with rasterio as the judge.

bands x values x interleaving x photometric interpretation x compression x mask x tiling: each file
is equal to what rasterio reads, as a whole image, as chips, and with stated bands and scale; or it
is rejected with a reason that is true of it.
"""

from __future__ import annotations

import itertools
import warnings
from collections import Counter
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import rasterio
from rasterio.enums import ColorInterp
from rasterio.errors import RasterioError

from data.corpus.base import Sample
from data.corpus.prepared import prepare
from data.corpus.specs import open_corpus
from data.images.bands import Asked
from data.images.chips import decode_chip
from data.images.decode import Reject, decode
from tests.data.shards import samples

HEIGHT, WIDTH, CHIP = 32, 48, 16
SCALE = (20.0, 200.0)
VALUES = ("uint8", "uint16", "int16", "float32")
RARE = ("int8", "uint32", "int32", "float64", "complex64")


def layouts() -> Iterator[dict[str, Any]]:
    """Options of rasterio.open(..., 'w'), with 'mask' and 'order' beside them."""
    tiles = {"tiled": True, "blockxsize": 16, "blockysize": 16}
    for bands, dtype, interleave, tiled in itertools.product(
        (1, 2, 3, 4, 5), VALUES, ("pixel", "band"), (False, True)
    ):
        base = {
            "count": bands,
            "dtype": dtype,
            "interleave": interleave,
            **(tiles if tiled else {}),
        }
        for photometric in (None, "minisblack", "rgb"):
            yield base | {"photometric": photometric}
        yield base | {"compress": "lzw", "mask": "internal"}
        yield base | {"compress": "deflate", "photometric": "minisblack", "mask": "nodata"}
    for bands, compress, interleave in itertools.product(
        (1, 3, 4), ("packbits", "zstd", "lzma", "lerc", "lerc_deflate", "webp", "jpeg", "jxl"),
        ("pixel", "band"),
    ):  # fmt: skip
        base = {"count": bands, "dtype": "uint8", "compress": compress, "interleave": interleave}
        yield base
        yield base | tiles | {"mask": "internal"}
        yield base | {"photometric": "minisblack"}
    for predictor, endianness, big in itertools.product((1, 2, 3), ("little", "big"), (0, 1)):
        for dtype in ("uint8", "float32"):
            yield {"count": 3, "dtype": dtype, "compress": "deflate", "predictor": predictor,
                   "endianness": endianness, "bigtiff": "yes" if big else "no"}  # fmt: skip
    for order, bands in itertools.product(("bgr", "rgbn", "nrgb", "rgba", "xrgb"), (3, 4)):
        yield {"count": bands, "dtype": "uint8", "photometric": "minisblack", "order": order}
    for dtype in RARE:
        yield from ({"count": bands, "dtype": dtype} for bands in (1, 3))
    for photometric, bands in (
        ("miniswhite", 1), ("miniswhite", 3), ("palette", 1), ("cmyk", 4), ("cielab", 3),
        ("icclab", 3), ("itulab", 3),
    ):  # fmt: skip
        for tiled in ({}, tiles):
            yield {"count": bands, "dtype": "uint8", "photometric": photometric} | tiled
    for subsampling in ("444", "422", "420"):
        yield {"count": 3, "dtype": "uint8", "photometric": "ycbcr", "compress": "jpeg",
               "jpeg_quality": 90, "subsampling": subsampling}  # fmt: skip
    for bits, photometric in itertools.product((1, 2, 4, 7, 12), (None, "miniswhite")):
        yield {"count": 1, "dtype": "uint16" if bits > 8 else "uint8", "nbits": bits,
               "photometric": photometric}  # fmt: skip
    for compress in ("ccittfax3", "ccittfax4", "ccittrle"):
        yield {"count": 1, "dtype": "uint8", "nbits": 1, "compress": compress}
    for bands, alpha in itertools.product((2, 4), ("yes", "premultiplied", "unspecified")):
        yield {"count": bands, "dtype": "uint8", "alpha": alpha,
               "photometric": "rgb" if bands == 4 else "minisblack"}  # fmt: skip
    yield {"count": 3, "dtype": "uint8", "sparse_ok": True, "tiled": True, "mask": "sparse"}


LETTERS = {
    "r": ColorInterp.red, "g": ColorInterp.green, "b": ColorInterp.blue, "a": ColorInterp.alpha,
    "n": ColorInterp.undefined, "x": ColorInterp.undefined,
}  # fmt: skip


def write(path: Any, options: dict[str, Any], seed: int) -> bool:
    """Whether rasterio writes such a file."""
    options = {name: value for name, value in options.items() if value is not None}
    mask, order = options.pop("mask", ""), options.pop("order", "")
    shape = (options["count"], HEIGHT, WIDTH)
    top = 2 ** options.get("nbits", 8)
    values = np.random.default_rng(seed).integers(0, top, shape).astype(options["dtype"])
    if mask == "nodata":
        options["nodata"] = 7
    try:
        with rasterio.open(
            path, "w", driver="GTiff", width=WIDTH, height=HEIGHT, **options
        ) as file:
            if mask != "sparse":
                file.write(values)
            if order:
                file.colorinterp = [LETTERS[letter] for letter in order[: options["count"]]]
            if options.get("photometric") == "palette":
                file.write_colormap(1, {i: (i, 255 - i, i // 2, 255) for i in range(256)})
            if mask == "internal":
                file.write_mask(np.arange(HEIGHT * WIDTH).reshape(HEIGHT, WIDTH) % 3 > 0)
    except (RasterioError, ValueError, TypeError, OSError):
        return False
    return True


def judge(path: Any) -> tuple[Any, set[str]]:
    """What rasterio reads, H x W x 1 or 3 (None: not an 8-bit grey or RGB image), and what is true
    of the file: the reasons for which it may be rejected."""
    true = set()
    with rasterio.open(path) as file:
        colours = list(file.colorinterp)
        try:
            values = file.read()
        except RasterioError:  # written so that rasterio itself cannot read it again
            true.add("corrupt")
            values = np.zeros((file.count, 1, 1), file.dtypes[0])
    with rasterio.open(path) as file:
        space = file.tags(ns="IMAGE_STRUCTURE")
        bits = file.tags(1, ns="IMAGE_STRUCTURE").get("NBITS", "8")
        try:
            table: dict[int, Any] = file.colormap(1) if file.count == 1 else {}
        except ValueError:
            table = {}
    kind = values.dtype.name
    if kind in ("uint16", "int16"):
        true.add("16-bit")
    elif kind != "uint8" or (bits != "8" and not table):
        true.add("not-8-bit")
    if space.get("SOURCE_COLOR_SPACE") == "CMYK":
        true.add("cmyk")
    if space.get("SOURCE_COLOR_SPACE") == "CIELAB":
        true.add("bands")
    if space.get("MINISWHITE") == "YES" and not table:
        true.add("unsupported")
    count = len(values)
    rgb = [colours.index(c) for c in list(LETTERS.values())[:3] if c in colours]
    if count > 4 or (count == 2 and ColorInterp.alpha not in colours):
        true.add("bands")
    if count in (3, 4) and len(rgb) < 3:
        true.add("band-order")
    if true:
        return None, true
    if table:
        lookup = np.array([table.get(i, (0, 0, 0, 0))[:3] for i in range(256)], np.uint8)
        return lookup[values[0]], true
    return values[rgb if count > 2 else [0]].transpose(1, 2, 0), true


@pytest.mark.filterwarnings("ignore")
def test_every_layout_is_equal_to_rasterio_or_rejected_for_what_it_is(tmp_path):
    tried: Counter[str] = Counter()
    path = tmp_path / "a.tif"
    for seed, options in enumerate(layouts()):
        path.unlink(missing_ok=True)
        with warnings.catch_warnings(), rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True):
            warnings.simplefilter("ignore")
            if not write(path, options, seed):
                tried["not written by rasterio"] += 1
                continue
            expected, true = judge(path)
        data = path.read_bytes()
        try:
            pixels, _ = decode(data, "a.tif", grey=False)
        except Reject as reject:
            assert reject.reason in true, (options, str(reject), true)
            tried[reject.reason] += 1
        else:
            assert not true, (options, true)
            np.testing.assert_array_equal(
                pixels, np.broadcast_to(expected, pixels.shape), str(options)
            )
            tried["equal"] += 1
        as_chips(path, options, expected, true, tried)
        if "corrupt" not in true:
            as_stated(data, options, tried)
    counts = dict(tried)
    print(f"\n{tried.total() - tried['not written by rasterio']} readings: {counts}")
    assert tried["equal"] > 150 and tried["chips equal"] > 120 and tried["stated equal"] > 250
    reasons = {"16-bit", "not-8-bit", "bands", "band-order", "cmyk", "unsupported"}
    assert reasons <= set(counts)


def as_chips(path: Any, options: Any, expected: Any, true: set[str], tried: Any) -> None:
    """Cut in chips: windows of the same pixels."""
    found = samples(open_corpus(f"{path}?chip={CHIP}&nodata=1"))
    for sample in found:
        if sample.data is None:
            assert sample.error[0] in true | {"alpha-band", "band-order"}, (options, sample.error)
            if sample.error[0] not in true:  # a fourth band beside known colours: ambiguous
                assert options["count"] == 4 and len(found) == 1
            continue
        assert not true, (options, true)
        x, y, width, height = sample.more["window"]
        window = expected[y : y + height, x : x + width]
        pixels = decode_chip(sample.data)
        np.testing.assert_array_equal(
            np.broadcast_to(pixels, (*pixels.shape[:2], max(pixels.shape[2], window.shape[2]))),
            np.broadcast_to(window, (*window.shape[:2], max(pixels.shape[2], window.shape[2]))),
            str(options),
        )
    tried["chips equal" if found[0].data is not None else "chips rejected"] += 1


def as_stated(data: bytes, options: Any, tried: Any) -> None:
    """With ?bands= and ?scale=: the values of those bands, scaled by the formula."""
    sample = prepare(Sample("a.tif", "s", 0, data), Asked("bgr", SCALE))
    if sample.data is None:
        assert sample.error[0] in ("bands", "cmyk", "not-8-bit", "unsupported"), options
        assert sample.error[0] != "not-8-bit" or options["dtype"].startswith("complex")
        assert sample.error[0] != "bands" or options["count"] == 2 or "cielab" in options.values()
        tried["stated rejected"] += 1
        return
    with rasterio.MemoryFile(data) as memory, memory.open() as file:
        values = file.read([3, 2, 1] if file.count > 2 else [1])
        bits = file.tags(1, ns="IMAGE_STRUCTURE").get("NBITS", "8")
        palette = "palette" in [c.name for c in file.colorinterp]
        if palette or file.tags(ns="IMAGE_STRUCTURE").get("MINISWHITE"):
            return  # a colour table: as without
    if values.dtype != np.uint8 or bits != "8":
        low, high = SCALE
        part = np.clip((values.astype(np.float64) - low) / (high - low), 0, 1)
        values = np.floor(255 * part + 0.5 + 1e-9).astype(np.uint8)
    np.testing.assert_array_equal(decode_chip(sample.data), values.transpose(1, 2, 0), str(options))
    tried["stated equal"] += 1
