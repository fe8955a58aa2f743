"""What the miniature world consists of: one job for every tile, decided before any is drawn."""

from __future__ import annotations

import dataclasses

import numpy as np

from core.errors import UserError
from world.paint.scenes import SCENES
from world.paint.tiles import generator
from world.plan.config import WorldConfig
from world.plan.faults import BROKEN, NEAR


@dataclasses.dataclass(frozen=True, slots=True)
class Job:
    """One file of the corpus.

    Attributes:
        key: path below corpus/. scene: '' for blank and noise tiles and text files.
        index: number of the rendered tile (that of the original for duplicates).
        number: place in the corpus; seeds what is done to the tile.
        fault: '', 'blank', 'nodata', 'noise' or 'broken:KIND'.
        duplicate_of, duplicate_kind: key of the original and 'exact' or one of faults.NEAR.
        quality: of the JPEG, 0 for PNG.
    """

    key: str
    scene: str
    index: int
    number: int
    fault: str
    duplicate_of: str
    duplicate_kind: str
    quality: int


def check(config: WorldConfig) -> None:
    """Raise UserError for a configuration that no world can have."""
    least = {"tiles": 1, "size": 16, "seed": 0, "broken": 0, "reference_per_class": 0}
    least |= {"sr_images": 0, "sis_pairs": 0, "pair_size": 32, "workers": 1}
    for name, low in least.items():
        if getattr(config, name) < low:
            flag = name.replace("_", "-")
            raise UserError(f"--{flag} {getattr(config, name)}: must be at least {low}")
    for name in ("blank", "nodata", "noise", "near_duplicates", "exact_duplicates", "png"):
        if not 0 <= getattr(config, name) <= 1:
            flag = name.replace("_", "-")
            raise UserError(f"--{flag} {getattr(config, name)}: a share lies between 0 and 1")
    faulty = sum(_counts(config).values())
    if faulty > config.tiles / 2:
        raise UserError(
            f"{faulty} of {config.tiles} tiles would be faulty or duplicates, more than half; "
            "lower --blank, --near-duplicates or --broken, or raise --tiles"
        )


def _counts(config: WorldConfig) -> dict[str, int]:
    shares = ("blank", "nodata", "noise", "near_duplicates", "exact_duplicates")
    counts = {name: round(getattr(config, name) * config.tiles) for name in shares}
    return counts | {"broken": config.broken * len(BROKEN)}


def plan_corpus(config: WorldConfig) -> list[Job]:
    """The corpus, sorted by key."""
    rng = generator(config.seed, "plan")
    n = config.tiles
    names, shares = list(SCENES), [scene.share for scene in SCENES.values()]
    scenes = rng.choice(len(names), size=n, p=shares)
    levels = rng.integers(15, 19, n)
    quality = np.where(rng.random(n) < config.png, 0, rng.integers(85, 96, n))
    order = rng.permutation(n)
    kinds = dict.fromkeys(range(n), "")
    taken = 0
    for name, count in _counts(config).items():
        for place, number in enumerate(order[taken : taken + count].tolist()):
            kinds[number] = name
            if name == "broken":
                kinds[number] = f"broken:{list(BROKEN)[place % len(BROKEN)]}"
            elif name == "near_duplicates":
                kinds[number] = f"near:{NEAR[place % len(NEAR)]}"
        taken += count
    clean = [number for number in range(n) if not kinds[number]]
    originals = rng.choice(clean, n)

    def key(number: int) -> str:
        extension = ".png" if quality[number] == 0 else ".jpg"
        kind = kinds[number]
        if kind.startswith("broken:"):
            extension = BROKEN[kind.removeprefix("broken:")][0]
        elif kind.startswith("near:"):
            extension = ".jpg"
        elif kind == "exact_duplicates":
            extension = ".png" if quality[originals[number]] == 0 else ".jpg"
        return f"z{levels[number]}/{number:06d}{extension}"

    jobs = []
    for number in range(n):
        kind, source = kinds[number], int(originals[number])
        copied = {"exact_duplicates": "exact"}.get(kind, kind.partition("near:")[2])
        tile = source if copied else number
        flat = kind in ("blank", "noise", "broken:empty", "broken:text")
        jobs.append(
            Job(
                key=key(number),
                scene="" if flat else names[scenes[tile]],
                index=tile,
                number=number,
                fault="" if copied else kind,
                duplicate_of=key(source) if copied else "",
                duplicate_kind=copied,
                quality=int(quality[tile if copied == "exact" else number]),
            )
        )
    return sorted(jobs, key=lambda job: job.key)
