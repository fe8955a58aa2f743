"""Write a subset index: which images of the corpus to train on.

    python -m prune.select --method rsprune --scores S --assignments A --ratio 0.85 --keep 0.30 \\
        --holdout holdout.parquet --out subsets/rsprune_85.parquet
    python -m prune.select --method random --scores S --ratio 0.85 --out subsets/random_85.parquet
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from data.cli import parse, run
from data.errors import UserError
from data.stage import Stage, code_version, identity, read_manifest

if TYPE_CHECKING:
    import pyarrow as pa


@dataclasses.dataclass(frozen=True)
class SelectConfig:
    """Settings of prune.select."""

    scores: Path
    """Score table: a folder made by prune.score (Stage I)."""
    out: Path
    """Subset index to write, for example subsets/rsprune_85.parquet."""
    method: str = "rsprune"
    """rsprune | random | entropy (Stage I alone) | full."""
    ratio: float = 0.85
    """Pruning ratio: share of the original pool (N images) that is dropped, in [0, 1)."""
    keep: float = 0.30
    """rsprune: share of the original pool that Stage I keeps (p %, Sec. 4.4.1), in (0, 1]."""
    seed: int = 0
    """random: seed of the draw."""
    assignments: Path | None = None
    """rsprune: folder made by prune.assign (Stage II)."""
    holdout: Path | None = None
    """Hold-out file of data.holdout: its images, and their exact copies, leave the pool."""


@dataclasses.dataclass(frozen=True)
class Sources:
    """The files that a subset is derived from."""

    scores: Path
    assignments: Path | None = None
    holdout: Path | None = None

    def identities(self, clustered: bool) -> dict[str, str]:
        """name -> identity of each file in use, for the manifest and the index's metadata."""
        found = {"scores": identity(self.scores)}
        if clustered:
            if self.assignments is None:
                raise UserError(
                    "this method needs --assignments, a folder made by python -m prune.assign"
                )
            found["assignments"] = identity(self.assignments)
        if self.holdout is not None:
            found["holdout"] = identity(self.holdout)
        return found


def derive(
    name: str, params: Mapping[str, Any], sources: Sources
) -> tuple[pa.Table, dict[str, Any]]:
    """Rows of the subset and the index's metadata (without the code version).

    Args:
        name: a method of prune.methods.
        params: its settings: of ratio, keep and seed, those that it uses.
        sources: where its inputs are.

    A pure function of the files' contents: the same inputs give the same rows.
    """
    from data.holdout import in_pool, read_holdout
    from data.tables import read_parts
    from prune.methods import Request, find
    from prune.selection import budget

    method = find(name)
    inputs = sources.identities(method.clustered)
    columns = ["key", "shard", "row", "entropy", "status"]
    if sources.holdout is not None:
        columns.append("digest")  # copies of held-out images are found by it
    scores = read_parts(sources.scores, columns, dictionary=["shard", "status"])
    held = None if sources.holdout is None else read_holdout(sources.holdout)
    images = scores.select(["key", "shard", "row", "entropy"]).filter(in_pool(scores, held))
    del scores
    total = images.num_rows
    if total == 0:
        raise UserError(f"{sources.scores}: no readable image is left in the pool")
    size = budget(total, params["ratio"]) if "ratio" in method.params else total
    if size == 0:
        raise UserError(
            f"--ratio {params['ratio']} of {total:,} images leaves none of them; lower the ratio"
        )
    request = Request(pool=images, size=size)
    encoder = None
    if method.clustered:
        assert sources.assignments is not None
        summary = read_manifest(sources.assignments)["summary"]
        encoder = summary["encoder"]
        request = dataclasses.replace(
            request,
            assignments=read_parts(
                sources.assignments,
                columns=["key", "shard", "row", "cluster", "similarity"],
                dictionary=["shard"],
            ),
            clusters=int(summary["clusters"]),
        )
    settings = {key: params[key] for key in method.params}
    request = dataclasses.replace(
        request, **{key: value for key, value in settings.items() if key != "ratio"}
    )
    rows, counts = method.choose(request)
    return rows, {
        "method": name,
        "params": settings,
        "inputs": inputs,
        "encoder": encoder,
        "counts": {"N": total, "B": size, **counts},
    }


def describe(metadata: Mapping[str, Any]) -> str:
    """One line on a subset: its size and, for rsprune, where its rows came from."""
    counts = metadata["counts"]
    line = f"{metadata['method']}: {counts['B']:,} of {counts['N']:,} images"
    if "quota_rows" in counts:
        share = counts["remainder_rows"] / counts["B"]
        line += (
            f", {counts['quota_rows']:,} by quota (q = {counts['q']:,}, K = {counts['K']}) and "
            f"{counts['remainder_rows']:,} ({share:.1%}) from the global remainder; "
            f"{counts['small_clusters']} clusters below the quota, "
            f"{counts['empty_clusters']} of them empty,"
        )
    return line


def main(argv: Sequence[str] | None = None) -> int | None:
    config = parse(
        SelectConfig, argv, prog="python -m prune.select", description="Write a subset index."
    )
    if config.out.suffix != ".parquet":
        raise UserError(
            f"--out {config.out}: a subset index is one file; its name ends in .parquet"
        )
    from prune.methods import find

    method = find(config.method)
    if config.assignments is not None and not method.clustered:
        print(f"[prune.select] note: the method {config.method} makes no use of --assignments")
    sources = Sources(config.scores, config.assignments, config.holdout)
    params = {key: getattr(config, key) for key in method.params}
    stage = Stage(
        config.out,
        "prune.select",
        {"method": config.method, **params},
        sources.identities(method.clustered),
    )
    if stage.done():
        return 0
    from data.index import write_index

    stage.open()
    rows, metadata = derive(config.method, params, sources)
    metadata["code"] = code_version()
    write_index(config.out, rows, metadata)
    stage.finish(metadata, [config.out.name], line=describe(metadata))
    return 0


if __name__ == "__main__":
    run(main)
