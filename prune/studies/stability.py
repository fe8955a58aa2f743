"""A stability card: how much of a subset stays when a choice that the paper leaves open changes.

    python -m prune.stability --corpus C --reference RESISC45 UCM --ratio 0.85 --out stability

The stages' own commands run for a base setting and for others that differ from it in one thing:
the seed of k-means, K, the encoder, the reference set, and the convention of Stage I's entropy.
The card (stability.md, and stability.json for programs) gives for each the Jaccard overlap of its
subset with the base's, |A n B| / |A u B|, beside what chance would give, and the share of the
budget that came from the global remainder. Stages are shared between the settings, and a stopped
run continues where it was.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from core.errors import UserError
from core.settings import machine, parse, place, settings
from prune.studies.judge import check_shares, command

CONVENTIONS = {
    "jpeg": "grey levels as stored: the Y channel of a JPEG (the default)",
    "rgb": "grey levels of the decoded RGB, as Pillow's convert('L')",
    "gradient": "magnitudes of grey-level gradients instead of grey levels",
}
"""Conventions of Stage I's entropy, by name."""


@settings
class StabilityConfig:
    """Settings of prune.stability. The first of each list is the base setting."""

    corpus: str = place()
    """Corpus, as for prune.score."""
    reference: tuple[Path, ...]
    """Reference sets (ROOT/CLASS/IMAGE)."""
    out: Path
    """Output folder: the card, and the stages' outputs below it."""
    ratio: float = 0.85
    """Pruning ratio: share of the pool that is dropped."""
    keep: float = 0.30
    """Share of the pool that Stage I keeps."""
    clusters: tuple[int, ...] = (200, 100, 400)
    """K, numbers of prototypes."""
    seeds: tuple[int, ...] = (0, 1, 2)
    """Seeds of k-means."""
    encoders: tuple[str, ...] = ("descriptor",)
    """Encoders, each as for prune.embed, with '=WEIGHTS' for a place other than its own."""
    conventions: tuple[str, ...] = ("jpeg", "rgb", "gradient")
    """Conventions of the entropy: jpeg, rgb (the grey of colour JPEGs), gradient."""
    whiten: int = 0
    """Whiten the descriptor's embeddings to D dimensions (see prune.centroids); 0: no."""
    restarts: int = 5
    """Starts of k-means."""
    workers: int = machine(2)
    """Processes that decode (machine setting)."""


@dataclasses.dataclass(frozen=True)
class Setting:
    """What one subset is made with.

    Attributes:
        seed, clusters: of k-means.
        encoder: name, with '=WEIGHTS' or without.
        reference: number of the reference set in the configuration.
        convention: a key of CONVENTIONS.
    """

    seed: int
    clusters: int
    encoder: str
    reference: int
    convention: str


def variations(config: StabilityConfig) -> dict[str, list[Setting]]:
    """factor -> its settings, of which the first is always the base."""
    base = Setting(
        config.seeds[0], config.clusters[0], config.encoders[0], 0, config.conventions[0]
    )
    factors: dict[str, Sequence[Any]] = {
        "seed": config.seeds,
        "clusters": config.clusters,
        "encoder": config.encoders,
        "reference": range(len(config.reference)),
        "convention": config.conventions,
    }
    return {
        name: [dataclasses.replace(base, **{name: value}) for value in values]
        for name, values in factors.items()
    }


def subset(config: StabilityConfig, setting: Setting) -> Path:
    """Run the stages for one setting. Returns the subset index."""
    from prune import assign, centroids, embed, score
    from prune.subsets import select

    name, _, weights = setting.encoder.partition("=")
    place = {"weights": weights} if weights else {}
    encoder = f"encoder{config.encoders.index(setting.encoder)}"
    scored = setting.convention
    clusters = f"ref{setting.reference}-{encoder}-K{setting.clusters}-seed{setting.seed}"
    at = {
        "scores": config.out / "scores" / scored,
        "reference": config.out / "reference" / f"ref{setting.reference}-{encoder}",
        "pool": config.out / "pool" / f"{scored}-{encoder}",
        "centroids": config.out / "centroids" / clusters,
        "assignments": config.out / "assignments" / f"{scored}-{clusters}",
        "index": config.out / "subsets" / f"{scored}-{clusters}.parquet",
    }
    measure = {
        "entropy": "gradient" if setting.convention == "gradient" else "grey",
        "luma": "rgb" if setting.convention == "rgb" else "jpeg",
    }
    workers = {"workers": config.workers}
    command(score.main, corpus=config.corpus, out=at["scores"], **measure, **workers)
    reference = config.reference[setting.reference]
    encode = {"encoder": name, **place, **workers}
    command(embed.main, reference=reference, out=at["reference"], **encode)
    command(
        embed.main,
        corpus=config.corpus, scores=at["scores"], keep=config.keep, out=at["pool"], **encode,
    )  # fmt: skip
    command(
        centroids.main,
        embeddings=at["reference"], out=at["centroids"], clusters=setting.clusters,
        seed=setting.seed, restarts=config.restarts,
        whiten=config.whiten if name == "descriptor" else 0,
    )  # fmt: skip
    command(
        assign.main, embeddings=at["pool"], centroids=at["centroids"], out=at["assignments"]
    )
    command(
        select.main,
        method="rsprune", scores=at["scores"], assignments=at["assignments"],
        ratio=config.ratio, keep=config.keep, out=at["index"],
    )  # fmt: skip
    return at["index"]


def jaccard(left: Any, right: Any) -> float:
    """|A n B| / |A u B| of two sets of keys (pyarrow columns without repetitions), in [0, 1]."""
    import pyarrow.compute as pc

    shared = pc.sum(pc.is_in(left, value_set=right.combine_chunks())).as_py() or 0
    return shared / (len(left) + len(right) - shared)


def chance(share: float) -> float:
    """Expected Jaccard overlap of two independent random subsets of a share of the images.

    (Of their expected sizes: share^2 are in both, 2 share - share^2 in either.)
    """
    return share / (2 - share)


def card(config: StabilityConfig, made: dict[Setting, Path]) -> dict[str, Any]:
    """The card's numbers, as JSON."""
    from data.formats.index import read_index

    keys, counts = {}, {}
    for setting, path in made.items():
        table, metadata = read_index(path)
        keys[setting], counts[setting] = table["key"], metadata["counts"]
    factors = variations(config)
    base = factors["seed"][0]
    result: dict[str, Any] = {
        "images": counts[base]["N"],
        "budget": counts[base]["B"],
        "chance": {
            "of the pool": chance(counts[base]["B"] / counts[base]["N"]),
            "of the survivors": chance(counts[base]["B"] / counts[base]["candidates"]),
        },
        "factors": {},
    }
    for factor, variants in factors.items():
        rows = []
        for setting in variants:
            value = getattr(setting, factor)
            found = counts[setting]
            rows.append(
                {
                    "value": str(config.reference[value]) if factor == "reference" else value,
                    "jaccard": jaccard(keys[base], keys[setting]),
                    "remainder": found["remainder_rows"] / found["B"],
                    "small_clusters": found["small_clusters"],
                    "empty_clusters": found["empty_clusters"],
                    "K": found["K"],
                }
            )
        pairs = [jaccard(keys[a], keys[b]) for a, b in itertools.combinations(variants, 2)]
        result["factors"][factor] = {
            "settings": rows,
            "pairs": {"mean": sum(pairs) / len(pairs), "least": min(pairs)} if pairs else None,
        }
    return result


TITLES = {
    "seed": "Seed of k-means",
    "clusters": "Number of prototypes K",
    "encoder": "Encoder",
    "reference": "Reference set",
    "convention": "Convention of the entropy",
}


def report(result: dict[str, Any], config: StabilityConfig) -> str:
    """The card as Markdown."""
    lines = [
        "# Stability card",
        "",
        f"{result['budget']:,} of {result['images']:,} images (ratio {config.ratio}, Stage I keeps "
        f"{config.keep}). J: Jaccard overlap with the base setting's subset (the first of each "
        f"list). Two random subsets of this size overlap by {result['chance']['of the pool']:.3f} "
        "when drawn from the pool and by "
        f"{result['chance']['of the survivors']:.3f} when drawn from what "
        "Stage I keeps. Remainder: share of the budget that small clusters left to the global "
        "remainder.",
        "",
        "| Choice | Setting | J | Remainder | Clusters below quota (empty) of K |",
        "|---|---|---|---|---|",
    ]
    for factor, found in result["factors"].items():
        lines += [
            f"| {TITLES[factor]} | {row['value']} | {row['jaccard']:.3f} | {row['remainder']:.1%} "
            f"| {row['small_clusters']} ({row['empty_clusters']}) of {row['K']} |"
            for row in found["settings"]
        ]
        if found["pairs"] and len(found["settings"]) > 2:
            mean, least = found["pairs"]["mean"], found["pairs"]["least"]
            lines.append(f"| {TITLES[factor]} | all pairs | {mean:.3f} (least {least:.3f}) | | |")
    lines += ["", "Conventions: " + "; ".join(f"{k}: {v}" for k, v in CONVENTIONS.items()) + "."]
    return "\n".join(lines) + "\n"


def main(argv: Sequence[str] | None = None) -> int | None:
    """The command. Raises UserError for what the user can mend."""
    config = parse(
        StabilityConfig,
        argv,
        prog="python -m prune.stability",
        description="How much of a subset stays when seed, K, encoder, reference set or the "
        "convention of the entropy change.",
    )
    odd = [name for name in config.conventions if name not in CONVENTIONS]
    if odd:
        raise UserError(f"--conventions {' '.join(odd)}: choose among {', '.join(CONVENTIONS)}")
    for name in ("reference", "clusters", "seeds", "encoders", "conventions"):
        values = getattr(config, name)
        if not values or len(set(values)) < len(values):
            raise UserError(f"--{name}: give at least one value, and none of them twice")
    check_shares(config.ratio, config.keep)
    from core.atomic import write_json, write_text

    settings = {s: None for found in variations(config).values() for s in found}
    made = {setting: subset(config, setting) for setting in settings}
    result = card(config, made)
    given = {
        field.name: [str(v) for v in value] if isinstance(value, tuple) else str(value)
        for field in dataclasses.fields(config)
        if field.name not in ("out", "workers")
        for value in (getattr(config, field.name),)
    }
    write_json(config.out / "stability.json", {"settings": given, **result})
    text = report(result, config)
    write_text(config.out / "stability.md", text)
    print("\n" + text)
    print(f"[prune.stability] {len(made)} subsets -> {config.out / 'stability.md'}")
    return 0
