"""Colour tables of segmentation masks, as data: colours to class ids and back.

A mask file holds class ids (one grey band) or colours (RGB, or a palette PNG, which is turned
into RGB first: its indices mean nothing outside the file). Colours become ids through a stated
`Palette`; a colour that the palette does not know is an error, not a class.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import io
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from core.errors import UserError
from data.images.decode import Reject, decode

TOLERANCE = 24.0
"""Largest Euclidean RGB distance at which a colour still counts as a noisy palette colour.

JPEG moves flat colours by a few levels; in the palettes below the closest two colours of
different classes are 94 apart, so 24 never confuses them.
"""

NOISY_SHARE = 0.05
"""Largest share of a mask's pixels that may be noisy: beyond, they are no palette's colours."""

_UNKNOWN = 255
_MOST_IDS = 64  # three equal channels below it are class ids; no known palette has a grey so dark


def _packed(colour: str) -> int:
    if len(colour) != 6:
        raise UserError(f"palette colour '{colour}': expected six hexadecimal digits, RRGGBB")
    try:
        return int(colour, 16)
    except ValueError:
        raise UserError(f"palette colour '{colour}': expected hexadecimal RRGGBB") from None


def _rgb(packed: np.ndarray | int) -> np.ndarray:
    value = np.asarray(packed)
    return np.stack([value >> 16 & 255, value >> 8 & 255, value & 255], axis=-1).astype(np.uint8)


@dataclasses.dataclass(frozen=True)
class Palette:
    """Classes of a mask; a class's id is its place in `names` and `colours`.

    Attributes:
        name: what --palette calls it.
        names: class names, id 0 first.
        colours: 'RRGGBB', one for each class.
        aliases: further colours -> id.
    """

    name: str
    names: tuple[str, ...]
    colours: tuple[str, ...]
    aliases: tuple[tuple[str, int], ...] = ()

    def __post_init__(self) -> None:
        if not 1 <= len(self.names) <= 254 or len(self.names) != len(self.colours):
            raise UserError(
                f"palette {self.name}: {len(self.names)} names for {len(self.colours)} colours "
                "(1 to 254 classes, a colour for each)"
            )
        if any(not 0 <= alias < len(self.names) for _, alias in self.aliases):
            raise UserError(f"palette {self.name}: an alias names a class that does not exist")
        packed = [_packed(colour) for colour, _ in self.entries()]
        if len(set(packed)) != len(packed):
            raise UserError(f"palette {self.name}: a colour stands for two classes")

    @property
    def classes(self) -> int:
        """Number of classes n; ids are 0..n-1."""
        return len(self.names)

    def entries(self) -> list[tuple[str, int]]:
        """Every (colour, id), aliases included."""
        return [(colour, index) for index, colour in enumerate(self.colours)] + list(self.aliases)

    def describe(self) -> dict[str, Any]:
        """JSON form; `from_dict` reads it back."""
        return {
            "name": self.name,
            "classes": [
                {"name": name, "colour": colour}
                for name, colour in zip(self.names, self.colours, strict=True)
            ],
            "aliases": dict(self.aliases),
        }

    def ids(self, rgb: np.ndarray, name: str) -> tuple[np.ndarray, int]:
        """Colours (uint8 HxWx3) to ids (uint8 HxW), and how many pixels were noisy colours.

        A mask of three equal channels that are ids, as many tools save them, is taken as ids.

        Raises UserError that lists the colours with their pixel counts: unknown ones, or too many
        that are only near those of the palette.
        """
        packed = pack(rgb)
        ids = _table(self)[packed]
        rest = ids == _UNKNOWN
        if not rest.any():
            return ids, 0
        if not self._has_dark_greys() and (bare := ids_in_channels(rgb)) is not None:
            self.check_ids(bare, name)
            return bare, 0
        colours, inverse, counts = np.unique(packed[rest], return_inverse=True, return_counts=True)
        nearest, distance = self._nearest(colours)
        far = distance > TOLERANCE
        if far.any():
            found = Counter(dict(zip(colours[far].tolist(), counts[far].tolist(), strict=True)))
            raise UserError(
                f"{name}: colours that palette '{self.name}' does not know: {_listed(found)}; "
                "state another --palette, or repair the mask (a mask must be lossless)"
            )
        noisy = int(counts.sum())
        if noisy > NOISY_SHARE * ids.size:
            found = Counter(dict(zip(colours.tolist(), counts.tolist(), strict=True)))
            raise UserError(
                f"{name}: {noisy / ids.size:.0%} of its pixels are near a colour of palette "
                f"'{self.name}' and not on it: {_listed(found)}; save masks lossless (PNG), or "
                "give these colours to their classes in a YAML file for --palette"
            )
        ids[rest] = nearest[inverse]
        return ids, noisy

    def check_ids(self, ids: np.ndarray, name: str) -> None:
        """Raise UserError when a mask of class ids holds one that this palette does not have."""
        top = int(ids.max(initial=0))
        if top >= self.classes:
            values, counts = np.unique(ids[ids >= self.classes], return_counts=True)
            listed = list(zip(values, counts, strict=True))[:8]
            found = ", ".join(f"{value} ({count:,} px)" for value, count in listed)
            raise UserError(
                f"{name}: class ids beyond palette '{self.name}' (0..{self.classes - 1}): {found}"
            )

    def _has_dark_greys(self) -> bool:
        greys = {f"{value:02X}" * 3 for value in range(1, _MOST_IDS)}
        return any(colour in greys for colour, _ in self.entries())

    def paint(self, ids: np.ndarray) -> np.ndarray:
        """Ids (uint8, any shape) to RGB colours (one more axis of 3)."""
        table = np.array([_rgb(_packed(colour)) for colour in self.colours], np.uint8)
        return table[ids]

    def score(self, census: Mapping[int, int]) -> tuple[int, int] | None:
        """(pixels, colours) that match exactly, or None when some colour is unknown."""
        colours = np.fromiter(census.keys(), np.int64, len(census))
        counts = np.fromiter(census.values(), np.int64, len(census))
        exact = _table(self)[colours] != _UNKNOWN
        if (self._nearest(colours[~exact])[1] > TOLERANCE).any():
            return None
        return int(counts[exact].sum()), int(exact.sum())

    def _nearest(self, packed: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Id of the nearest colour, and its Euclidean distance, for packed colours [n]."""
        entries = self.entries()
        table = _rgb(np.array([_packed(colour) for colour, _ in entries])).astype(np.float64)
        distances = np.linalg.norm(_rgb(packed).astype(np.float64)[:, None] - table[None], axis=-1)
        best = distances.argmin(axis=1)
        of = np.array([index for _, index in entries], np.uint8)
        return of[best], distances[np.arange(len(packed)), best]


PALETTES: dict[str, Palette] = {
    palette.name: palette
    for palette in (
        Palette(
            "openearthmap",
            ("unknown", "bareland", "rangeland", "developed", "road", "tree", "water", "cropland",
             "building"),
            ("000000", "800000", "00FF24", "949494", "FFFFFF", "226126", "0045FF", "4BB549",
             "DE1F07"),
        ),
        Palette(
            "dubai",
            ("unlabelled", "land", "water", "building", "vegetation", "road"),
            ("9B9B9B", "8429F6", "E2A929", "3C1098", "FEDD3A", "6EC1E4"),
            (("000000", 0),),  # a few hundred stray pixels that the set's key does not name
        ),
        Palette(
            "second",
            ("unchanged", "water", "ground", "low vegetation", "tree", "building", "playground"),
            ("FFFFFF", "0000FF", "808080", "008000", "00FF00", "800000", "FF0000"),
        ),
    )
}


def from_dict(value: Mapping[str, Any], where: str = "palette") -> Palette:
    """A palette from its JSON form. Raises UserError when a part is missing or malformed."""
    try:
        return Palette(
            str(value["name"]),
            tuple(str(entry["name"]) for entry in value["classes"]),
            tuple(str(entry["colour"]).upper() for entry in value["classes"]),
            tuple((str(c).upper(), int(i)) for c, i in dict(value.get("aliases") or {}).items()),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(
            f"{where}: not a palette ({error!r}); expected name, classes: [{{name, colour: "
            "'RRGGBB'}}, ...] in the order of the ids, and optionally aliases: {'RRGGBB': id}"
        ) from None


def load_palette(spec: str) -> Palette:
    """A known palette by name, or one from a YAML file (see `from_dict`)."""
    if spec in PALETTES:
        return PALETTES[spec]
    path = Path(spec)
    if path.suffix.lower() not in (".yaml", ".yml", ".json"):
        raise UserError(f"--palette {spec}: known are auto, {', '.join(PALETTES)}, or a YAML file")
    import yaml

    try:
        value = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise UserError(f"--palette {spec}: cannot be read: {error}") from None
    if not isinstance(value, dict):
        raise UserError(f"--palette {spec}: expected a mapping, found {type(value).__name__}")
    return from_dict(value, spec)


def ids_in_channels(mask: np.ndarray) -> np.ndarray | None:
    """The class ids (uint8 HxW) of a mask (uint8 HxWx3) whose channels are three times the same.

    None for colours, for light greys, and for a black mask, of which nothing can be said.
    """
    first = mask[..., 0]
    equal = (mask == first[..., None]).all()
    return first.copy() if equal and 0 < first.max(initial=0) < _MOST_IDS else None


def pack(rgb: np.ndarray) -> np.ndarray:
    """uint8 HxWx3 to int32 HxW, 0xRRGGBB."""
    wide = rgb.astype(np.int32)
    return (wide[..., 0] << 16) | (wide[..., 1] << 8) | wide[..., 2]


def census(masks: Iterable[np.ndarray]) -> Counter[int]:
    """Pixels of each packed colour over RGB masks (uint8 HxWx3)."""
    known = sorted({_packed(c) for p in PALETTES.values() for c, _ in p.entries()})
    table = np.full(1 << 24, _UNKNOWN, np.uint8)
    table[known] = np.arange(len(known), dtype=np.uint8)
    counts: Counter[int] = Counter()
    for mask in masks:
        packed = pack(mask)
        places = table[packed]
        tally = np.bincount(places.ravel(), minlength=256)
        counts.update({known[i]: int(tally[i]) for i in np.flatnonzero(tally[: len(known)])})
        if tally[_UNKNOWN]:  # sorting is slow, so only what no palette knows is sorted
            colours, number = np.unique(packed[places == _UNKNOWN], return_counts=True)
            counts.update(dict(zip(colours.tolist(), number.tolist(), strict=True)))
    return counts


def detect(counts: Mapping[int, int], prefer: str | None = None) -> Palette:
    """The one known palette that explains every colour of a census.

    `prefer` settles a tie (the layout of the data set speaks for one). Raises UserError when no
    palette fits, or when several fit equally well.
    """
    scores = {name: palette.score(counts) for name, palette in PALETTES.items()}
    fitting = {name: score for name, score in scores.items() if score is not None}
    if not counts or not fitting:
        raise UserError(
            f"no known palette ({', '.join(PALETTES)}) explains the masks' colours: "
            f"{_listed(Counter(counts))}; state --palette with a YAML file"
        )
    best = max(fitting.values())
    names = [name for name, score in fitting.items() if score == best]
    if prefer in names:
        names = [str(prefer)]
    if len(names) > 1:
        raise UserError(
            f"the masks' colours ({_listed(Counter(counts))}) fit several palettes equally: "
            f"{', '.join(names)}; state one with --palette"
        )
    return PALETTES[names[0]]


def decode_mask(data: bytes, name: str = "") -> np.ndarray:
    """A mask file's pixels: uint8 HxW of class ids (grey file), or HxWx3 of colours.

    Raises Reject for what is neither: 16-bit, translucent, damaged, animated, misnamed.
    """
    mode, opaque = "", True
    # A header that Pillow cannot read is rejected by `decode`, with its reason.
    with contextlib.suppress(Exception), Image.open(io.BytesIO(data)) as image:
        mode = image.mode
        if image.has_transparency_data:
            opaque = image.convert("RGBA").getchannel("A").getextrema() == (255, 255)
    if not opaque:
        raise Reject("bands", "mask with translucent pixels")
    pixels, _ = decode(data, name, grey=mode in ("L", "1"))
    return pixels // 255 if mode == "1" else pixels


@functools.lru_cache(maxsize=4)
def _table(palette: Palette) -> np.ndarray:
    """Packed colour -> id for all 2^24 colours, 255 for unknown ones (16 MiB)."""
    table = np.full(1 << 24, _UNKNOWN, np.uint8)
    for colour, index in palette.entries():
        table[_packed(colour)] = index
    return table


def _listed(found: Counter[int], most: int = 8) -> str:
    listed = ", ".join(f"{colour:06X} ({count:,} px)" for colour, count in found.most_common(most))
    more = len(found) - most
    return (listed + (f" and {more:,} more" if more > 0 else "")) or "none"
