"""Compare the methods on a corpus whose classes are known, without training anything.

    python -m prune.compare --corpus CLASSFOLDERS --reference CLASSFOLDERS --out compare

The stages' own commands run once (score, embed, centroids, assign, hierarchy) and every method
selects from what they wrote. The classes are the corpus's folders, or those of --labels; no
method sees them. A stopped run continues where it was.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from core.errors import UserError
from core.settings import machine, parse, place, settings
from core.stage import Stage, fingerprint, read_manifest
from prune.studies.judge import MINI_WHITEN, check_shares, command, pool_keys

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa

REFERENCE = ("reference", "pool", "centroids", "assignments")
OWN = ("pool", "own", "clusters")
STAGES: dict[str, tuple[str, ...]] = {
    "full": (),
    "random": (),
    "entropy": (),
    "rsprune": ("reference", "survivors", "centroids", "assignments"),
    "full-set": OWN,
    "entropy-set": ("survivors", "reduced", "reduced-clusters"),
    "moderate": REFERENCE,
    "cluster-nearest": OWN,
    "dinov2": ("reference", "pool"),
    "a2mae": OWN,
    "semdedup": OWN,
    "hierarchical": ("pool", "tree"),
}
"""The stages after the score that each method needs."""

VARIANTS: dict[str, dict[str, str]] = {
    f"rsprune, {value}": {flag: value}
    for flag, values in (
        ("sampling", ("farthest", "random", "mixed")),
        ("allocation", ("proportional", "sqrt")),
    )
    for value in values
}


@settings
class CompareConfig:
    """Settings of prune.compare."""

    corpus: str = place()
    """Corpus, as for prune.score; without --labels a folder of class folders."""
    reference: Path
    """Reference set: a folder of class folders."""
    out: Path
    """Output folder: compare.md, compare.json, and the stages' outputs below it."""
    labels: Path | None = None
    """Classes of the corpus: a Parquet or CSV file with the columns key and label (or scene: the
    truth of a miniature world). Images with an empty label are of no class."""
    methods: tuple[str, ...] = tuple(STAGES)
    """Methods to compare."""
    variants: bool = True
    """Compare variants of rsprune's Stage II too."""
    ratio: float = 0.85
    """Pruning ratio: share of the pool that is dropped."""
    keep: float = 0.30
    """Share of the pool that Stage I keeps."""
    clusters: int = 48
    """K of the reference's prototypes (the paper's 200 needs thousands of reference images)."""
    own_clusters: int = 200
    """K of the methods that cluster the pool itself."""
    reduce: int = 128
    """Dimensions of entropy-set's clustering."""
    whiten: int | None = None
    """D of prune.centroids --whiten, for the reference's prototypes and the pool's own; default:
    32 for the descriptor, 0 for a learnt encoder."""
    near: float | None = None
    """dinov2: cosine of --encoder above which images are copies; default: 0.995 for the
    descriptor, whose vectors are all alike, else 0.6, which is meant for SSCD."""
    encoder: str = "descriptor"
    """Encoder of prune.embed."""
    weights: str | None = machine(None)
    """Its weights, as for prune.embed."""
    seed: int = 0
    """Seed of all draws."""
    dull: float = 10.0
    """Grey standard deviation (of 255) below which an image counts as of low information."""
    distance: int = 6
    """Bits, of 64, within which the perceptual hashes of near-duplicates lie."""
    workers: int = machine(2)
    """Processes (machine setting)."""


def stages(config: CompareConfig) -> dict[str, Path]:
    """Run every stage that the methods need. Returns where each wrote, 'scores' among them."""
    from prune import assign, centroids, embed, hierarchy, score

    at = {"scores": config.out / "scores"}
    wanted = {stage for method in config.methods for stage in STAGES[method]}
    command(score.main, corpus=config.corpus, out=at["scores"], workers=config.workers)
    classes(config, pool_keys(at["scores"]))  # what is wrong with them, before the long part
    encoder: dict[str, Any] = {"encoder": config.encoder, "workers": config.workers}
    if config.weights is not None:
        encoder["weights"] = config.weights
    corpus = {"corpus": config.corpus, "scores": at["scores"], **encoder}
    dims = config.whiten
    if dims is None:
        dims = MINI_WHITEN if config.encoder == "descriptor" else 0
    seed = {"seed": config.seed}
    own = {**seed, "clusters": config.own_clusters}
    pool, kept = config.out / "pool", config.out / "survivors"
    steps: dict[str, tuple[Any, dict[str, Any]]] = {
        "reference": (embed.main, {"reference": config.reference, **encoder}),
        "pool": (embed.main, {**corpus, "keep": 1}),
        "survivors": (embed.main, {**corpus, "keep": config.keep}),
        "centroids": (
            centroids.main,
            {
                "embeddings": config.out / "reference",
                "clusters": config.clusters,
                "whiten": dims,
                **seed,
            },
        ),
        "own": (centroids.main, {"embeddings": pool, "whiten": dims, **own}),
        "reduced": (centroids.main, {"embeddings": kept, "reduce": config.reduce, **own}),
        "assignments": (
            assign.main,
            {
                "embeddings": pool if "pool" in wanted else kept,
                "centroids": config.out / "centroids",
            },
        ),
        "clusters": (assign.main, {"embeddings": pool, "centroids": config.out / "own"}),
        "reduced-clusters": (
            assign.main,
            {"embeddings": kept, "centroids": config.out / "reduced"},
        ),
        "tree": (hierarchy.main, {"embeddings": pool, "whiten": dims, **seed}),
    }
    if "assignments" in wanted and "pool" in wanted and "entropy-set" not in config.methods:
        wanted.discard("survivors")  # the pool's embeddings hold them
    for name, (main_of, flags) in steps.items():
        if name in wanted:
            at[name] = config.out / name
            if main_of is assign.main:
                flags = {**flags, "workers": config.workers}
            try:
                command(main_of, **flags, out=at[name])
            except UserError as error:
                if name not in ("own", "reduced"):
                    raise
                raise UserError(f"--own-clusters {config.own_clusters}: {error}") from None
    return at


def select(config: CompareConfig, at: Mapping[str, Path]) -> dict[str, Path]:
    """Write the subset index of each method and variant. Returns where, by name."""
    from prune.subsets import select as select_command

    clusters = {"rsprune": "assignments", "moderate": "assignments", "hierarchical": "tree"}
    clusters |= {"entropy-set": "reduced-clusters"}
    clusters |= dict.fromkeys(("full-set", "cluster-nearest", "a2mae", "semdedup"), "clusters")
    rows: dict[str, dict[str, Any]] = {method: {} for method in config.methods}
    if config.variants and "rsprune" in rows:
        rows |= VARIANTS
    made = {}
    for name, more in rows.items():
        method = name.split(",")[0]
        flags: dict[str, Any] = {"method": method, "scores": at["scores"], **more}
        flags |= {"ratio": config.ratio, "keep": config.keep, "seed": config.seed}
        if method in clusters:
            flags["assignments"] = at[clusters[method]]
        if method in ("moderate", "semdedup", "dinov2"):
            flags["embeddings"] = at["pool"]
        if method == "dinov2":
            near = 0.995 if config.encoder == "descriptor" else 0.6
            flags |= {"reference": at["reference"]}
            flags["near"] = near if config.near is None else config.near
        made[name] = config.out / "subsets" / f"{name.replace(', ', '-')}.parquet"
        command(select_command.main, **flags, out=made[name])
    return made


def looks(config: CompareConfig, images: pa.Table, scores: Path) -> pa.Table:
    """Grey deviation and perceptual hash of every image of the pool: key, deviation, hash."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    from core.atomic import atomic_path
    from core.parallel import ordered_map
    from core.progress import progress
    from prune.studies.comparison import Look, look

    out = config.out / "looks.parquet"
    stage = Stage(out, "prune.compare.looks", {}, {"scores": fingerprint(scores)})
    if not stage.done():
        stage.open()
        limit = read_manifest(scores)["params"]["max_pixels"]
        columns = (images.column(name).to_pylist() for name in ("key", "shard", "row"))
        places = list(zip(*columns, strict=True))
        starts = range(0, len(places), 256)
        tasks = (Look(config.corpus, tuple(places[n : n + 256]), limit) for n in starts)
        found: list[tuple[str, float, int]] = []
        with progress(total=len(places), name="look") as bar:
            for some in ordered_map(look, tasks, min(config.workers, len(starts))):
                found += some
                bar.update(len(some))
        schema = pa.schema([("key", pa.string()), ("deviation", pa.float64())])
        keys, deviations, hashes = zip(*found, strict=True)
        table = pa.table([keys, deviations], schema=schema)
        table = table.append_column("hash", pa.array(hashes, pa.uint64()))
        with atomic_path(out) as temporary:
            pq.write_table(table, temporary)
        stage.finish({"rows": len(places)}, [out.name], line=f"{len(places):,} images looked at")
    return pq.read_table(out)


def classes(config: CompareConfig, keys: Sequence[str]) -> dict[str, str]:
    """The class of each image. Raises UserError for an image without one."""
    if config.labels is None:
        from prune.studies.judge import folder_truth

        return {key: truth.scene for key, truth in folder_truth(keys).items()}
    import pyarrow as pa
    from pyarrow import csv, parquet

    try:
        read = csv.read_csv if config.labels.suffix == ".csv" else parquet.read_table
        table = read(config.labels)
        label = "label" if "label" in table.column_names else "scene"
        columns = (table.column(name).cast(pa.string()).to_pylist() for name in ("key", label))
        found = dict(zip(*columns, strict=True))
    except FileNotFoundError:
        raise UserError(f"{config.labels}: no such file (--labels)") from None
    except (KeyError, OSError, pa.ArrowException) as error:
        raise UserError(
            f"{config.labels}: not a Parquet or CSV file with columns key and label ({error})"
        ) from None
    missing = [key for key in keys if found.get(key) is None]
    if missing:
        raise UserError(f"{config.labels}: {len(missing):,} images have no label: {missing[0]}")
    return found


def compare(
    config: CompareConfig, at: Mapping[str, Path], made: Mapping[str, Path]
) -> dict[str, Any]:
    """Measure the pool, Stage I's survivors and each subset."""
    import numpy as np

    from data.curation.holdout import pool
    from data.formats.index import read_index
    from data.formats.tables import read_parts
    from prune.cluster.features import Features
    from prune.stage1.threshold import stage1
    from prune.studies.comparison import alike, expected_bits, measure

    images = pool(read_parts(at["scores"], ["key", "shard", "row", "entropy", "status"]))
    keys = images.column("key").to_pylist()
    labels = classes(config, keys)
    seen = looks(config, images, at["scores"])
    names = seen.column("key").to_pylist()
    deviation = dict(zip(names, seen.column("deviation").to_pylist(), strict=True))
    hashes = dict(zip(names, seen.column("hash").to_pylist(), strict=True))
    place = {key: row for row, key in enumerate(keys)}
    features = Features(at["pool"], images) if "pool" in at else None

    def row(subset: Sequence[str]) -> dict[str, Any]:
        found = measure(
            subset, labels, deviation, hashes, dull=config.dull, distance=config.distance
        )
        if features is not None:
            rows: np.ndarray = np.sort([place[key] for key in subset])
            found["alike"] = round(alike(features.take(rows)), 4)
        return found

    survivors = stage1(images, config.keep).column("key").to_pylist()
    result: dict[str, Any] = {"pool": row(keys), "stage1": row(survivors), "methods": {}}
    score = read_manifest(at["scores"])["made"]["seconds"]
    for name, path in made.items():
        table, metadata = read_index(path)
        own = read_manifest(path)["made"]["seconds"]
        needs = [at.get(stage) for stage in STAGES[name.split(",")[0]]]
        before = [read_manifest(p)["made"]["seconds"] for p in needs if p is not None]
        result["methods"][name] = {
            **row(table.column("key").to_pylist()),
            "seconds": round(own, 2),
            "seconds_with_stages": round(own + score + sum(before), 1),
            "method_counts": metadata["counts"],
        }
    size = next((m["images"] for n, m in result["methods"].items() if n != "full"), len(keys))
    counts = list(result["pool"]["counts"].values())
    result["expected_random_bits"] = round(expected_bits(counts, size), 4)
    return result


def report(result: Mapping[str, Any], config: CompareConfig) -> str:
    """The comparison in Markdown."""
    classes_ = result["pool"]["classes"]
    lines = [
        f"# Methods at {config.ratio:.0%} on {Path(config.corpus).name}",
        "",
        f"Pool of {result['pool']['images']:,} images of {classes_} classes, reference "
        f"{config.reference.name}, encoder {config.encoder}, Stage I keeps {config.keep:.0%}, "
        f"K = {config.clusters} (reference) and {config.own_clusters} (pool), seed {config.seed}.",
        "",
        "| method | images | classes | balance (bits) | low information | near-duplicates "
        "| nearest other | select (s) | with its stages (s) |",
        "|---|---:|---:|---:|---:|---:|---:|---:|---:|",
    ]
    sets = {"*pool*": result["pool"], "*after Stage I*": result["stage1"], **result["methods"]}
    for name, found in sets.items():
        images = found["images"]
        near = f"{found['alike']:.4f}" if "alike" in found else "-"
        times = [f"{found[n]:,.1f}" if n in found else "-" for n in ("seconds",)]
        times += [f"{found[n]:,.0f}" if n in found else "-" for n in ("seconds_with_stages",)]
        lines.append(
            f"| {name} | {images:,} | {found['classes']} | {found['bits']:.3f} "
            f"| {found['low_information'] / images:.1%} "
            f"| {found['near_duplicates']} ({found['near_duplicates'] / images:.1%}) "
            f"| {near} | {times[0]} | {times[1]} |"
        )
    return "\n".join(
        [
            *lines,
            "",
            "Balance: entropy of the class shares; a uniform draw of this size is expected at "
            f"{result['expected_random_bits']:.3f} bits. Low information: grey standard deviation "
            f"below {config.dull:g} of 255. Near-duplicates: images whose 64-bit perceptual hash "
            f"is within {config.distance} bits of another image's of the set (constant images "
            "aside). Nearest other: mean "
            "cosine to the nearest other image of the set, in the encoder's space (it grows with "
            "the size of the set). Seconds are those of each stage when it was made.",
            "",
        ]
    )


def main(argv: Sequence[str] | None = None) -> int | None:
    config = parse(
        CompareConfig,
        argv,
        prog="python -m prune.compare",
        description="Compare the methods on a corpus whose classes are known.",
    )
    odd = [name for name in config.methods if name not in STAGES]
    if odd or not config.methods:
        raise UserError(f"--methods {' '.join(odd)}: choose among {', '.join(STAGES)}")
    check_shares(config.ratio, config.keep)
    from core.atomic import write_json, write_text

    at = stages(config)
    made = select(config, at)
    result = compare(config, at, made)
    settings = {
        field.name: str(value) if isinstance(value, Path) else value
        for field in dataclasses.fields(config)
        if field.name not in ("out", "workers", "weights")
        and (value := getattr(config, field.name)) is not None
    }
    write_json(config.out / "compare.json", {"settings": settings, **result})
    text = report(result, config)
    write_text(config.out / "compare.md", text)
    print("\n" + text)
    print(f"[prune.compare] {len(made)} subsets compared -> {config.out / 'compare.md'}")
    return 0
