"""Downstream images in memory: decoded, brought to one scale, checked, and paired.

Every file is read once before training starts, so that a damaged one is a line in the report
and not a stop in the middle. What was read is kept when it fits in memory, and read again from
disk when needed otherwise; results are the same.
"""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import numpy as np
from PIL import Image

from core.errors import UserError
from core.progress import progress
from data.images.decode import Reject
from data.pairs.listing import Item, Report
from data.pairs.palettes import PALETTES, Palette, census, decode_mask, detect, ids_in_channels
from downstream.tasks.bands import Unusable, Wanted, file_bytes

T = TypeVar("T")
R = TypeVar("R")

Pair = tuple[np.ndarray, np.ndarray]


@dataclasses.dataclass(frozen=True)
class Crop:
    """A square of one image: top left corner in pixels."""

    index: int
    top: int
    left: int


class PairDataset(ABC):
    """The pairs of one split: an image uint8 HxWx3 (or 4) and its companion, by index.

    The companion is what a condition is made of: the low-resolution image (SR) or the class ids
    (SIS). A subclass sets what its `prepare` needs before it calls this constructor.

    Args:
        items: files to read.
        report: takes what cannot be used.
        image_size: side of a crop (pixels).
        cache: bytes of pairs kept in memory; above it none is kept.
        workers: threads that read.
        quiet: no progress bar.
        bands: which bands of an image, see downstream.tasks.bands.read_bands.

    Attributes: items, of what can be used; sizes, (height, width) of each; bytes, of all pairs.

    Raises UserError when nothing can be used.
    """

    def __init__(
        self,
        items: Sequence[Item],
        report: Report,
        *,
        image_size: int,
        cache: int,
        workers: int,
        quiet: bool = False,
        bands: Wanted = "rgb",
    ) -> None:
        self.image_size, self._workers, self.bands = image_size, workers, bands
        self.items: list[Item] = []
        self.sizes: list[tuple[int, int]] = []
        self.bytes = 0
        self._kept: list[Pair] | None = []
        with progress(total=len(items), name="reading images", disable=quiet) as bar:
            for item, pair in zip(items, parallel(self._try, items, workers), strict=True):
                bar.update()
                if isinstance(pair, Exception):
                    detail = f": {pair.detail}" if pair.detail else ""
                    report.add(pair.reason, f"{item.key}{detail}")
                    continue
                self.items.append(item)
                self.sizes.append((pair[0].shape[0], pair[0].shape[1]))
                self.bytes += pair[0].nbytes + pair[1].nbytes
                if self._kept is not None:
                    self._kept.append(pair)
                    if self.bytes > cache:
                        self._kept = None
        if not self.items:
            raise UserError("\n  ".join(["no image of the split can be used", *report.lines()]))

    @abstractmethod
    def prepare(self, item: Item) -> Pair:
        """Read an item's pair. Raises Reject or Unusable. Called from threads."""

    @abstractmethod
    def cut(
        self, companion: np.ndarray, crop: Crop, size: tuple[int, int] | None = None
    ) -> np.ndarray:
        """What a companion says of the crop's square, uint8 [S, S, ...]; or of (height, width)."""

    @abstractmethod
    def condition(self, companions: np.ndarray, vae: Any) -> Any:
        """The model's condition, a tensor on the VAE's device, from `crops`' second array."""

    @abstractmethod
    def describe_condition(self, vae: Any) -> dict[str, Any]:
        """ConditionedDiT's `condition` argument."""

    @abstractmethod
    def picture(self, companions: np.ndarray) -> np.ndarray:
        """What a person is shown as the condition: uint8 [b, S, S, 3]."""

    @property
    def resident(self) -> bool:
        """Whether the pairs are kept in memory."""
        return self._kept is not None

    @property
    def keys(self) -> list[str]:
        """Keys of what can be used, in order."""
        return [item.key for item in self.items]

    def __len__(self) -> int:
        return len(self.items)

    def get(self, indices: Iterable[int]) -> list[Pair]:
        """Pairs of these dataset indices."""
        if self._kept is not None:
            return [self._kept[int(index)] for index in indices]
        return list(parallel(self.prepare, [self.items[int(i)] for i in indices], self._workers))

    def crops(self, crops: Sequence[Crop]) -> tuple[np.ndarray, np.ndarray]:
        """(images uint8 [b, S, S, 3], companions uint8 [b, S, S, ...]) of the same squares."""
        found = list(zip(self.get(crop.index for crop in crops), crops, strict=True))
        images = [cut_out(image, c, self.image_size) for (image, _), c in found]
        companions = [self.cut(companion, c) for (_, companion), c in found]
        return np.stack(images), np.stack(companions)

    def _try(self, item: Item) -> Pair | Reject | Unusable:
        try:
            return self.prepare(item)
        except (Reject, Unusable) as unusable:
            return unusable


def cut_out(
    pixels: np.ndarray, crop: Crop, height: int, width: int | None = None
) -> np.ndarray:
    """The crop's pixels, [height, width, ...], of an image or a mask; of a square by default."""
    return pixels[crop.top : crop.top + height, crop.left : crop.left + (width or height)]


def random_crops(
    sizes: Sequence[tuple[int, int]], indices: np.ndarray, uniforms: np.ndarray, size: int
) -> list[Crop]:
    """Crops at positions given by uniforms [b, >= 2] in [0, 1): top from the first, left second."""
    crops = []
    for index, (u, v) in zip(indices.tolist(), uniforms[:, :2].tolist(), strict=True):
        height, width = sizes[index]
        crops.append(Crop(index, int(u * (height - size + 1)), int(v * (width - size + 1))))
    return crops


def fixed_crops(sizes: Sequence[tuple[int, int]], size: int, grid: bool) -> list[Crop]:
    """The evaluation's crops: the centre of every image, or a grid that covers every pixel.

    The grid's tiles lie side by side from the top left corner; where a side is no multiple of the
    tile's, the last tile ends at the border and overlaps the one before.
    """
    crops = []
    for index, (height, width) in enumerate(sizes):
        if grid:
            tops, lefts = (
                [min(start, side - size) for start in range(0, side, size)]
                for side in (height, width)
            )
        else:
            tops, lefts = [(height - size) // 2], [(width - size) // 2]
        crops += [Crop(index, top, left) for top in tops for left in lefts]
    return crops


def scaled(image: np.ndarray, side: int) -> np.ndarray:
    """Bring the shorter side to `side`: box-halved while at least twice that, then bicubic.

    uint8 HxWx3 (or 4) to hxwx3 (4). All of the image is kept (no crop).
    """
    height, width = image.shape[:2]
    if min(height, width) == side:
        return image
    target = scaled_size(width, height, side)
    while min(width, height) >= 2 * side:
        width, height = width // 2, height // 2
        image = resized(image, (width, height), Image.Resampling.BOX)
    return resized(image, target)


def resized(
    pixels: np.ndarray,
    size: tuple[int, int],
    how: Image.Resampling = Image.Resampling.BICUBIC,
    box: tuple[float, float, float, float] | None = None,
) -> np.ndarray:
    """`pixels` (their `box`, or all) as (width, height); uint8 H x W x 3 or 4 stays that.

    Each of four bands alone: Pillow would take the fourth for alpha, and weight colours by it.
    """
    if pixels.shape[2] == 3:
        return np.asarray(Image.fromarray(pixels).resize(size, how, box=box))
    bands = (Image.fromarray(np.ascontiguousarray(band)) for band in np.moveaxis(pixels, -1, 0))
    return np.stack([np.asarray(band.resize(size, how, box=box)) for band in bands], axis=-1)


def scaled_size(width: int, height: int, side: int) -> tuple[int, int]:
    """(width, height) after the shorter side became `side`."""
    scale = side / min(width, height)
    return round(width * scale), round(height * scale)


def parallel(function: Callable[[T], R], values: Sequence[T], workers: int) -> Iterator[R]:
    """function over values in order, in threads (decoders release the interpreter's lock).

    At most four values a thread are under way, so results never pile up.
    """
    if workers <= 1:
        yield from map(function, values)
        return
    with ThreadPoolExecutor(workers) as pool:
        step = 4 * workers
        for start in range(0, len(values), step):
            yield from pool.map(function, values[start : start + step])


def read_mask(item: Item) -> np.ndarray:
    """An item's mask as it is stored: ids HxW or colours HxWx3, uint8. Raises Unusable."""
    assert item.mask is not None
    try:
        return decode_mask(file_bytes(item.mask), item.mask.name)
    except Reject as reject:
        raise Unusable(f"mask {reject.reason}", reject.detail) from None


def choose_palette(
    items: Sequence[Item], layout: str, report: Report, workers: int, quiet: bool = False
) -> Palette:
    """The palette that the masks themselves show. Raises UserError when they do not.

    Colours decide (data.pairs.palettes.detect). Masks of bare class ids name no palette, unless the
    layout does: OpenEarthMap's, SECOND's.
    """
    grey: list[str] = []

    def colours(item: Item) -> np.ndarray | None:
        try:
            mask = read_mask(item)
        except Unusable:  # counted when the pair is prepared
            return None
        if mask.ndim == 2 or ids_in_channels(mask) is not None:
            grey.append(item.key)
            return None
        return mask

    masks = progress(
        parallel(colours, items, workers), total=len(items), name="palette", disable=quiet
    )
    counts = census(mask for mask in masks if mask is not None)
    prefer = layout if layout in PALETTES else None  # OpenEarthMap's, SECOND's
    if counts:
        palette = detect(counts, prefer)
    elif prefer is not None:
        palette = PALETTES[prefer]
    elif grey:
        raise UserError(
            f"the masks hold class ids without colours (for example {grey[0]}); state --palette "
            f"({', '.join(PALETTES)}, or a YAML file that names the classes)"
        )
    else:
        raise UserError("\n  ".join(["no mask can be read", *report.lines()]))
    report.note(f"palette: {palette.name} ({palette.classes} classes), chosen by the masks")
    return palette
