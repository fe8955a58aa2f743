"""The sets beside the corpus: reference classes, SR places at two dates, SIS pairs with masks."""

from __future__ import annotations

import dataclasses

from world.paint.scenes import SCENES
from world.paint.tiles import generator
from world.plan.config import WorldConfig

REGIONS = ("aldermoor", "brackwater", "caldera", "dunmarch", "eastholm", "ferrybank")
"""Made-up regions of the SIS set."""
ABSENT = ("ferrybank_x1.tif", "dunmarch_x2.tif")
"""Names in the SIS lists without files, as the xBD images of OpenEarthMap are."""


@dataclasses.dataclass(frozen=True, slots=True)
class Item:
    """One rendering, written as one or two files.

    Attributes:
        kind: 'reference', 'sr' or 'sis'. scene, index, size, epoch: what `render` gets.
        paths: files to write, relative to the world: the image, then for 'sis' its mask (absent
            for test images).
    """

    kind: str
    scene: str
    index: int
    size: int
    epoch: int
    paths: tuple[str, ...]


def _labelled(config: WorldConfig, stream: str, count: int) -> list[str]:
    """Scenes for SR and SIS: those made of labelled classes, about equally often."""
    names = [scene.name for scene in SCENES.values() if scene.labelled]
    turns = -(-count // len(names))
    rng = generator(config.seed, stream, "plan")
    return [names[i] for _ in range(turns) for i in rng.permutation(len(names))][:count]


def plan_sets(config: WorldConfig) -> list[Item]:
    """Everything beside the corpus, in a fixed order."""
    items = [
        Item("reference", name, i, config.size, 0, (f"reference/{name}/{name}_{i + 1:03d}.jpg",))
        for name in SCENES
        for i in range(config.reference_per_class)
    ]
    for i, scene in enumerate(_labelled(config, "sr", config.sr_images)):
        folder = "sr/test" if i % 3 == 2 else "sr"
        for epoch in (0, 1):
            path = f"{folder}/im{epoch + 1}/{i + 1:05d}.png"
            items.append(Item("sr", scene, i, config.pair_size, epoch, (path,)))
    pairs = _sis_names(config)
    scenes = _labelled(config, "sis", len(pairs))
    for i, ((name, split), scene) in enumerate(zip(pairs, scenes, strict=True)):
        base = f"sis/OpenEarthMap_wo_xBD/{name.rsplit('_', 1)[0]}"
        paths: tuple[str, ...] = (f"{base}/images/{name}",)
        if split != "test":
            paths += (f"{base}/labels/{name}",)
        items.append(Item("sis", scene, i, config.pair_size, 0, paths))
    return items


def _sis_names(config: WorldConfig) -> list[tuple[str, str]]:
    """(file name, split) of the SIS set: one in six for validation, then the test images."""
    names = []
    test = config.sis_pairs // 6
    for i in range(config.sis_pairs + test):
        split = "test" if i >= config.sis_pairs else "val" if i % 6 == 5 else "train"
        region = REGIONS[(i // 3) % len(REGIONS)]
        names.append((f"{region}_{i + 1}.tif", split))
    return names


def split_lists(config: WorldConfig) -> dict[str, str]:
    """The text of train.txt, val.txt and test.txt; two listed names have no file."""
    if not config.sis_pairs:
        return {}
    lists: dict[str, list[str]] = {"train": [ABSENT[0]], "val": [ABSENT[1]], "test": []}
    for name, split in _sis_names(config):
        lists[split].append(name)
    return {
        f"{folder}/OpenEarthMap_wo_xBD/{split}.txt": "\n".join(sorted(names)) + "\n"
        for folder in ("sis", *(("sis-rgbn",) if config.infrared else ()))
        for split, names in lists.items()
    }
