"""Four bands in SR and SIS: which way a model of red, green, blue and near infrared is fine-tuned.

    native      the data have near infrared themselves
    predicted   RGB data; near infrared by the VAE folder's quadratic model of the colours
    filled      RGB data; near infrared is the mean of the VAE's corpus everywhere
    split       RGB data; the VAE's first convolution split off, near infrared folded into it as a
                linear model of the colours; the model draws RGB (dit.vae.infrared.split_rgb)

All keep the meaning of the latents that the DiT was trained on. Light to import: no torch.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from core.errors import UserError
from data.images.bands import Asked
from data.images.formats import sniff
from data.images.reject import MAX_PIXELS, Reject
from data.pairs.items import Item, Listing, hash_split

if TYPE_CHECKING:
    from dit.vae.autoencoder import Vae, VaeInfo

Way = Literal["auto", "native", "predicted", "filled", "split"]
Wanted = Literal["rgb", "colours", "rgbn"]
DEFAULT: Way = "predicted"
"""The way of RGB data; docs/checkpoint_to_picture.md says why."""
_FORMS: dict[str, Literal["quadratic", "mean"]] = {"predicted": "quadratic", "filled": "mean"}
_HEAD = 4096  # bytes that tell a file's format


class Unusable(Exception):
    """This pair cannot be used, although both files may decode.

    Attributes: reason, a few words to count by; detail, one line.
    """

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason, self.detail = reason, detail


@dataclasses.dataclass(frozen=True, slots=True)
class Chip(Item):
    """A window of a large raster; box is x, y, width and height in pixels."""

    box: tuple[int, int, int, int]


def way_of(asked: Way, info: VaeInfo, listing: Listing, vae: str) -> Way | None:
    """The way that is gone, never auto; None for a VAE of three bands, which has none.

    auto: native where the first image to train on has near infrared, else DEFAULT.
    Raises UserError for a way with a VAE of three bands, and for one of other bands.
    """
    if info.in_channels == 3:
        if asked != "auto":
            raise UserError(
                f"--bands {asked}: {vae} takes three bands, and --bands says what the fourth is; "
                "leave it out, or give a DiT of four bands with its VAE"
            )
        return None
    if info.in_channels != 4:
        raise UserError(f"--vae {vae}: takes {info.in_channels} bands; SR and SIS take 3 or 4")
    if asked != "auto":
        return asked
    return "native" if has_infrared(listing.items("train")[0].image) else DEFAULT


def record_of(way: Way, info: VaeInfo) -> dict[str, Any]:
    """What a run's state keeps: {"way", "infrared": the model's JSON form (None: native)}.

    Raises UserError where the VAE's folder has no model and the way needs one.
    """
    from dit.vae.infrared import read_infrared

    model = None if way == "native" else read_infrared(info.folder).to_json()
    return {"way": way, "infrared": model}


def told(bands: Mapping[str, Any]) -> dict[str, Any]:
    """What manifests and tables say of a record: {"way", "infrared": {"r2", "mean"} or None}."""
    model = bands["infrared"]
    short = None if model is None else {name: model[name] for name in ("r2", "mean")}
    return {"way": bands["way"], "infrared": short}


def line_of(bands: Mapping[str, Any]) -> str:
    """One line for a person."""
    way, model = bands["way"], bands["infrared"]
    if way == "native":
        return "bands: native (red, green, blue and near infrared of the data)"
    if way == "filled":
        return f"bands: filled (RGB data, near infrared {model['mean']:.0f} everywhere)"
    form = "linear" if way == "split" else "quadratic"
    return (
        f"bands: {way} (RGB data, near infrared by a {form} model of the colours, "
        f"r2 {model['r2'][form]:.2f})"
    )


def vae_for(vae: Vae, bands: Mapping[str, Any] | None) -> Vae:
    """The VAE as the pairs of a way need it; as it is for native, and where there is no way."""
    if bands is None or bands["way"] == "native":
        return vae
    from dit.vae.infrared import InfraredModel, fill_bands, split_rgb

    model = InfraredModel.from_json(bands["infrared"])
    if bands["way"] == "split":
        return split_rgb(vae, model)
    return fill_bands(vae, model, _FORMS[bands["way"]])


def wanted(bands: Mapping[str, Any] | None) -> Wanted:
    """The bands that a way's images are read with."""
    if bands is None:
        return "rgb"
    return "rgbn" if bands["way"] == "native" else "colours"


def has_infrared(path: Path) -> bool:
    """Whether a raster has near infrared by data.images.bands' rules; False if unreadable."""
    try:
        return _rgbn(path, None, header=True) is not None
    except Reject:
        return False


def read_bands(item: Item, bands: Wanted) -> np.ndarray:
    """An item's pixels, uint8 H x W x 3 or 4.

    Args:
        bands: rgb, and near infrared is an error; colours, of three bands or four; rgbn, all four,
            and an image without near infrared is an error.

    Raises Reject or Unusable; UserError naming an image of other bands.
    """
    from data.images.decode import decode_rgb

    if bands == "rgbn":
        pixels = _rgbn(item.image, item.box if isinstance(item, Chip) else None)
        if pixels is None:
            raise UserError(
                f"{item.image}: has no near infrared, --bands native and a VAE of four bands take "
                "red, green, blue and near infrared; leave such images out, or take --bands "
                f"{DEFAULT} with RGB data"
            )
        return pixels
    if has_infrared(item.image):
        if bands == "rgb":
            raise UserError(
                f"{item.image}: has four bands (R, G, B, NIR), the VAE takes three; give a DiT of "
                "four bands with its VAE, or images of three bands"
            )
        four = _rgbn(item.image, None)
        assert four is not None
        return np.ascontiguousarray(four[..., :3])
    return decode_rgb(file_bytes(item.image), item.image.name)


def file_bytes(path: Path) -> bytes:
    """A file's bytes. Raises Reject."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise Reject("unreadable", os.strerror(error.errno or 0)) from None


def with_chips(listing: Listing, side: int) -> Listing:
    """Rasters of which both sides are twice `side` or more, as their chips of side x side pixels.

    A quad of NAIP is not brought to one chip's size but cut at its own resolution, from its top
    left corner; chips are read by windows. They stay on their raster's side of the split; those of
    a single raster are split by hash.
    """
    splits: dict[str, list[Item]] = {}
    cut = 0
    for split, items in listing.splits.items():
        found: list[Item] = []
        for item in items:
            chips = _chips(item, side)
            cut += bool(chips)
            found += chips or [item]
        splits[split] = found
    if not cut:
        return listing
    every = [item for items in splits.values() for item in items]
    listing.report.note(f"{cut:,} large rasters as chips of {side} px at their own resolution")
    if len({item.image for item in every}) == 1:
        held = next((name for name in splits if name != "train"), "test")
        listing.report.note("a single raster: chips side by side may fall on both sides")
        alone = [dataclasses.replace(item, group=item.key) for item in every]
        splits = hash_split(alone, held, listing.report)
    return dataclasses.replace(listing, splits=splits)


def _chips(item: Item, side: int) -> list[Item]:
    from data.images import raster

    try:
        with raster.opened(str(item.image), sniff(_head(item.image))) as file:
            width, height = file.width, file.height
    except (KeyError, Reject, *raster.DAMAGE):  # what it is not, reading it will say
        return []
    if min(width, height) < 2 * side:
        return []
    path = Path(item.key)
    return [
        Chip(
            path.with_name(f"{path.stem}_{top}_{left}{path.suffix}").as_posix(),
            item.image, item.mask, item.group, (left, top, side, side),
        )
        for top in range(0, height - side + 1, side)
        for left in range(0, width - side + 1, side)
    ]  # fmt: skip


def _head(path: Path) -> bytes:
    try:
        with path.open("rb") as stream:
            return stream.read(_HEAD)
    except OSError as error:
        raise Reject("unreadable", os.strerror(error.errno or 0)) from None


def _rgbn(
    path: Path, box: tuple[int, int, int, int] | None, header: bool = False
) -> np.ndarray | None:
    """The four bands of a raster (of a window of it), None where it has no near infrared; with
    `header` an empty array in place of the pixels. Raises Reject, and Unusable for no data."""
    kind = sniff(_head(path))
    if kind not in ("TIFF", "JPEG 2000"):
        return None
    from data.images import raster  # GDAL takes longer to load than all else here

    size: tuple[int, int] | None = None
    try:
        with raster.opened(str(path), kind) as file:
            size = (file.width, file.height)
            if file.count < 4:
                return None
            how = raster.layout(file, path.name, Asked(fourth="ask"))
            if len(how.bands) != 4:
                return None
            if header:
                return np.empty((0, 0, 4), np.uint8)
            if box is None and size[0] * size[1] > MAX_PIXELS:
                raise Reject("too-large", f"{size[0]} x {size[1]} pixels", size)
            values = raster.stored(file, how, box)
            if box is not None and raster.void(file, how, values, box).any():
                raise Unusable("no data in the chip", f"at {box[0]}, {box[1]}")
            return raster.finish(values, how)
    except raster.DAMAGE as error:
        raise Reject("corrupt", raster.one_line(error), size) from None
