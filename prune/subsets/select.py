"""Write a subset index, or one for each of several ratios: which images to train on.

    python -m prune.select --method rsprune --scores S --assignments A --ratio 0.85 --keep 0.30 \\
        --holdout holdout.parquet --out subsets/rsprune_85.parquet
    python -m prune.select --method random --scores S --ratio 0.85 --out subsets/random_85.parquet
    python -m prune.select --method rsprune --scores S --assignments A \\
        --ratio 0.5 0.75 0.85 --out 'subsets/rsprune_{ratio}.parquet'

`--method help` lists the methods; docs/methods.md describes them.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from core.errors import UserError
from core.settings import parse, settings
from core.stage import Stage, code_version, fingerprint, read_manifest

if TYPE_CHECKING:
    import pyarrow as pa

    from prune.methods.registry import Method, Request

HOW = {
    "assignments": "a folder made by python -m prune.assign",
    "embeddings": "embeddings of the whole pool, made by python -m prune.embed --keep 1",
    "reference": "embeddings of a reference set, made by python -m prune.embed --reference",
    "copies": "embeddings of the whole pool by a copy detector, made by prune.embed --keep 1",
    "avoid": "embeddings of the evaluation images by the encoder of --copies",
}
"""The inputs that some methods read beside the scores, and where they come from."""
MADE_BY = {
    "scores": ("prune.score", "data.filter"),
    "assignments": ("prune.assign", "prune.hierarchy"),
    "holdout": ("data.holdout", "data.leakage"),
}
"""The commands that make an input; the others are embeddings."""


@settings
class SelectConfig:
    """Settings of prune.select. Each method uses, and records, its own alone."""

    scores: Path
    """Score table: a folder made by prune.score (Stage I)."""
    out: Path
    """Subset index to write, for example subsets/rsprune_85.parquet. With several ratios the name
    holds {ratio}, which becomes the percentage dropped."""
    method: str = "rsprune"
    """The method; 'help' lists them."""
    ratio: tuple[float, ...] = (0.85,)
    """Pruning ratio: share of the original pool (N images) that is dropped, in [0, 1). Several
    ratios are answered from one pass over the inputs."""
    keep: float = 0.30
    """Stage I: share of the original pool that it keeps (p %, Sec. 4.4.1), in (0, 1]."""
    seed: int = 0
    """Seed of whatever the method draws at random."""
    sampling: Literal["nearest", "farthest", "random", "mixed"] = "nearest"
    """rsprune: which images of a cluster are taken first (the paper: the nearest to the prototype;
    mixed: nearest and farthest in turn)."""
    allocation: Literal["balanced", "proportional", "sqrt"] = "balanced"
    """rsprune: quota of a cluster (the paper: B/K for each; proportional: to its size; sqrt: to
    the root of its size)."""
    classes: Literal["assigned", "one"] = "assigned"
    """moderate: pseudo-classes, from --assignments or one for all images."""
    prefer: Literal["hard", "easy", "random"] = "hard"
    """semdedup: which of a group of duplicates stays: the farthest from the prototype (hard), the
    nearest (easy), or any."""
    retrieval: Literal["sample", "cluster"] = "sample"
    """dinov2: retrieve neighbours of each reference image, or whole clusters that hold some."""
    near: float = 0.6
    """dinov2: cosine above which two images of --copies are copies of each other."""
    leak: float = 0.45
    """dinov2: cosine above which an image of --copies is a copy of an evaluation image."""
    leaf: Literal["random", "nearest"] = "random"
    """hierarchical: which images of a smallest cluster are taken."""
    assignments: Path | None = None
    """Folder made by prune.assign (Stage II), or by prune.hierarchy for the method hierarchical."""
    holdout: Path | None = None
    """Hold-out file of data.holdout: its images, and their exact copies, leave the pool."""
    embeddings: Path | None = None
    """moderate, semdedup, dinov2: embeddings of the whole pool (prune.embed --keep 1)."""
    reference: Path | None = None
    """dinov2: embeddings of the reference set, by the encoder of --embeddings."""
    copies: Path | None = None
    """dinov2: embeddings of the whole pool by a copy detector (SSCD); default: --embeddings."""
    avoid: Path | None = None
    """dinov2: embeddings of evaluation images by the encoder of --copies; what is a copy of one
    of them is dropped."""


@dataclasses.dataclass(frozen=True)
class Sources:
    """The files that a subset is derived from."""

    scores: Path
    assignments: Path | None = None
    holdout: Path | None = None
    embeddings: Path | None = None
    reference: Path | None = None
    copies: Path | None = None
    avoid: Path | None = None

    @classmethod
    def of(cls, config: Any, method: Method) -> Sources:
        """Those of a command's inputs that the method reads.

        Raises UserError when one that it needs is missing.
        """
        needed = (*(("assignments",) if method.clustered else ()), *method.reads)
        for name in needed:
            if name not in method.may_read and getattr(config, name) is None:
                raise UserError(f"the method {method.name} needs --{name}: {HOW[name]}")
        files = {name: getattr(config, name) for name in needed}
        return cls(config.scores, holdout=config.holdout, **files)

    def files(self) -> dict[str, Path]:
        """Those that are given, by name."""
        named = ((field.name, getattr(self, field.name)) for field in dataclasses.fields(self))
        return {name: path for name, path in named if path is not None}

    def fingerprints(self) -> dict[str, str]:
        """name -> fingerprint of each file, for the manifest and the index's metadata."""
        embedded = ("prune.embed",)
        return {n: fingerprint(p, *MADE_BY.get(n, embedded)) for n, p in self.files().items()}


def derive(
    name: str, params: Mapping[str, Any], sources: Sources
) -> tuple[pa.Table, dict[str, Any]]:
    """Rows of the subset and the index's metadata (without the code version).

    Args:
        name: a method of prune.methods.
        params: its settings, as `Method.settings` gives them.
        sources: where its inputs are.

    A pure function of the files' contents: the same inputs give the same rows.
    """
    rest = {key: value for key, value in params.items() if key != "ratio"}
    return next(derive_all(name, rest, sources, [params.get("ratio")]))


def derive_all(
    name: str, params: Mapping[str, Any], sources: Sources, ratios: Sequence[float | None]
) -> Iterator[tuple[pa.Table, dict[str, Any]]]:
    """What `derive` returns for each ratio in turn; the inputs are read once.

    A ratio is None for a method that has none.
    """
    from prune.methods.catalogue import find
    from prune.methods.selection import budget

    method = find(name)
    inputs = sources.fingerprints()
    request, encoder = _request(method, params, sources)
    total = request.pool.num_rows
    for ratio in ratios:
        size = total if ratio is None else budget(total, ratio)
        if size == 0:
            raise UserError(
                f"--ratio {ratio} of {total:,} images leaves none of them; lower the ratio"
            )
        rows, counts = method.choose(dataclasses.replace(request, size=size))
        yield (
            rows,
            {
                "method": name,
                "params": {**({} if ratio is None else {"ratio": ratio}), **params},
                "inputs": inputs,
                "encoder": encoder,
                "counts": {"N": total, "B": size, **counts},
            },
        )


def _request(
    method: Method, params: Mapping[str, Any], sources: Sources
) -> tuple[Request, dict[str, Any] | None]:
    """What the method may look at, without a size, and the encoder's fingerprint."""
    from data.curation.holdout import in_pool, read_holdout
    from data.formats.tables import read_parts
    from prune.methods.registry import Request

    columns = ["key", "shard", "row", "entropy", "status"]
    if sources.holdout is not None or "digest" in method.columns:
        columns.append("digest")  # copies of held-out images are found by it
    held = None if sources.holdout is None else read_holdout(sources.holdout)
    wanted = ["key", "shard", "row", "entropy", *method.columns]

    def pool_of(part: pa.Table) -> pa.Table:
        return part.select(wanted).filter(in_pool(part, held))

    images = read_parts(sources.scores, columns, dictionary=["shard", "status"], each=pool_of)
    if images.num_rows == 0:
        raise UserError(f"{sources.scores}: no readable image is left in the pool")
    common = {key: params[key] for key in ("keep", "seed") if key in params}
    own = {key: value for key, value in params.items() if key not in common}
    request = Request(pool=images, size=0, files=sources.files(), options=own, **common)
    encoder = None
    if sources.embeddings is not None:
        encoder = read_manifest(sources.embeddings)["summary"]["encoder"]
    if sources.assignments is not None:
        manifest = read_manifest(sources.assignments)
        summary = manifest["summary"]
        encoder = summary["encoder"]
        prototypes = dict(summary.get("centroids", {}))
        assigned = manifest["inputs"].get("embeddings")
        prototypes["own"] = assigned is not None and prototypes.get("embeddings") == assigned
        request = dataclasses.replace(
            request,
            assignments=read_parts(
                sources.assignments,
                columns=["key", "shard", "row", "cluster", "similarity"],
                dictionary=["shard"],
                chunked=True,
            ),
            clusters=int(summary["clusters"]),
            prototypes=prototypes,
        )
    return request, encoder


def describe(metadata: Mapping[str, Any]) -> str:
    """One line on a subset: its size and, for quotas, where its rows came from."""
    counts = metadata["counts"]
    line = f"{metadata['method']}: {counts['B']:,} of {counts['N']:,} images"
    if "quota_rows" in counts:
        share = counts["remainder_rows"] / counts["B"]
        quota = f"q = {counts['q']:,}, " if "q" in counts else ""
        line += (
            f", {counts['quota_rows']:,} by quota ({quota}K = {counts['K']}) and "
            f"{counts['remainder_rows']:,} ({share:.1%}) from the global remainder; "
            f"{counts['small_clusters']} clusters below the quota, "
            f"{counts['empty_clusters']} of them empty,"
        )
    return line


def percent(ratio: float | str) -> str:
    """A ratio in per cent, as it stands in file names: 0.85 is '85', 0.875 is '87.5'.

    Raises UserError for what is not a number.
    """
    try:
        number = Decimal(str(ratio)) * 100
    except InvalidOperation:
        raise UserError(f"--ratio {ratio}: not a number") from None
    text = f"{number:f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


def outputs(config: SelectConfig, method: Method) -> dict[Path, float | None]:
    """Where the index of each ratio goes. Raises UserError for names that are no such place."""
    if config.out.suffix != ".parquet" or config.out.is_dir():
        raise UserError(
            f"--out {config.out}: a subset index is one file; its name ends in .parquet"
        )
    if "ratio" not in method.params:
        return {config.out: None}
    given: Any = config.ratio  # one number, where a --config file has one
    ratios: tuple[float, ...] = tuple(given) if isinstance(given, Sequence) else (given,)
    if not ratios:
        raise UserError("--ratio: give at least one")
    if len(ratios) > 1 and "{ratio}" not in str(config.out):
        raise UserError(
            f"--out {config.out}: {len(ratios)} ratios need a name with {{ratio}} in it, for "
            f"example {config.out.with_name(config.out.stem + '_{ratio}.parquet')}"
        )
    found = {Path(str(config.out).replace("{ratio}", percent(r))): r for r in ratios}
    if len(found) < len(ratios):
        raise UserError(f"--ratio {' '.join(map(str, ratios))}: one of them is given twice")
    return dict(found)


def main(argv: Sequence[str] | None = None) -> int | None:
    config = parse(
        SelectConfig, argv, prog="python -m prune.select", description="Write a subset index."
    )
    from prune.methods.catalogue import find

    method = find(config.method)
    places = outputs(config, method)
    for name in HOW:
        used = name in method.reads or (name == "assignments" and method.clustered)
        if getattr(config, name) is not None and not used:
            print(f"[prune.select] note: the method {config.method} makes no use of --{name}")
    sources = Sources.of(config, method)
    inputs = sources.fingerprints()
    left: dict[Stage, float | None] = {}
    params: dict[str, Any] = {}
    for path, ratio in places.items():
        params = method.settings({**vars(config), "ratio": ratio})
        stage = Stage(path, "prune.select", {"method": config.method, **params}, inputs)
        if not stage.done():
            left[stage] = ratio
    if not left:
        return 0
    from data.formats.index import write_index

    params.pop("ratio", None)
    derived = derive_all(config.method, params, sources, list(left.values()))
    for stage in left:
        stage.open()
        rows, metadata = next(derived)
        metadata["code"] = code_version()
        write_index(stage.out, rows, metadata)
        stage.finish(metadata, [stage.out.name], line=describe(metadata))
    return 0
