"""What a pruned subset is judged by, as pure functions of keys and what is known of them."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from typing import Any

from prune.studies.truth import Truth

WANTED_DROP = 0.9  # fraction of low-information and blank tiles that Stage I should drop


def bits(counts: Iterable[int]) -> float:
    """Shannon entropy of the fractions that counts make up, in bits; 0 when there are none."""
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
    """For each low-information scene and for 'blank': (images dropped by Stage I, all of them).

    Other faults are left out: noise is known to pass, whatever scene it lies on.
    """
    kept = set(survivors)
    dropped: Counter[str] = Counter()
    total: Counter[str] = Counter()
    for key in pool:
        image = truth[key]
        kind = image.scene if image.low_information else ""
        if image.fault:
            kind = "blank" if image.fault == "blank" else ""
        if not kind:
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
    `stage1_drops`), 'dropped' (the fraction dropped of all images in 'drops', None without any)
    and 'lost': for each method the scenes that survive Stage I but are absent from its subset,
    with the number of their survivors.
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
        part = "none" if result["dropped"] is None else f"{result['dropped']:.1%}"
        found.append(
            f"Stage I dropped {part} of low-information and blank tiles, wanted {WANTED_DROP:.0%}"
        )
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
