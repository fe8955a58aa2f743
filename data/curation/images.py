"""Sets of images on disk that are compared by content: reference and downstream sets."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from core.stage import digest_of
from data.pairs.items import Item
from data.pairs.listing import open_sis, open_sr
from data.reference.sets import Scenes, open_reader, open_scenes


@dataclasses.dataclass(frozen=True)
class ImageSet:
    """A listed set: digest of the listing, number of images, and (key, bytes) of each, None for
    what cannot be read."""

    fingerprint: str
    count: int
    read: Callable[[], Iterable[tuple[str, bytes | None]]]


def image_sets(reference: Sequence[str], sr: Path | None, sis: Path | None) -> dict[str, ImageSet]:
    """Sets by name: 'reference', and each split of the downstream sets, such as 'sr/train'.

    Args:
        reference: specifications, as `open_scenes` takes them.
        sr, sis: roots of the downstream sets.
    """
    found: dict[str, ImageSet] = {}
    if reference:
        found["reference"] = _scenes(open_scenes(reference))
    for task, root, open_set in (("sr", sr, open_sr), ("sis", sis, open_sis)):
        if root is not None:
            splits = open_set(root).splits
            found |= {f"{task}/{split}": _items(items) for split, items in splits.items() if items}
    return found


def _scenes(scenes: Scenes) -> ImageSet:
    def read() -> Iterable[tuple[str, bytes | None]]:
        samples = open_reader(scenes.specs).fetch(scenes.locations)
        return ((sample.key, sample.data) for sample in samples)

    return ImageSet(scenes.fingerprint, len(scenes.locations), read)


def _items(items: list[Item]) -> ImageSet:
    listing = digest_of([[item.key, item.image.stat().st_size] for item in items])
    return ImageSet(
        listing, len(items), lambda: ((item.key, item.image.read_bytes()) for item in items)
    )
