"""Judge the pruning where the truth is known.

    python -m prune.judge --seeds 0 1 2 3 4 --tiles 3000 --out judge
    python -m prune.judge --corpus CLASSFOLDERS --reference CLASSFOLDERS --out judge

The first form builds a miniature world for each seed and asks what the paper claims: Stage I
drops near-uniform tiles, Stage II loses no scene type that survived Stage I, and the subset is
more balanced than a random one of its size. Exit code 1: some property did not hold. The second
form takes a corpus whose class folders are the truth (the pruner never sees them) and reports
class balance and coverage of the methods, without a verdict.

Either runs the stages' own commands, so a stopped run continues where it was.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from core.errors import UserError
from core.settings import machine, parse, place, settings
from prune.studies.judgement import WANTED_DROP, Truth, failures, judge

METHODS = ("rsprune", "entropy", "random")
# Chosen on the worlds of seeds 5 to 9, from a plateau: any K from 24 to 64 with D from 16 to 48
# loses no scene there and is at least 0.13 bits above Random in each world.
MINI_CLUSTERS = 48  # about 11 of the world's 520 reference images in a cluster
MINI_WHITEN = 32


@settings
class JudgeConfig:
    """Settings of prune.judge."""

    out: Path
    """Output folder: judge.md, judge.json, and the stages' outputs below it."""
    seeds: tuple[int, ...] = (0, 1, 2, 3, 4)
    """Miniature worlds to judge, one for each seed."""
    tiles: int = 3000
    """Files in each world's corpus."""
    reference_per_class: int = 40
    """Reference images of each scene type in a world."""
    corpus: str | None = place(None)
    """Judge this corpus, whose keys begin with a class (class folders do), instead of miniature
    worlds."""
    reference: Path | None = None
    """Reference set for --corpus: class folders too."""
    ratio: float = 0.85
    """Pruning ratio: share of the pool that is dropped."""
    keep: float = 0.30
    """Share of the pool that Stage I keeps."""
    clusters: int = MINI_CLUSTERS
    """K, number of prototypes (the paper's 200 needs a reference set of thousands)."""
    whiten: int | None = None
    """D of prune.centroids --whiten; default: 32 for the descriptor, 0 for a learnt encoder."""
    seed: int = 0
    """Seed of k-means and of the random subset."""
    encoder: str = "descriptor"
    """Encoder of prune.embed."""
    workers: int = machine(2)
    """Processes (machine setting)."""


def whitening(config: JudgeConfig) -> int:
    """D, the dimensions to which embeddings are whitened; 0 for none."""
    if config.whiten is not None:
        return config.whiten
    return MINI_WHITEN if config.encoder == "descriptor" else 0


def command(main: Callable[[Sequence[str]], int | None], **flags: Any) -> None:
    """Run a stage's main in this process. Raises UserError when it fails."""
    arguments: list[str] = []
    for name, value in flags.items():
        arguments += [f"--{name.replace('_', '-')}", str(value)]
    if code := main(arguments):
        raise UserError(f"{main.__module__} {' '.join(arguments)} ended with exit code {code}")


def prune(corpus: Path | str, reference: Path, out: Path, config: JudgeConfig) -> dict[str, Path]:
    """Run Stage I and II on a corpus. Returns 'scores' and each method's subset index."""
    from prune import assign
    from prune.cluster import centroids
    from prune.encoders import embed
    from prune.stage1 import score
    from prune.subsets import select

    scores = out / "scores"
    command(score.main, corpus=corpus, out=scores, workers=config.workers)
    if config.corpus is not None:
        folder_truth(pool_keys(scores))  # refuses a corpus without classes before the long part
    command(
        embed.main,
        reference=reference,
        encoder=config.encoder,
        out=out / "reference",
        workers=config.workers,
    )
    command(
        centroids.main,
        embeddings=out / "reference",
        clusters=config.clusters,
        seed=config.seed,
        whiten=whitening(config),
        out=out / "centroids",
    )
    command(
        embed.main,
        corpus=corpus,
        scores=scores,
        keep=config.keep,
        encoder=config.encoder,
        out=out / "embeddings",
        workers=config.workers,
    )
    command(
        assign.main,
        embeddings=out / "embeddings",
        centroids=out / "centroids",
        out=out / "assignments",
    )
    made = {"scores": scores}
    for method in METHODS:
        flags: dict[str, Any] = {"method": method, "scores": scores, "ratio": config.ratio}
        if method == "rsprune":
            flags |= {"assignments": out / "assignments", "keep": config.keep}
        if method == "random":
            flags |= {"seed": config.seed}
        made[method] = out / "subsets" / f"{method}.parquet"
        command(select.main, **flags, out=made[method])
    return made


def pool_keys(scores: Path) -> list[str]:
    """Keys of the readable images of a score table."""
    from data.curation.holdout import pool
    from data.formats.tables import read_parts

    return pool(read_parts(scores, ["key", "status"]))["key"].to_pylist()


def check_shares(ratio: float, keep: float) -> None:
    """Raise UserError for a --ratio or --keep that could not be, before hours have gone by."""
    from prune.methods.selection import budget
    from prune.stage1.threshold import share

    budget(1, ratio)
    share(1, keep, "--keep")


def world_truth(path: Path) -> dict[str, Truth]:
    """The truth of a miniature world, by key."""
    from data.formats.tables import read_part

    fields = [field.name for field in dataclasses.fields(Truth)]
    table = read_part(path)
    names = {"low_information": "dull"}  # a world made by version 0.1 has the latter already
    table = table.rename_columns([names.get(name, name) for name in table.column_names])
    return {row["key"]: Truth(**{name: row[name] for name in fields}) for row in table.to_pylist()}


def folder_truth(keys: Sequence[str]) -> dict[str, Truth]:
    """Truth from class folders: the key 'Forest/forest_1.jpg' is of class 'Forest'."""
    loose = [key for key in keys if "/" not in key]
    if loose:
        raise UserError(
            f"{loose[0]}: not in a class folder; --corpus needs files as CLASS/FILE "
            f"({len(loose):,} files are not)"
        )
    return {key: Truth(scene=key.split("/", 1)[0]) for key in keys}


def judge_files(
    made: Mapping[str, Path], config: JudgeConfig, truth: Mapping[str, Truth] | None
) -> dict[str, Any]:
    """Judge the outputs of `prune`; without `truth`, class folders are it."""
    from data.curation.holdout import pool
    from data.formats.index import read_index
    from data.formats.tables import read_parts
    from prune.stage1.threshold import stage1

    images = pool(read_parts(made["scores"], ["key", "shard", "row", "entropy", "status"]))
    keys = images.column("key").to_pylist()
    survivors = stage1(images, config.keep).column("key").to_pylist()
    subsets = {}
    counts = {}
    for method in METHODS:
        table, metadata = read_index(made[method])
        subsets[method] = table.column("key").to_pylist()
        counts[method] = metadata["counts"]
    result = judge(keys, survivors, subsets, folder_truth(keys) if truth is None else truth)
    result["counts"] = counts["rsprune"]
    return result


def balance_table(results: Mapping[str, Mapping[str, Any]], pairs: bool) -> list[str]:
    """Class balance and coverage of pool, Stage I and methods, as lines of Markdown."""
    lines = [
        "| corpus | set | images | classes | balance (bits) |" + " near | exact |" * pairs,
        "|---|---|---:|---:|---:|" + "---:|---:|" * pairs,
    ]
    for name, result in results.items():
        sets = {"pool": result["pool"], "Stage I": result["stage1"], **result["methods"]}
        lines += [
            f"| {name} | {title} | {s['images']:,} | {s['classes']} | {s['bits']:.3f} |"
            + f" {s['pairs']['near']} | {s['pairs']['exact']} |" * pairs
            for title, s in sets.items()
        ]
    return lines


def verdict_table(results: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """What the miniature worlds were asked, as lines of Markdown."""
    lines = [
        f"| world | dull and blank dropped (want {WANTED_DROP:.0%}) | of each kind | scenes after "
        "Stage I | in RS-Prune (want all) | balance: RS-Prune | Random (want less) | near pairs "
        "kept: RS-Prune | Random | holds |",
        "|---|---:|---|---:|---:|---:|---:|---:|---:|---|",
    ]
    for name, result in results.items():
        ours, uniform = result["methods"]["rsprune"], result["methods"]["random"]
        kinds = ", ".join(f"{kind} {n}/{of}" for kind, (n, of) in result["drops"].items())
        alive = result["stage1"]["classes"]
        lines.append(
            f"| {name} | {result['dropped'] or 0:.1%} | {kinds} | {alive} | "
            f"{alive - len(result['lost']['rsprune'])} | {ours['bits']:.3f} | "
            f"{uniform['bits']:.3f} | {ours['pairs']['near']} | {uniform['pairs']['near']} | "
            f"{'no' if result['failures'] else 'yes'} |"
        )
    return lines


def report(results: Mapping[str, Mapping[str, Any]], config: JudgeConfig) -> str:
    """The whole report in Markdown."""
    worlds = config.corpus is None
    dims = whitening(config)
    white = f" whitened to {dims} dimensions" if dims else ""
    settings = (
        f"pruning ratio {config.ratio:.0%}, Stage I keeps {config.keep:.0%}, K = "
        f"{config.clusters}, encoder {config.encoder}{white}, seed {config.seed}"
    )
    title = (
        f"Pruning judged on {len(results)} miniature worlds of {config.tiles:,} tiles (mini)"
        if worlds
        else f"Pruning judged by the class folders of {config.corpus}"
    )
    lines = [f"# {title}", "", settings[0].upper() + settings[1:] + ".", ""]
    if worlds:
        lines += [*verdict_table(results), ""]
    note = "Balance is the entropy of the class shares."
    if worlds:
        note += (
            " Images that show no scene (blank, noise) are counted in 'images' alone; 'near' and "
            "'exact' are planted duplicate pairs with both members in the set."
        )
    lines += [
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
                lines.append(f"- {name}: {method} has none of Stage I's {_tiles(scenes)}.")
        lines += [f"- {name}: FAILED: {failure}." for failure in result.get("failures", [])]
    return "\n".join(lines) + "\n"


def _tiles(scenes: Mapping[str, int]) -> str:
    return ", ".join(f"{count} of {scene}" for scene, count in scenes.items())


def main(argv: Sequence[str] | None = None) -> int | None:
    config = parse(
        JudgeConfig,
        argv,
        prog="python -m prune.judge",
        description="Judge the pruning where the truth is known: miniature worlds by default.",
    )
    if (config.corpus is None) != (config.reference is None):
        raise UserError("--corpus and --reference go together")
    if config.corpus is None and not config.seeds:
        raise UserError("--seeds: give at least one")
    check_shares(config.ratio, config.keep)
    from core.atomic import write_json, write_text

    results: dict[str, dict[str, Any]] = {}
    if config.corpus is not None and config.reference is not None:
        made = prune(config.corpus, config.reference, config.out, config)
        results[Path(config.corpus).resolve().name] = judge_files(made, config, None)
    else:
        from world.build import main as make_world

        for seed in config.seeds:
            out = config.out / f"seed-{seed}"
            world = out / "world"
            command(
                make_world,
                out=world,
                seed=seed,
                tiles=config.tiles,
                reference_per_class=config.reference_per_class,
                sr_images=0,
                sis_pairs=0,
                workers=config.workers,
            )
            made = prune(world / "corpus", world / "reference", out, config)
            result = judge_files(made, config, world_truth(world / "truth.parquet"))
            results[f"seed {seed}"] = {**result, "failures": failures(result)}
    text = report(results, config)
    settings = {
        field.name: str(value) if isinstance(value, Path) else value
        for field in dataclasses.fields(config)
        if field.name not in ("out", "workers")
        and (value := getattr(config, field.name)) is not None
    }
    settings["whiten"] = whitening(config)
    write_json(config.out / "judge.json", {"settings": settings, "results": results})
    write_text(config.out / "judge.md", text)
    print("\n" + text)
    failed = [name for name, result in results.items() if result.get("failures")]
    if failed:
        print(f"[prune.judge] failed for {', '.join(failed)}; see {config.out / 'judge.md'}")
        return 1
    print(f"[prune.judge] {len(results)} judged -> {config.out / 'judge.md'}")
    return 0
