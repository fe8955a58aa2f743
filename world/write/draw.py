"""The files of the world: a plan's jobs drawn, damaged where they should be, and encoded."""

from __future__ import annotations

import functools
import io
from typing import Any

import numpy as np
from PIL import Image

from data.images.chips import chip_to_file, encode_chip
from data.images.decode import decode_grey
from world.paint.tiles import generator, render
from world.plan.config import WorldConfig
from world.plan.corpus import Job
from world.plan.faults import BROKEN
from world.plan.sets import Item
from world.write.encode import Pixels, geotiff, jpeg, png

METRES = 0.5  # nominal ground sampling distance written into the GeoTIFFs
UTM = "EPSG:32632"  # their coordinate system
File = tuple[str, bytes]  # path below the world, content
_render = functools.lru_cache(maxsize=1)(render)  # of one tile first the file, then the infrared


def corpus_files(job: Job, config: WorldConfig) -> list[File]:
    """One file of the corpus, its truth rasters after it."""
    rng = generator(config.seed, job.place, "fault")
    path, size = f"corpus/{job.key}", config.size
    kind = job.fault.removeprefix("broken:")
    if job.fault == "blank":
        return [(path, _encode(blank(rng, size), job.quality))]
    if job.fault == "noise":
        return [(path, _encode(sensor_noise(rng, size), job.quality))]
    tile = _render(job.scene or "forest", config.seed, job.index, size)
    if kind != job.fault:
        return [(path, broken(kind, tile.rgb))]
    if job.fault == "nodata":
        return [(path, _encode(nodata(rng, tile.rgb), job.quality))]
    if job.duplicate_kind not in ("", "exact"):
        return [(path, jpeg(*near_duplicate(rng, tile.rgb, job.duplicate_kind)))]
    files = [(path, _encode(tile.rgb, job.quality))]
    if config.write_truth_rasters and not job.duplicate_kind:
        files.append((f"truth/{job.key}.mask.png", png(tile.mask)))
        files.append((f"truth/{job.key}.nir.png", png(tile.nir)))
    return files


def has_infrared(job: Job) -> bool:
    """Whether a file of the corpus is a whole tile, so that it has a near infrared."""
    return not job.fault.startswith("broken:")


def infrared(job: Job, config: WorldConfig) -> Pixels:
    """The near infrared of a file of the corpus that has one, uint8 size x size.

    What was done to the colours is done to it too: it is cut off, shifted, brightened, compressed.
    """
    rng = generator(config.seed, job.place, "fault")
    if job.fault == "blank":  # a fill value is that of all bands
        return blank(rng, config.size)[..., 0].copy()
    if job.fault == "noise":
        return sensor_noise(generator(config.seed, job.place, "infrared"), config.size)[..., 0]
    nir = _render(job.scene, config.seed, job.index, config.size).nir
    if job.fault == "nodata":
        return nodata(rng, nir)
    if job.duplicate_kind in ("", "exact"):
        return nir
    return decode_grey(jpeg(*near_duplicate(rng, nir, job.duplicate_kind)))


def _encode(pixels: Pixels, quality: int) -> bytes:
    return jpeg(pixels, quality) if quality else png(pixels)


def set_files(item: Item, seed: int, *, infrared: bool = False) -> list[File]:
    """The files of one item of the sets beside the corpus, with `infrared` those of four bands."""
    tile = render(item.scene, seed, item.index, item.size, stream=item.kind, epoch=item.epoch)
    if item.kind == "reference":
        return [(item.paths[0], jpeg(tile.rgb, 90 + item.index % 6))]
    west, north, side = 500_000.0 + item.index * item.size * METRES, 5_500_000.0, item.size * METRES
    if item.kind == "sr":
        files = [(item.paths[0], png(tile.rgb))]
    else:
        bands = (tile.rgb, tile.mask)
        files = [
            (path, geotiff(pixels, METRES, west, north))
            for path, pixels in zip(item.paths, bands, strict=False)
        ]
    if infrared:
        kind = f"{item.kind}-rgbn/"
        first, *masks = (path.replace(f"{item.kind}/", kind, 1) for path in item.paths)
        four = encode_chip(np.dstack([tile.rgb, tile.nir]))
        extent = (west, north - side, west + side, north)
        files.append((first.removesuffix(".png").removesuffix(".tif") + ".tif",
                      chip_to_file(four, UTM, extent)))  # fmt: skip
        files += [(path, data) for path, (_, data) in zip(masks, files[1:], strict=False)]
    return files


def blank(rng: np.random.Generator, size: int) -> Pixels:
    """A constant tile, uint8 size x size x 3: black, white or another fill value."""
    kind = rng.random()
    grey = rng.integers(1, 255, dtype=np.uint8)
    fill = 0 if kind < 0.4 else 255 if kind < 0.7 else int(grey)
    return np.full((size, size, 3), fill, dtype=np.uint8)


def sensor_noise(rng: np.random.Generator, size: int) -> Pixels:
    """Independent uniform noise in every pixel and band, uint8 size x size x 3."""
    return rng.integers(0, 256, (size, size, 3), dtype=np.uint8)


def nodata(rng: np.random.Generator, pixels: Pixels) -> Pixels:
    """The edge of a swath: 20 to 80 % of the tile cut off along a slanted line and filled."""
    size = pixels.shape[0]
    y, x = np.mgrid[0:size, 0:size] - (size - 1) / 2
    angle = rng.uniform(0, 2 * np.pi)
    side = x * np.cos(angle) + y * np.sin(angle)
    cut = side < np.quantile(side, rng.uniform(0.2, 0.8))
    out = pixels.copy()
    out[cut] = 0 if rng.random() < 0.7 else 255
    return out


def near_duplicate(rng: np.random.Generator, pixels: Pixels, kind: str) -> tuple[Pixels, int]:
    """A tile a little changed, and the JPEG quality to save it in: `kind` is one of NEAR."""
    quality = int(rng.integers(55, 85))
    if kind == "shift":
        size = pixels.shape[0]
        reach = max(1, size // 32)
        dy, dx = (int(v) for v in rng.choice([-reach, reach], 2))
        wider = [(reach, reach), (reach, reach), (0, 0)][: pixels.ndim]
        padded = np.pad(pixels, wider, mode="reflect")
        pixels = padded[reach + dy : reach + dy + size, reach + dx : reach + dx + size]
        quality = 90
    elif kind == "brightness":
        factor = rng.uniform(0.82, 0.93) if rng.random() < 0.5 else rng.uniform(1.07, 1.18)
        pixels = np.clip(np.rint(pixels * factor), 0, 255).astype(np.uint8)
        quality = 90
    return np.ascontiguousarray(pixels), quality


def broken(kind: str, pixels: Pixels) -> bytes:
    """The bytes of a broken file made from a tile: `kind` is a key of BROKEN."""
    if kind == "empty":
        return b""
    if kind == "truncated":
        complete = jpeg(pixels, 90)
        return complete[: len(complete) // 2]
    if kind == "text":
        return b"<html><body>503 Service Temporarily Unavailable</body></html>\n"
    if kind == "png-named-jpg":
        return png(pixels)
    if kind == "tiny":
        return png(pixels[:1, :1].copy())
    if kind == "png16":
        # Pillow writes 16 bits for grey only
        grey = np.asarray(Image.fromarray(pixels).convert("L"), dtype=np.uint16) * 257
        return _save(Image.fromarray(grey), "PNG")
    image = Image.fromarray(pixels)
    if kind == "cmyk":
        return _save(image.convert("CMYK"), "JPEG", quality=90)
    if kind == "gif-named-jpg":
        return _save(image.quantize(64), "GIF")
    frames = [Image.fromarray(np.roll(pixels, 4 * i, axis=1)) for i in (1, 2)]
    if kind == "animated-gif":
        rest = [frame.quantize(64) for frame in frames]
        return _save(image.quantize(64), "GIF", save_all=True, append_images=rest, duration=200)
    if kind == "animated-png":
        return _save(image, "PNG", save_all=True, append_images=frames, duration=200)
    raise ValueError(f"unknown kind of broken file '{kind}' (known: {', '.join(BROKEN)})")


def _save(image: Image.Image, kind: str, **options: Any) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()
