"""What a subset index holds, whether it follows from its inputs, and how two of them differ."""

from __future__ import annotations

import json

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from core.errors import UserError
from core.stage import Result
from data.curation.leakage import held_in_index
from data.formats.index import canonical, read_index
from prune.methods.catalogue import find
from prune.subsets.config import DiffConfig, ShowConfig, VerifyConfig, fingerprints
from prune.subsets.select import derive, describe, read_request


def show(config: ShowConfig) -> Result:
    """Print the metadata and a summary of the rows. The result's summary is the metadata."""
    table, metadata = read_index(config.index)
    result = Result(config.index, metadata)
    if config.json:
        print(json.dumps(metadata, indent=2, ensure_ascii=False))
        return result
    shards = pc.count_distinct(table.column("shard")).as_py()
    print(f"{config.index}: {table.num_rows:,} images in {shards:,} shards")
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
    return result


def verify(config: VerifyConfig) -> Result:
    """Derive the index again from its inputs and compare every row. Exit code 1: they differ.

    The result's summary lists the problems. Raises UserError for inputs that it was not made from.
    """
    table, metadata = read_index(config.index)
    recorded = metadata["inputs"]
    for name in sorted(recorded):
        if getattr(config, name, None) is None:
            raise UserError(f"{config.index} was made from {name}; give --{name}")
    method = find(metadata["method"])
    files = config.files(method)
    given = fingerprints(files)
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
    params = metadata["params"]
    rows, again = derive(method, params, files, *read_request(method, params, files))
    problems = [
        f"{name}: {metadata[name]} recorded, {again[name]} derived"
        for name in ("params", "encoder", "counts")
        if metadata[name] != again[name]
    ]
    problems += row_differences(table, canonical(rows))
    if config.holdout is not None:
        held = held_in_index(config.index, config.holdout, config.scores)
        if held:
            problems.append(f"{len(held):,} held-out images are in it, for example '{held[0]}'")
    if problems:
        print("\n  ".join([f"{config.index}: does NOT follow from its inputs", *problems]))
    else:
        but = " (it has no digests to compare)" if _without_digests(table) else ""
        print(f"{config.index}: verified, all {table.num_rows:,} rows follow from its inputs{but}")
    return Result(config.index, {"problems": problems}, exit_code=1 if problems else 0)


def row_differences(found: pa.Table, derived: pa.Table, limit: int = 5) -> list[str]:
    """How two tables of data.formats.index.SCHEMA, sorted by (shard, row), differ; [] if not.

    Digests are left out where `found` has none at all, as an index of version 0.1.
    """
    if _without_digests(found):
        found, derived = (table.drop_columns(["digest"]) for table in (found, derived))
    if found.equals(derived):
        return []
    lines = [
        f"{len(keys):,} images {what}, for example '{keys[0].as_py()}'"
        for keys, what in (
            (_absent(found, derived), "should not be in it"),
            (_absent(derived, found), "are missing from it"),
        )
        if len(keys)
    ]
    if lines:
        return lines
    aligned = _aligned(derived, found)
    for name in found.column_names:
        if found[name].equals(aligned[name]):
            continue
        columns = (found["key"], found[name], aligned[name])
        rows = zip(*(column.to_pylist() for column in columns), strict=True)
        odd = [f"  {key}: {here}, derived {there}" for key, here, there in rows if here != there]
        lines += [f"column '{name}' differs in {len(odd):,} rows:", *odd[:limit]]
    return lines


def diff(config: DiffConfig) -> Result:
    """Print what two indices share and where they differ. Exit code 1: other images.

    An image of the same name with another digest is another image.
    """
    left, right = (read_index(path)[0] for path in (config.left, config.right))
    only_left, only_right = len(_absent(left, right)), len(_absent(right, left))
    shared = left.num_rows - only_left
    both = left.filter(pc.is_in(left["key"], value_set=right["key"].combine_chunks()))
    other_bytes = pc.sum(pc.not_equal(both["digest"], _aligned(right, both)["digest"])).as_py() or 0
    print(f"left   {config.left}: {left.num_rows:,} images, {only_left:,} of them only here")
    print(f"right  {config.right}: {right.num_rows:,} images, {only_right:,} of them only here")
    union = shared + only_left + only_right
    print(f"shared {shared:,} images, {shared / union:.1%} of the union")
    if other_bytes:
        print(f"       {other_bytes:,} of them with other bytes (digest) on either side")
    clusters = [table.column("cluster").to_numpy() for table in (left, right)]
    if config.clusters and all((c >= 0).all() for c in clusters):
        count = 1 + max(int(c.max()) for c in clusters)
        here, there = (np.bincount(c, minlength=count) for c in clusters)
        order = np.lexsort((np.arange(count), -np.abs(here - there)))
        order = order[(here != there)[order]][: config.clusters]
        if len(order):
            print(f"{'cluster':>9} {'left':>9} {'right':>9} {'difference':>11}")
        else:
            print("every cluster holds equally many images in both")
        for k in order:
            print(f"{k:>9} {here[k]:>9,} {there[k]:>9,} {there[k] - here[k]:>+11,}")
    counts = {"shared": shared, "left": only_left, "right": only_right, "bytes": other_bytes}
    return Result(config.left, counts, exit_code=1 if only_left or only_right or other_bytes else 0)


def _without_digests(table: pa.Table) -> bool:
    return table.column("digest").null_count == table.num_rows


def _absent(table: pa.Table, other: pa.Table) -> pa.ChunkedArray:
    """Keys of `table` that `other` lacks."""
    there = pc.is_in(table.column("key"), value_set=other.column("key").combine_chunks())
    return table.column("key").filter(pc.invert(there))


def _aligned(table: pa.Table, to: pa.Table) -> pa.Table:
    """The rows of `table` with the keys of `to`, all of which it has, in their order."""
    return table.take(pc.index_in(to.column("key"), value_set=table.column("key").combine_chunks()))
