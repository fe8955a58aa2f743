"""What a raster's header says."""

from __future__ import annotations

from dataclasses import dataclass

from data.images.raster import Layout

Error = tuple[str, str]
Bounds = tuple[float, float, float, float]  # left, bottom, right, top


@dataclass(frozen=True, slots=True)
class Header:
    """What a raster's header says. With `error` none of the file is used."""

    error: Error | None = None
    width: int = 0
    height: int = 0
    kind: str = ""
    """Format: JPEG, which is decoded as a whole, or a key of data.images.raster.DRIVERS."""
    layout: Layout | None = None
    crs: str | None = None
    transform: tuple[float, ...] = ()
    """a, b, c, d, e, f of x = a col + b row + c, y = d col + e row + f; () without georeference."""
    resolution_m: float | None = None
    date: str | None = None
    pixel_m: tuple[float, float] = ()  # type: ignore[assignment]
    """Metres along a row and along a column from one pixel to the next; () if not known."""
    source: Header | None = None
    """The file's own header, where this one is of a coarser resolution (coarser.at_resolution)."""

    def bounds(self, x: int, y: int, width: int, height: int) -> Bounds | None:
        """Left, bottom, right, top of a window, in the CRS of the file."""
        if not self.transform:
            return None
        a, b, c, d, e, f = self.transform
        corners = [(x + i * width, y + j * height) for i in (0, 1) for j in (0, 1)]
        xs = [a * column + b * row + c for column, row in corners]
        ys = [d * column + e * row + f for column, row in corners]
        return min(xs), min(ys), max(xs), max(ys)
