"""Judge the pruning where the truth is known: miniature worlds, or a corpus of class folders."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from core.stage import Result
from data.formats.index import read_index
from prune.stage1.threshold import stage1
from prune.studies.config import JudgeConfig
from prune.studies.judgement import WANTED_DROP, failures
from prune.studies.judgement import judge as judge_keys
from prune.studies.pipeline import ScoreConfig, SelectConfig, WorldConfig, assigned, make
from prune.studies.report import table, write_report
from prune.studies.truth import Truth, folder_truth, read_pool, world_truth

METHODS = ("rsprune", "entropy", "random")


def judge(config: JudgeConfig) -> Result:
    """Judge every world, or the corpus. Exit code 1: some property did not hold in a world.

    The result's summary is that of judge.json.
    """
    config.check()
    results: dict[str, dict[str, Any]] = {}
    if config.corpus is not None and config.reference is not None:
        made = prune(config.corpus, config.reference, config.out, config)
        results[Path(config.corpus).resolve().name] = judge_files(made, config, None)
    else:
        for seed in config.seeds:
            out = config.out / f"seed-{seed}"
            world = make(
                WorldConfig(
                    out=out / "world",
                    seed=seed,
                    tiles=config.tiles,
                    reference_per_class=config.reference_per_class,
                    sr_images=0,
                    sis_pairs=0,
                    workers=config.workers,
                )
            )
            made = prune(str(world / "corpus"), world / "reference", out, config)
            result = judge_files(made, config, world_truth(world / "truth.parquet"))
            results[f"seed {seed}"] = {**result, "failures": failures(result)}
    figures = {"results": results}
    write_report(
        dataclasses.replace(config, whiten=config.dims), "judge", figures, report(results, config)
    )
    failed = [name for name, result in results.items() if result.get("failures")]
    if failed:
        message = f"failed for {', '.join(failed)}; see {config.out / 'judge.md'}"
    else:
        message = f"{len(results)} judged -> {config.out / 'judge.md'}"
    print(f"[prune.judge] {message}")
    return Result(config.out, figures, message, exit_code=1 if failed else 0)


def prune(corpus: str, reference: Path, out: Path, config: JudgeConfig) -> dict[str, Path]:
    """Run Stage I and II on a corpus. Returns 'scores' and each method's subset index."""
    at = {name: out / name for name in ("reference", "centroids", "assignments")}
    at |= {"scores": out / "scores", "pool": out / "embeddings"}
    make(ScoreConfig(corpus=corpus, out=at["scores"], workers=config.workers))
    if config.corpus is not None:  # refuses a corpus without classes before the long part
        folder_truth(read_pool(at["scores"])["key"].to_pylist())
    encoder = {"encoder": config.encoder, "weights": config.weights, "workers": config.workers}
    clustering = {"clusters": config.clusters, "seed": config.seed, "whiten": config.dims}
    assignments = assigned(at, corpus, reference, config.keep, encoder, clustering)
    subsets = {
        method: make(
            SelectConfig(
                method=method,
                scores=at["scores"],
                assignments=assignments if method == "rsprune" else None,
                ratio=(config.ratio,),
                keep=config.keep,
                seed=config.seed,
                out=out / "subsets" / f"{method}.parquet",
            )
        )
        for method in METHODS
    }
    return {"scores": at["scores"], **subsets}


def judge_files(
    made: Mapping[str, Path], config: JudgeConfig, truth: Mapping[str, Truth] | None
) -> dict[str, Any]:
    """Judge the outputs of `prune`; without `truth`, class folders are it."""
    images = read_pool(made["scores"], "shard", "row", "entropy")
    keys = images["key"].to_pylist()
    survivors = stage1(images, config.keep)["key"].to_pylist()
    found = {method: read_index(made[method]) for method in METHODS}
    subsets = {method: rows["key"].to_pylist() for method, (rows, _) in found.items()}
    result = judge_keys(keys, survivors, subsets, folder_truth(keys) if truth is None else truth)
    return {**result, "counts": found["rsprune"][1]["counts"]}


def report(results: Mapping[str, Mapping[str, Any]], config: JudgeConfig) -> str:
    """The report in Markdown."""
    worlds = config.corpus is None
    title = f"Pruning judged by the class folders of {config.corpus}"
    note = "Balance is the entropy of the class fractions."
    if worlds:
        title = (
            f"Pruning judged on {len(results)} miniature worlds of {config.tiles:,} tiles (mini)"
        )
        note += (
            " Images that show no scene (blank, noise) are counted in 'images' alone; 'near' and "
            "'exact' are planted duplicate pairs with both members in the set."
        )
    white = f" whitened to {config.dims} dimensions" if config.dims else ""
    lines = [
        f"# {title}",
        "",
        f"Pruning ratio {config.ratio:.0%}, Stage I keeps {config.keep:.0%}, K = "
        f"{config.clusters}, encoder {config.encoder}{white}, seed {config.seed}.",
        "",
        *([*verdict_table(results), ""] if worlds else []),
        note,
        "",
        *balance_table(results, pairs=worlds),
        "",
    ]
    for name, result in results.items():
        counts = result["counts"]
        lines.append(
            f"- {name}: q = {counts['q']}, {counts['quota_rows']:,} rows by quota and "
            f"{counts['remainder_rows']:,} from the global remainder; {counts['small_clusters']} "
            f"clusters below the quota, {counts['empty_clusters']} of them empty."
        )
        for method, scenes in result["lost"].items():
            if scenes:
                tiles = ", ".join(f"{count} of {scene}" for scene, count in scenes.items())
                lines.append(f"- {name}: {method} has none of Stage I's {tiles}.")
        lines += [f"- {name}: FAILED: {failure}." for failure in result.get("failures", [])]
    return "\n".join(lines) + "\n"


def balance_table(results: Mapping[str, Mapping[str, Any]], pairs: bool) -> list[str]:
    """Class balance and coverage of pool, Stage I and methods."""
    columns = ["corpus", "set", "images", "classes", "balance (bits)"]
    rows = []
    for name, result in results.items():
        sets = {"pool": result["pool"], "Stage I": result["stage1"], **result["methods"]}
        for title, s in sets.items():
            more = [s["pairs"]["near"], s["pairs"]["exact"]] if pairs else []
            rows.append([name, title, f"{s['images']:,}", s["classes"], f"{s['bits']:.3f}", *more])
    return table([*columns, "near", "exact"] if pairs else columns, rows, text=2)


def verdict_table(results: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """What the miniature worlds were asked, and what they answered."""
    rows = []
    for name, result in results.items():
        ours, uniform = result["methods"]["rsprune"], result["methods"]["random"]
        alive = result["stage1"]["classes"]
        rows.append(
            [
                name,
                ", ".join(f"{kind} {n}/{of}" for kind, (n, of) in result["drops"].items()),
                f"{result['dropped'] or 0:.1%}",
                alive,
                alive - len(result["lost"]["rsprune"]),
                f"{ours['bits']:.3f}",
                f"{uniform['bits']:.3f}",
                ours["pairs"]["near"],
                uniform["pairs"]["near"],
                "no" if result["failures"] else "yes",
            ]
        )
    columns = [
        "world", "low-information and blank tiles dropped",
        f"fraction (want {WANTED_DROP:.0%})", "scenes after Stage I", "in RS-Prune (want all)",
        "balance: RS-Prune", "Random (want less)", "near pairs kept: RS-Prune", "Random", "holds",
    ]  # fmt: skip
    return table(columns, rows, text=2)
