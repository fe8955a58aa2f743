"""Look at subset indices.

python -m prune.index show subsets/rsprune_85.parquet
python -m prune.index verify subsets/rsprune_85.parquet --scores S --assignments A
python -m prune.index diff subsets/rsprune_85.parquet subsets/random_85.parquet
python -m prune.index export subsets/rsprune_85.parquet --to webdataset --corpus C --out FOLDER
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import tyro

from core.errors import UserError
from core.settings import parse, settings

if TYPE_CHECKING:
    import pyarrow as pa


@settings
class ShowConfig:
    """Settings of prune.index show."""

    index: tyro.conf.Positional[Path]
    """Subset index (Parquet)."""
    json: bool = False
    """Print the metadata alone, as JSON."""


@settings
class VerifyConfig:
    """Settings of prune.index verify."""

    index: tyro.conf.Positional[Path]
    """Subset index (Parquet)."""
    scores: Path
    """Score table that it was made from."""
    assignments: Path | None = None
    """Assignments that it was made from, if it was made from any."""
    holdout: Path | None = None
    """Hold-out that it was made with, if any."""
    embeddings: Path | None = None
    """Embeddings of the pool that it was made from, if any."""
    reference: Path | None = None
    """Embeddings of the reference set that it was made from, if any."""
    copies: Path | None = None
    """Embeddings of the pool by a copy detector that it was made from, if any."""
    avoid: Path | None = None
    """Embeddings of evaluation images that it was made from, if any."""


@settings
class DiffConfig:
    """Settings of prune.index diff."""

    left: tyro.conf.Positional[Path]
    """Subset index (Parquet)."""
    right: tyro.conf.Positional[Path]
    """Subset index (Parquet) to compare it with."""
    clusters: int = 20
    """Clusters to list, those that differ most first; 0: none."""


def show(argv: Sequence[str]) -> int:
    """Print the metadata and a summary of the rows."""
    config = parse(
        ShowConfig, argv, prog="python -m prune.index show", description="Describe a subset index."
    )
    from data.formats.index import read_index

    table, metadata = read_index(config.index)
    if config.json:
        print(json.dumps(metadata, indent=2, ensure_ascii=False))
        return 0
    import numpy as np

    from prune.subsets.select import describe

    print(f"{config.index}: {table.num_rows:,} images in {_distinct(table, 'shard'):,} shards")
    print(f"  {describe(metadata).rstrip(',')}")
    for name in ("params", "inputs", "encoder", "code"):
        print(f"  {name:9} {json.dumps(metadata[name], ensure_ascii=False)}")
    for name, unit in (("entropy", " bits"), ("similarity", "")):
        column = table.column(name).drop_null()
        if len(column):
            low, middle, high = np.quantile(column.to_numpy(), [0.0, 0.5, 1.0])
            print(f"  {name:9} {low:.4f} to {high:.4f}{unit}, median {middle:.4f}")
    cluster = table.column("cluster").to_numpy()
    if (cluster >= 0).any():
        sizes = np.bincount(cluster[cluster >= 0], minlength=metadata["counts"].get("K", 0))
        print(
            f"  clusters  {np.count_nonzero(sizes)} of {len(sizes)} hold images: "
            f"{sizes.min():,} to {sizes.max():,} each, median {np.median(sizes):,.0f}"
        )
    return 0


def verify(argv: Sequence[str]) -> int:
    """Derive the index again from its inputs and compare every row. Exit code 1: they differ."""
    config = parse(
        VerifyConfig,
        argv,
        prog="python -m prune.index verify",
        description="Derive a subset index again from its inputs and compare it row by row.",
    )
    from data.formats.index import canonical, read_index
    from prune.methods.catalogue import find
    from prune.subsets.select import Sources, derive

    table, metadata = read_index(config.index)
    recorded = metadata["inputs"]
    for name in sorted(set(recorded) - {"scores"}):
        if getattr(config, name) is None:
            raise UserError(f"{config.index} was made from {name}; give --{name}")
    sources = Sources.of(config, find(metadata["method"]))
    given = sources.fingerprints()
    if given != recorded:
        lines = [
            f"  {name}: {recorded.get(name, 'none')[:16]} recorded, {given.get(name, 'none')[:16]}"
            f" given ({getattr(config, name)})"
            for name in sorted(set(given) | set(recorded))
            if given.get(name) != recorded.get(name)
        ]
        raise UserError(
            f"{config.index} was made from other inputs than those given:\n" + "\n".join(lines)
        )
    rows, again = derive(metadata["method"], metadata["params"], sources)
    problems = [
        f"{name}: {metadata[name]} recorded, {again[name]} derived"
        for name in ("params", "encoder", "counts")
        if metadata[name] != again[name]
    ]
    problems += row_differences(table, canonical(rows))
    if config.holdout is not None:
        from data.curation.leakage import held_in_index

        held = held_in_index(config.index, config.holdout, config.scores)
        if held:
            problems.append(f"{len(held):,} held-out images are in it, for example '{held[0]}'")
    if problems:
        print(f"{config.index}: does NOT follow from its inputs")
        for problem in problems:
            print(f"  {problem}")
        return 1
    print(f"{config.index}: verified, all {table.num_rows:,} rows follow from its inputs")
    return 0


def row_differences(found: pa.Table, derived: pa.Table, limit: int = 5) -> list[str]:
    """How two tables of data.formats.index.SCHEMA, sorted by (shard, row), differ; [] if not."""
    import pyarrow.compute as pc

    if found.equals(derived):
        return []
    extra = _absent(found, derived)
    lacking = _absent(derived, found)
    lines = [
        f"{len(keys):,} images {what}, for example '{keys[0].as_py()}'"
        for keys, what in ((extra, "should not be in it"), (lacking, "are missing from it"))
        if len(keys)
    ]
    if lines:
        return lines
    by_key = pc.index_in(found.column("key"), value_set=derived.column("key").combine_chunks())
    aligned = derived.take(by_key)
    for name in found.column_names:
        left, right = found.column(name), aligned.column(name)
        same = pc.fill_null(pc.equal(left, right), False)
        both_null = pc.and_(pc.is_null(left), pc.is_null(right))
        odd = pc.indices_nonzero(pc.invert(pc.or_(same, both_null))).to_pylist()
        if odd:
            lines.append(f"column '{name}' differs in {len(odd):,} rows:")
            lines += [
                f"  {found.column('key')[i].as_py()}: {left[i].as_py()}, derived {right[i].as_py()}"
                for i in odd[:limit]
            ]
    return lines


def diff(argv: Sequence[str]) -> int:
    """Print what two indices share and where they differ. Exit code 1: other images."""
    config = parse(
        DiffConfig, argv, prog="python -m prune.index diff", description="Compare two indices."
    )
    import numpy as np

    from data.formats.index import read_index

    tables = [read_index(path)[0] for path in (config.left, config.right)]
    only = [_absent(tables[0], tables[1]), _absent(tables[1], tables[0])]
    shared = tables[0].num_rows - len(only[0])
    union = shared + len(only[0]) + len(only[1])
    print(
        f"left   {config.left}: {tables[0].num_rows:,} images, {len(only[0]):,} of them only here"
    )
    print(
        f"right  {config.right}: {tables[1].num_rows:,} images, {len(only[1]):,} of them only here"
    )
    print(f"shared {shared:,} images, {shared / union:.1%} of the union")
    clusters = [table.column("cluster").to_numpy() for table in tables]
    if config.clusters and all((c >= 0).all() for c in clusters):
        count = 1 + max(int(c.max()) for c in clusters)
        left, right = (np.bincount(c, minlength=count) for c in clusters)
        order = np.lexsort((np.arange(count), -np.abs(left - right)))
        order = order[(left != right)[order]][: config.clusters]
        if len(order):
            print(f"{'cluster':>9} {'left':>9} {'right':>9} {'difference':>11}")
        for k in order:
            print(f"{k:>9} {left[k]:>9,} {right[k]:>9,} {right[k] - left[k]:>+11,}")
        if len(order) == 0:
            print("every cluster holds equally many images in both")
    return 1 if len(only[0]) or len(only[1]) else 0


def _absent(table: pa.Table, other: pa.Table) -> pa.ChunkedArray:
    """Keys of `table` that `other` lacks."""
    import pyarrow.compute as pc

    there = pc.is_in(table.column("key"), value_set=other.column("key").combine_chunks())
    return table.column("key").filter(pc.invert(there))


def _distinct(table: pa.Table, name: str) -> int:
    import pyarrow.compute as pc

    return int(pc.count_distinct(table.column(name)).as_py())


def export(argv: Sequence[str]) -> int:
    """Write a subset for other tools."""
    from prune.subsets.export import export

    return export(argv)


COMMANDS: dict[str, Callable[[Sequence[str]], int]] = {
    "show": show,
    "verify": verify,
    "diff": diff,
    "export": export,
}


def main(argv: Sequence[str] | None = None) -> int | None:
    arguments = list(sys.argv[1:] if argv is None else argv)
    name = arguments[0] if arguments else ""
    if name in ("", "-h", "--help"):
        print(__doc__)
        return 0 if name else 2
    if name not in COMMANDS:
        raise UserError(f"prune.index {name}: no such command; there are {', '.join(COMMANDS)}")
    return COMMANDS[name](arguments[1:])
