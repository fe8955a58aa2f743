"""What the miniature world consists of: one job for every tile, decided before any is drawn."""

from __future__ import annotations

import dataclasses
import itertools

import numpy as np

from world.paint.scenes import SCENES
from world.paint.tiles import generator
from world.plan.config import WorldConfig
from world.plan.faults import BROKEN, NEAR


@dataclasses.dataclass(frozen=True, slots=True)
class Job:
    """One file of the corpus.

    Attributes:
        key: path below corpus/. scene: '' for blank and noise tiles and text files.
        index: of the rendered tile (that of the original for duplicates).
        place: in the corpus; seeds what is done to the tile.
        fault: '', 'blank', 'nodata', 'noise' or 'broken:KIND'.
        duplicate_of, duplicate_kind: key of the original and 'exact' or one of faults.NEAR.
        quality: of the JPEG, 0 for PNG.
    """

    key: str
    scene: str
    index: int
    place: int
    fault: str
    duplicate_of: str
    duplicate_kind: str
    quality: int


def plan_corpus(config: WorldConfig) -> list[Job]:
    """The corpus, sorted by key."""
    rng = generator(config.seed, "plan")
    n = config.tiles
    names = list(SCENES)
    scenes = rng.choice(len(names), size=n, p=[scene.fraction for scene in SCENES.values()])
    levels = rng.integers(15, 19, n)
    quality = np.where(rng.random(n) < config.png, 0, rng.integers(85, 96, n))
    order = iter(rng.permutation(n).tolist())
    variants = {
        "broken": [f"broken:{kind}" for kind in BROKEN],
        "near_duplicates": [f"near:{kind}" for kind in NEAR],
        "exact_duplicates": ["near:exact"],
    }
    kinds = [""] * n
    for name, count in config.faulty().items():
        turns = itertools.cycle(variants.get(name, [name]))
        for place, kind in zip(itertools.islice(order, count), turns, strict=False):
            kinds[place] = kind
    originals = rng.choice([place for place in range(n) if not kinds[place]], n).tolist()

    def key(place: int) -> str:
        encoded = originals[place] if kinds[place] == "near:exact" else place
        extension = ".png" if quality[encoded] == 0 else ".jpg"
        if kinds[place].startswith("broken:"):
            extension = BROKEN[kinds[place].removeprefix("broken:")][0]
        elif kinds[place].startswith("near:") and encoded == place:
            extension = ".jpg"
        return f"z{levels[place]}/{place:06d}{extension}"

    jobs = []
    for place, kind in enumerate(kinds):
        copied = kind.partition("near:")[2]
        tile = originals[place] if copied else place
        flat = kind in ("blank", "noise", "broken:empty", "broken:text")
        jobs.append(
            Job(
                key=key(place),
                scene="" if flat else names[scenes[tile]],
                index=tile,
                place=place,
                fault="" if copied else kind,
                duplicate_of=key(tile) if copied else "",
                duplicate_kind=copied,
                quality=int(quality[tile if copied == "exact" else place]),
            )
        )
    return sorted(jobs, key=lambda job: job.key)
