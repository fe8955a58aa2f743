"""What a pruned subset is judged by, as pure functions of keys and what is known of them."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

WANTED_DROP = 0.9  # share of dull and blank tiles that Stage I is expected to drop


@dataclass(frozen=True, slots=True)
class Truth:
    """What is known of one image of a corpus.

    Attributes:
        scene: its class; '' where it shows none (blank and noise tiles).
        dull: True for the near-uniform scenes that Stage I should drop.
        fault: '' or what is wrong with it ('blank', 'noise', 'nodata', 'broken:...').
        duplicate_of: key of the image that it is a copy of, or ''.
        duplicate_kind: 'exact', a kind of near-duplicate, or ''.
    """

    scene: str
    dull: bool = False
    fault: str = ""
    duplicate_of: str = ""
    duplicate_kind: str = ""


def bits(counts: Iterable[int]) -> float:
    """Shannon entropy of the shares that counts make up, in bits; 0 when there are none."""
    values = [count for count in counts if count]
    total = sum(values)
    return sum(c / total * math.log2(total / c) for c in values)


def scenes(keys: Collection[str], truth: Mapping[str, Truth]) -> Counter[str]:
    """Images of each scene; images that show none do not count."""
    found = Counter(truth[key].scene for key in keys)
    del found[""]
    return found


def stage1_drops(
    pool: Collection[str], survivors: Collection[str], truth: Mapping[str, Truth]
) -> dict[str, tuple[int, int]]:
    """For each dull scene and for 'blank': (images dropped by Stage I, images in the pool).

    Other faults are left out: noise is known to pass, whatever scene it lies on.
    """
    kept = set(survivors)
    dropped: Counter[str] = Counter()
    total: Counter[str] = Counter()
    for key in pool:
        image = truth[key]
        kind = "blank" if image.fault == "blank" else image.scene if image.dull else ""
        if not kind or image.fault not in ("", "blank"):
            continue
        total[kind] += 1
        dropped[kind] += key not in kept
    return {kind: (dropped[kind], total[kind]) for kind in sorted(total)}


def pairs_kept(keys: Collection[str], truth: Mapping[str, Truth]) -> dict[str, int]:
    """Planted duplicate pairs of which both members are in `keys`: 'exact' and 'near'."""
    kept = set(keys)
    found = {"exact": 0, "near": 0}
    for key in kept:
        image = truth[key]
        if image.duplicate_of in kept:
            found["exact" if image.duplicate_kind == "exact" else "near"] += 1
    return found


def describe(keys: Collection[str], truth: Mapping[str, Truth]) -> dict[str, Any]:
    """Class balance of a set of images: images, classes, bits, pairs, and counts by class."""
    counts = scenes(keys, truth)
    return {
        "images": len(keys),
        "classes": len(counts),
        "bits": round(bits(counts.values()), 4),
        "pairs": pairs_kept(keys, truth),
        "scenes": dict(sorted(counts.items())),
    }


def judge(
    pool: Collection[str],
    survivors: Collection[str],
    subsets: Mapping[str, Collection[str]],
    truth: Mapping[str, Truth],
) -> dict[str, Any]:
    """Judge Stage I's survivors and the subsets of several methods.

    Returns 'pool', 'stage1' and each method under 'methods' (see `describe`), 'drops' (see
    `stage1_drops`), 'dropped' (their share over all dull scenes and blanks, None without any) and
    'lost': for each method the scenes that survive Stage I but are absent from its subset, with
    the number of their survivors.
    """
    drops = stage1_drops(pool, survivors, truth)
    total = sum(count for _, count in drops.values())
    alive = scenes(survivors, truth)
    return {
        "pool": describe(pool, truth),
        "stage1": describe(survivors, truth),
        "drops": {kind: list(pair) for kind, pair in drops.items()},
        "dropped": round(sum(n for n, _ in drops.values()) / total, 4) if total else None,
        "methods": {name: describe(keys, truth) for name, keys in subsets.items()},
        "lost": {
            name: {scene: alive[scene] for scene in sorted(set(alive) - set(scenes(keys, truth)))}
            for name, keys in subsets.items()
        },
    }


def failures(result: Mapping[str, Any]) -> list[str]:
    """What the miniature world was expected to show and `result` (of `judge`) does not."""
    found = []
    if result["dropped"] is None or result["dropped"] < WANTED_DROP:
        share = "none" if result["dropped"] is None else f"{result['dropped']:.1%}"
        found.append(f"Stage I dropped {share} of dull and blank tiles, wanted {WANTED_DROP:.0%}")
    if result["lost"]["rsprune"]:
        lost = (f"{scene} ({n} tiles)" for scene, n in result["lost"]["rsprune"].items())
        found.append(f"RS-Prune lost scenes that survived Stage I: {', '.join(lost)}")
    ours, uniform = (result["methods"][name] for name in ("rsprune", "random"))
    if ours["images"] != uniform["images"]:
        found.append(f"RS-Prune has {ours['images']} images, Random {uniform['images']}")
    if not ours["bits"] > uniform["bits"]:
        found.append(
            f"class balance of RS-Prune is {ours['bits']:.3f} bits, not above Random's "
            f"{uniform['bits']:.3f}"
        )
    return found
