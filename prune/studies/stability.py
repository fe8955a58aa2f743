"""A stability card: how much of a subset stays when a choice that the paper leaves open changes."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from core.stage import Result
from data.formats.index import read_index
from prune.studies.config import CONVENTIONS, StabilityConfig
from prune.studies.pipeline import ScoreConfig, SelectConfig, assigned, make
from prune.studies.report import table, write_report


def stability(config: StabilityConfig) -> Result:
    """Make a subset for each setting, and the card. The summary is that of stability.json."""
    config.check()
    settings = {s: None for found in variations(config).values() for s in found}
    made = {setting: subset(config, setting) for setting in settings}
    result = card(config, made)
    write_report(config, "stability", result, report(result, config))
    message = f"{len(made)} subsets -> {config.out / 'stability.md'}"
    print(f"[prune.stability] {message}")
    return Result(config.out, result, message)


@dataclasses.dataclass(frozen=True)
class Setting:
    """What one subset is made with.

    Attributes:
        seed, clusters: of k-means.
        encoder: name, with '=WEIGHTS' or without.
        reference: index of the reference set in the configuration.
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
    name, _, weights = setting.encoder.partition("=")
    encoder = f"encoder{config.encoders.index(setting.encoder)}"
    scored, out = setting.convention, config.out
    clusters = f"ref{setting.reference}-{encoder}-K{setting.clusters}-seed{setting.seed}"
    at = {
        "scores": out / "scores" / scored,
        "reference": out / "reference" / f"ref{setting.reference}-{encoder}",
        "pool": out / "pool" / f"{scored}-{encoder}",
        "centroids": out / "centroids" / clusters,
        "assignments": out / "assignments" / f"{scored}-{clusters}",
    }
    make(
        ScoreConfig(
            corpus=config.corpus,
            entropy=scored if scored in ("gradient", "denoised") else "grey",  # type: ignore[arg-type]
            luma="rgb" if scored == "rgb" else "jpeg",
            out=at["scores"],
            workers=config.workers,
        )
    )
    assigned(
        at,
        config.corpus,
        config.reference[setting.reference],
        config.keep,
        {"encoder": name, "weights": weights or None, "workers": config.workers},
        {
            "clusters": setting.clusters,
            "seed": setting.seed,
            "restarts": config.restarts,
            "whiten": config.whiten if name == "descriptor" else 0,
        },
    )
    return make(
        SelectConfig(
            scores=at["scores"],
            assignments=at["assignments"],
            ratio=(config.ratio,),
            keep=config.keep,
            out=out / "subsets" / f"{scored}-{clusters}.parquet",
        )
    )


def jaccard(left: pa.ChunkedArray, right: pa.ChunkedArray) -> float:
    """|A n B| / |A u B| of two sets of keys (columns without repetitions), in [0, 1]."""
    shared = pc.sum(pc.is_in(left, value_set=right.combine_chunks())).as_py() or 0
    return shared / (len(left) + len(right) - shared)


def chance(fraction: float) -> float:
    """Expected Jaccard overlap of two independent random subsets of this fraction p of the images.

    (Of their expected sizes: p^2 are in both, 2 p - p^2 in either.)
    """
    return fraction / (2 - fraction)


def card(config: StabilityConfig, made: dict[Setting, Path]) -> dict[str, Any]:
    """The card's numbers, as JSON."""
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
    "clusters": "Number of centroids K",
    "encoder": "Encoder",
    "reference": "Reference set",
    "convention": "Convention of the entropy",
}


def report(result: dict[str, Any], config: StabilityConfig) -> str:
    """The card as Markdown."""
    rows: list[list[object]] = []
    for factor, found in result["factors"].items():
        rows += [
            [
                TITLES[factor],
                row["value"],
                f"{row['jaccard']:.3f}",
                f"{row['remainder']:.1%}",
                f"{row['small_clusters']} ({row['empty_clusters']}) of {row['K']}",
            ]
            for row in found["settings"]
        ]
        if found["pairs"] and len(found["settings"]) > 2:
            mean, least = found["pairs"]["mean"], found["pairs"]["least"]
            rows.append([TITLES[factor], "all pairs", f"{mean:.3f} (least {least:.3f})", "", ""])
    columns = ["Choice", "Setting", "J", "Remainder", "Clusters below quota (empty) of K"]
    lines = [
        "# Stability card",
        "",
        f"{result['budget']:,} of {result['images']:,} images (ratio {config.ratio}, Stage I keeps "
        f"{config.keep}). J: Jaccard overlap with the base setting's subset (the first of each "
        f"list). Two random subsets of this size overlap by {result['chance']['of the pool']:.3f} "
        "when drawn from the pool and by "
        f"{result['chance']['of the survivors']:.3f} when drawn from what "
        "Stage I keeps. Remainder: fraction of the budget that small clusters left to the global "
        "remainder.",
        "",
        *table(columns, rows, text=2),
        "",
        "Conventions: " + "; ".join(f"{k}: {v}" for k, v in CONVENTIONS.items()) + ".",
    ]
    return "\n".join(lines) + "\n"
