"""Small pictures inside the page: samples and pairs as JPEG, figures as PNG, as data URIs."""

from __future__ import annotations

import base64
import io
from pathlib import Path

from PIL import Image

SIDE = 72  # pixels of a thumbnail
ACROSS = 6
MOST_BYTES = 1_500_000  # of all sample grids
FIGURE = 700  # pixels across


def samples_grid(folder: Path) -> str:
    """The first twelve samples of a folder as one JPEG; '' where there are none."""
    names = sorted(path for path in folder.glob("*.png"))[: 2 * ACROSS]
    return _jpeg([names[:ACROSS], names[ACROSS:]]) if names else ""


def pairs_grid(folder: Path, target: str) -> str:
    """Condition, generated and target below each other, of six items spread evenly."""
    names = sorted(path.name for path in (folder / "generated").glob("*.png"))
    names = names[:: max(1, len(names) // ACROSS)][:ACROSS]
    rows = [[folder / part / name for name in names] for part in ("condition", "generated", target)]
    return _jpeg(rows) if names else ""


def figure(path: Path) -> str:
    """A figure, smaller and of 64 colours: lines and words stay sharp, and it is a tenth as big."""
    with Image.open(path) as opened:
        picture = opened.convert("RGB")
    picture.thumbnail((FIGURE, 10 * FIGURE), Image.Resampling.LANCZOS)
    stream = io.BytesIO()
    picture.quantize(64, dither=Image.Dither.NONE).save(stream, "PNG", optimize=True)
    return _uri(stream, "png")


def _jpeg(rows: list[list[Path]]) -> str:
    rows = [row for row in rows if row]
    step = SIDE + 2
    canvas = Image.new("RGB", (step * max(map(len, rows)) - 2, step * len(rows) - 2), "#808080")
    for line, row in enumerate(rows):
        for column, path in enumerate(row):
            try:
                with Image.open(path) as opened:
                    tile = opened.convert("RGB").resize((SIDE, SIDE), Image.Resampling.BOX)
            except OSError:  # missing or damaged: the grey of the ground shows it
                continue
            canvas.paste(tile, (step * column, step * line))
    stream = io.BytesIO()
    canvas.save(stream, "JPEG", quality=82, optimize=True)
    return _uri(stream, "jpeg")


def _uri(stream: io.BytesIO, kind: str) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(stream.getvalue()).decode()}"
