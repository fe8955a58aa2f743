"""Compare the methods on a corpus whose classes are known, without training anything."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from core.atomic import atomic_path
from core.errors import UserError
from core.parallel import ordered_map
from core.progress import progress
from core.stage import Result, Stage, fingerprint, read_manifest, run_stage
from data.corpus.specs import open_corpus
from data.corpus.verified import check_corpus, images_of
from data.formats.index import read_index
from prune.cluster.features import Features
from prune.methods.catalogue import find
from prune.stage1.threshold import stage1
from prune.studies.comparison import Look, expected_bits, look, measure, nearest_similarity
from prune.studies.config import CompareConfig
from prune.studies.pipeline import (
    AssignConfig,
    CentroidsConfig,
    EmbedConfig,
    HierarchyConfig,
    ScoreConfig,
    SelectConfig,
    make,
)
from prune.studies.report import table, write_report
from prune.studies.truth import folder_truth, read_labels, read_pool

REFERENCE = ("reference", "pool", "centroids", "assignments")
OWN = ("pool", "own", "clusters")
STAGES: dict[str, tuple[str, ...]] = {
    "rsprune": ("reference", "survivors", "centroids", "assignments"),
    "random": (),
    "random-survivors": (),
    "entropy": (),
    "full": (),
    "full-set": OWN,
    "entropy-set": ("survivors", "reduced", "reduced-clusters"),
    "moderate": REFERENCE,
    "cluster-nearest": OWN,
    "dinov2": ("reference", "pool"),
    "a2mae": OWN,
    "semdedup": OWN,
    "hierarchical": ("pool", "tree"),
}
"""The stages after the score that each method needs; its assignments, if it reads any, last."""

VARIANTS: dict[str, dict[str, Any]] = {
    f"rsprune, {value}": {flag: value}
    for flag, values in (
        ("sampling", ("farthest", "random", "mixed")),
        ("allocation", ("proportional", "sqrt")),
    )
    for value in values
}


def compare(config: CompareConfig) -> Result:
    """Run the stages, select by each method and measure. The summary is that of compare.json."""
    config.check()
    at = stages(config)
    made = select(config, at)
    result = measured(config, at, made)
    write_report(config, "compare", result, report(result, config))
    message = f"{len(made)} subsets compared -> {config.out / 'compare.md'}"
    print(f"[prune.compare] {message}")
    return Result(config.out, result, message)


def stages(config: CompareConfig) -> dict[str, Path]:
    """Run every stage that the methods need. Returns where each wrote, 'scores' among them."""
    wanted = {stage for method in config.methods for stage in STAGES[method]}
    if {"assignments", "pool"} <= wanted and "entropy-set" not in config.methods:
        wanted.discard("survivors")  # the pool's embeddings hold them
    out, dims, seed, workers = config.out, config.dims, config.seed, config.workers
    scores = make(ScoreConfig(corpus=config.corpus, out=out / "scores", workers=workers))
    classes(config, read_pool(scores)["key"].to_pylist())  # wrong ones, before the long part
    pool, kept = out / "pool", out / "survivors"
    embed = partial(EmbedConfig, encoder=config.encoder, weights=config.weights, workers=workers)
    embed_corpus = partial(embed, corpus=config.corpus, scores=scores)
    reference_set = partial(CentroidsConfig, clusters=config.clusters, seed=seed)
    itself = partial(CentroidsConfig, clusters=config.own_clusters, seed=seed)
    assign = partial(AssignConfig, workers=workers)
    best = pool if "pool" in wanted else kept
    configs: dict[str, Callable[..., Any]] = {
        "reference": partial(embed, reference=(str(config.reference),)),
        "pool": partial(embed_corpus, keep=1.0),
        "survivors": partial(embed_corpus, keep=config.keep),
        "centroids": partial(reference_set, embeddings=(out / "reference",), whiten=dims),
        "own": partial(itself, embeddings=(pool,), whiten=dims),
        "reduced": partial(itself, embeddings=(kept,), reduce=config.reduce),
        "assignments": partial(assign, embeddings=best, centroids=out / "centroids"),
        "clusters": partial(assign, embeddings=pool, centroids=out / "own"),
        "reduced-clusters": partial(assign, embeddings=kept, centroids=out / "reduced"),
        "tree": partial(HierarchyConfig, embeddings=pool, whiten=dims, seed=seed),
    }
    at = {"scores": scores}
    for name, configured in configs.items():
        if name in wanted:
            try:
                at[name] = make(configured(out=out / name))
            except UserError as error:
                if name not in ("own", "reduced"):
                    raise
                raise UserError(f"--own-clusters {config.own_clusters}: {error}") from None
    return at


def select(config: CompareConfig, at: Mapping[str, Path]) -> dict[str, Path]:
    """Write the subset index of each method and variant. Returns where, by name."""
    rows: dict[str, dict[str, Any]] = {method: {} for method in config.methods}
    if config.variants and "rsprune" in rows:
        rows |= VARIANTS
    threshold = config.dedup_threshold
    if threshold is None:
        threshold = 0.995 if config.encoder == "descriptor" else 0.6
    made = {}
    for name, more in rows.items():
        method = name.split(",")[0]
        stage = {"embeddings": "pool", "reference": "reference"}
        stage["assignments"] = "".join(STAGES[method][-1:])
        inputs: dict[str, Any] = {
            flag: at[stage[flag]] for flag in find(method).reads if flag in stage
        }
        made[name] = make(
            SelectConfig(
                method=method,
                scores=at["scores"],
                ratio=(config.ratio,),
                keep=config.keep,
                seed=config.seed,
                dedup_threshold=threshold,
                out=config.out / "subsets" / f"{name.replace(', ', '-')}.parquet",
                **inputs,
                **more,
            )
        )
    return made


def looks(config: CompareConfig, images: pa.Table, scores: Path) -> pa.Table:
    """Grey deviation and perceptual hash of every image of the pool: key, deviation, hash."""
    out = config.out / "looks.parquet"

    def look_at_all(stage: Stage) -> Result:
        corpus = open_corpus(config.corpus)
        check_corpus(corpus, images.num_rows, lambda rows: images_of(images.take(rows)))
        stage.open()
        limit = read_manifest(scores)["params"]["max_pixels"]
        places, digests = images_of(images)
        starts = range(0, len(places), 256)
        parts = ((places[n : n + 256], digests[n : n + 256]) for n in starts)
        tasks = (Look(config.corpus, tuple(some), tuple(known), limit) for some, known in parts)
        found: list[tuple[str, float, int]] = []
        with progress(total=len(places), name="look") as bar:
            for some in ordered_map(look, tasks, min(config.workers, len(starts))):
                found += some
                bar.update(len(some))
        types = {"key": pa.string(), "deviation": pa.float64(), "hash": pa.uint64()}
        seen = pa.table(list(zip(*found, strict=True)), schema=pa.schema(types.items()))
        with atomic_path(out) as temporary:
            pq.write_table(seen, temporary)
        return stage.finish(
            {"rows": len(places)}, [out.name], line=f"{len(places):,} images looked at"
        )

    run_stage(Stage(out, "prune.compare.looks", {}, {"scores": fingerprint(scores)}), look_at_all)
    return pq.read_table(out)


def classes(config: CompareConfig, keys: Sequence[str]) -> dict[str, str]:
    """The class of each image. Raises UserError for an image without one."""
    if config.labels is not None:
        return read_labels(config.labels, keys)
    return {key: truth.scene for key, truth in folder_truth(keys).items()}


def measured(
    config: CompareConfig, at: Mapping[str, Path], made: Mapping[str, Path]
) -> dict[str, Any]:
    """Measure the pool, Stage I's survivors and each subset."""
    images = read_pool(at["scores"], "shard", "row", "digest", "entropy")
    keys = images["key"].to_pylist()
    labels = classes(config, keys)
    seen = looks(config, images, at["scores"]).to_pydict()
    deviation = dict(zip(seen["key"], seen["deviation"], strict=True))
    hashes = dict(zip(seen["key"], seen["hash"], strict=True))
    place = {key: row for row, key in enumerate(keys)}
    features = Features(at["pool"], images) if "pool" in at else None

    def row(subset: Sequence[str]) -> dict[str, Any]:
        found = measure(
            subset,
            labels,
            deviation,
            hashes,
            low_information=config.low_information,
            distance=config.distance,
        )
        if features is not None:
            rows = np.sort(np.array([place[key] for key in subset]))
            found["nearest_similarity"] = round(nearest_similarity(features.take(rows)), 4)
        return found

    def seconds(*paths: Path) -> float:
        return sum(read_manifest(path)["made"]["seconds"] for path in paths)

    survivors = stage1(images, config.keep)["key"].to_pylist()
    result: dict[str, Any] = {"pool": row(keys), "stage1": row(survivors), "methods": {}}
    for name, path in made.items():
        subset, metadata = read_index(path)
        before = [at[stage] for stage in STAGES[name.split(",")[0]] if stage in at]
        result["methods"][name] = {
            **row(subset["key"].to_pylist()),
            "seconds": round(seconds(path), 2),
            "seconds_with_stages": round(seconds(path, at["scores"], *before), 1),
            "method_counts": metadata["counts"],
        }
    size = next((m["images"] for n, m in result["methods"].items() if n != "full"), len(keys))
    counts = list(result["pool"]["counts"].values())
    result["expected_random_bits"] = round(expected_bits(counts, size), 4)
    return result


def report(result: Mapping[str, Any], config: CompareConfig) -> str:
    """The comparison in Markdown."""
    columns = [
        "method", "images", "classes", "balance (bits)", "low information", "near-duplicates",
        "nearest-neighbour similarity", "select (s)", "with its stages (s)",
    ]  # fmt: skip
    sets = {"*pool*": result["pool"], "*after Stage I*": result["stage1"], **result["methods"]}
    optional = (("nearest_similarity", ".4f"), ("seconds", ",.1f"), ("seconds_with_stages", ",.0f"))
    rows = []
    for name, found in sets.items():
        images, near = found["images"], found["near_duplicates"]
        timing = (format(found[key], form) if key in found else "-" for key, form in optional)
        rows.append(
            [
                name,
                f"{images:,}",
                found["classes"],
                f"{found['bits']:.3f}",
                f"{found['low_information'] / images:.1%}",
                f"{near} ({near / images:.1%})",
                *timing,
            ]
        )
    lines = [
        f"# Methods at {config.ratio:.0%} on {Path(config.corpus).name}",
        "",
        f"Pool of {result['pool']['images']:,} images of {result['pool']['classes']} classes, "
        f"reference {config.reference.name}, encoder {config.encoder}, Stage I keeps "
        f"{config.keep:.0%}, K = {config.clusters} (reference) and {config.own_clusters} (pool), "
        f"seed {config.seed}.",
        "",
        *table(columns, rows),
        "",
        "Balance: entropy of the class fractions; a uniform draw of this size is expected at "
        f"{result['expected_random_bits']:.3f} bits. Low information: grey standard deviation "
        f"below {config.low_information:g} of 255. Near-duplicates: images whose 64-bit perceptual "
        f"hash is within {config.distance} bits of another image's of the set (constant images "
        "aside). Nearest-neighbour similarity: mean cosine to the nearest other image of the set, "
        "in the encoder's space (it grows with the size of the set). Seconds are those of each "
        "stage when it was made.",
    ]
    return "\n".join(lines) + "\n"
