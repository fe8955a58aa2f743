"""Downstream images in memory: decoded, brought to one scale, checked, and paired.

Every file is read once before training starts, so that a damaged one is a line in the report
and not a stop in the middle. What was read is kept when it fits in memory, and read again from
disk when needed otherwise; results are the same.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

import numpy as np
from PIL import Image

from core.errors import UserError
from core.progress import progress
from data.images.decode import Reject, decode_rgb
from data.pairs.listing import Item, Report
from data.pairs.palettes import Palette, census, decode_mask, detect

T = TypeVar("T")
R = TypeVar("R")

Pair = tuple[np.ndarray, np.ndarray]


def scaled(image: np.ndarray, side: int) -> np.ndarray:
    """Bring the shorter side to `side`: box-halved while at least twice that, then bicubic.

    uint8 HxWx3 to uint8 hxwx3. The whole image is kept (no crop).
    """
    height, width = image.shape[:2]
    if min(height, width) == side:
        return image
    target = scaled_size(width, height, side)
    picture = Image.fromarray(image)
    while min(width, height) >= 2 * side:
        width, height = width // 2, height // 2
        picture = picture.resize((width, height), Image.Resampling.BOX)
    return np.asarray(picture.resize(target, Image.Resampling.BICUBIC))


def scaled_size(width: int, height: int, side: int) -> tuple[int, int]:
    """(width, height) after the shorter side became `side`."""
    scale = side / min(width, height)
    return round(width * scale), round(height * scale)


class Unusable(Exception):
    """This pair cannot be used, although both files may decode.

    Attributes: reason, a few words to count by; detail, one line.
    """

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason, self.detail = reason, detail


class Bank:
    """Prepared pairs of one split: (image uint8 HxWx3, companion), by dataset index.

    Args:
        items: files to read.
        prepare: item -> pair; raises Reject or Unusable.
        report: takes the rejects.
        cache: bytes of pairs kept in memory; above it none is kept.
        workers: threads that read.
        quiet: no progress bar.

    Raises UserError when nothing is left.
    """

    def __init__(
        self,
        items: Sequence[Item],
        prepare: Callable[[Item], Pair],
        report: Report,
        cache: int,
        workers: int,
        quiet: bool = False,
    ) -> None:
        self._prepare = prepare
        self._workers = workers
        self.items: list[Item] = []
        self.sizes: list[tuple[int, int]] = []
        self._kept: list[Pair] | None = []
        held = 0
        with progress(total=len(items), name="reading images", disable=quiet) as bar:
            for item, pair in zip(items, parallel(self._try, items, workers), strict=True):
                bar.update()
                if isinstance(pair, Exception):
                    detail = f": {pair.detail}" if pair.detail else ""
                    report.add(pair.reason, f"{item.key}{detail}")
                    continue
                self.items.append(item)
                self.sizes.append((pair[0].shape[0], pair[0].shape[1]))
                held += pair[0].nbytes + pair[1].nbytes
                if self._kept is not None:
                    self._kept.append(pair)
                    if held > cache:
                        self._kept = None
        self.bytes = held
        if not self.items:
            raise UserError("\n  ".join(["no image of the split can be used", *report.lines()]))

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
        return list(parallel(self._prepare, [self.items[int(i)] for i in indices], self._workers))

    def _try(self, item: Item) -> Pair | Reject | Unusable:
        try:
            return self._prepare(item)
        except (Reject, Unusable) as unusable:
            return unusable


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


def read_image(item: Item) -> np.ndarray:
    """An item's pixels, uint8 HxWx3. Raises Reject."""
    return decode_rgb(_read(item.image), item.image.name)


def read_mask(item: Item) -> np.ndarray:
    """An item's mask as it is stored: ids HxW or colours HxWx3, uint8. Raises Unusable."""
    assert item.mask is not None
    try:
        return decode_mask(_read(item.mask), item.mask.name)
    except Reject as reject:
        raise Unusable(f"mask {reject.reason}", reject.detail) from None


def choose_palette(
    items: Sequence[Item], layout: str, report: Report, workers: int, quiet: bool = False
) -> Palette:
    """The palette that the masks speak of themselves. Raises UserError when they do not.

    Colours decide (data.pairs.palettes.detect). Masks of bare class ids name no palette, unless the
    layout does: OpenEarthMap's, SECOND's.
    """
    from data.pairs.palettes import PALETTES

    grey = []

    def colours(item: Item) -> np.ndarray | None:
        try:
            mask = read_mask(item)
        except Unusable:  # counted when the pair is prepared
            return None
        if mask.ndim == 2:
            grey.append(item.key)
            return None
        return mask

    bar = progress(total=len(items), name="palette", disable=quiet)

    def found() -> Iterator[np.ndarray]:
        for mask in parallel(colours, items, workers):
            bar.update()
            if mask is not None:
                yield mask

    counts = census(found())
    bar.close()
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


@dataclasses.dataclass(frozen=True)
class Crop:
    """A square of one image: top left corner in pixels."""

    index: int
    top: int
    left: int


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
    """The evaluation's crops: the centre of every image, or the centred grid of whole tiles."""
    crops = []
    for index, (height, width) in enumerate(sizes):
        rows, columns = (height // size, width // size) if grid else (1, 1)
        top, left = (height - rows * size) // 2, (width - columns * size) // 2
        crops += [
            Crop(index, top + row * size, left + column * size)
            for row in range(rows)
            for column in range(columns)
        ]
    return crops


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise Reject("unreadable", os.strerror(error.errno or 0)) from None
