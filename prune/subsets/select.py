"""Subset indices from the stages' files: which images to train on."""

from __future__ import annotations

import dataclasses
import functools
import itertools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from core.errors import UserError
from core.stage import DoneElsewhere, Result, code_version, read_manifest
from data.curation.holdout import in_pool, read_holdout
from data.formats.index import by_place, shard_places, write_index
from data.formats.join import rows_of
from data.formats.tables import read_parts
from prune.methods.allocation import budget
from prune.methods.base import Method, Request
from prune.methods.catalogue import find
from prune.subsets.config import HOW, SelectConfig, fingerprints
from prune.subsets.copies import binary_digests, is_copy


def select(config: SelectConfig) -> Result:
    """Write the subset index of each ratio that is not there yet."""
    method = find(config.method)
    for name in HOW:
        if getattr(config, name) is not None and name not in method.reads:
            print(f"[prune.select] note: the method {config.method} makes no use of --{name}")
    stages = config.stages()
    left = [stage for stage in stages if not stage.done()]
    files = config.files(method)

    @functools.cache
    def request() -> tuple[Request, dict[str, Any] | None]:  # the same for all ratios
        params = {k: v for k, v in left[0].params.items() if k not in ("method", "ratio")}
        return read_request(method, params, files)

    lines = []
    for stage in left:
        try:
            stage.open()
            params = {key: value for key, value in stage.params.items() if key != "method"}
            rows, metadata = derive(method, params, files, *request())
            metadata["code"] = code_version()
            write_index(stage.out, rows, metadata)
            lines.append(describe(metadata))
            stage.finish(metadata, [stage.out.name], line=lines[-1])
        except DoneElsewhere:
            continue
        finally:
            stage.abandon()
    made = {str(stage.out): stage.result().summary for stage in stages}
    summary = made if len(made) > 1 else next(iter(made.values()))
    out = config.out if len(made) > 1 else next(iter(stages)).out
    return Result(out, summary, "\n".join(lines), reused=not left)


def derive(
    method: Method,
    params: Mapping[str, Any],
    files: Mapping[str, Path],
    request: Request,
    encoder: dict[str, Any] | None,
) -> tuple[pa.Table, dict[str, Any]]:
    """Rows of the subset and the index's metadata (without the code version).

    Args:
        method: how they are chosen.
        params: its settings, as `Method.settings` gives them.
        files: its inputs, by name.
        request, encoder: of `read_request`.

    A pure function of the files' contents: the same inputs give the same rows.
    """
    total, distinct = request.total, request.pool.num_rows
    ratio = params.get("ratio")
    size = distinct if ratio is None else budget(total, ratio)
    if size == 0:
        raise UserError(f"--ratio {ratio} of {total:,} images leaves none of them; lower the ratio")
    if size > distinct:
        raise UserError(
            f"--ratio {ratio} of {total:,} images leaves {size:,}, but only {distinct:,} are no "
            "copies of another; raise the ratio, or leave --drop-copies out"
        )
    rows, counts = method.choose(dataclasses.replace(request, size=size))
    if params.get("drop_copies"):
        counts["copies_dropped"] = total - distinct
    rows = with_digests(rows, files["scores"])
    return rows, {
        "method": method.name,
        "params": dict(params),
        "inputs": fingerprints(files),
        "encoder": encoder,
        "counts": {"N": total, "B": size, **counts},
        "copies": rows.num_rows - pc.count_distinct(rows.column("digest")).as_py(),
    }


def read_request(
    method: Method, params: Mapping[str, Any], files: Mapping[str, Path]
) -> tuple[Request, dict[str, Any] | None]:
    """What the method may look at, without a size, and the encoder's fingerprint."""
    held = read_holdout(files["holdout"]) if "holdout" in files else None
    wanted = ["key", "shard", "row", "entropy", *method.columns]
    drop = bool(params.get("drop_copies"))
    # Copies, also of held-out images, are found by their digest.
    more = {"status", *(("digest",) if drop or held is not None else ())} - set(wanted)

    def pooled(part: pa.Table) -> pa.Table:
        rows = part.filter(in_pool(part, held))
        more = {"digest_bytes": binary_digests(rows["digest"])} if drop else {}
        return pa.table({**{name: rows[name] for name in wanted}, **more})

    pool = read_parts(
        files["scores"], [*wanted, *sorted(more)], dictionary=["shard", "status"], each=pooled
    )
    if pool.num_rows == 0:
        raise UserError(f"{files['scores']}: no readable image is left in the pool")
    whole = None
    if drop:
        copy = pa.array(is_copy(pool["key"], pool["digest_bytes"]))
        whole = pool.drop_columns(["digest_bytes"]).append_column("copy", copy)
        pool = whole.filter(pc.invert(copy)).drop_columns(["copy"]).combine_chunks()
    common = {key: params[key] for key in ("keep", "seed") if key in params}
    apart = ("ratio", "drop_copies", *common)
    own = {key: value for key, value in params.items() if key not in apart}
    request = Request(pool=pool, whole=whole, size=0, files=files, options=own, **common)
    encoder = None
    if "embeddings" in files:
        encoder = read_manifest(files["embeddings"])["summary"]["encoder"]
    if "assignments" in files:
        manifest = read_manifest(files["assignments"])
        summary = manifest["summary"]
        encoder = summary["encoder"]
        centroids = dict(summary.get("centroids", {}))
        embeddings = manifest["inputs"].get("embeddings")
        centroids["own"] = embeddings is not None and centroids.get("embeddings") == embeddings
        request = dataclasses.replace(
            request,
            assignments=read_parts(
                files["assignments"],
                columns=["key", "shard", "row", "cluster", "similarity"],
                dictionary=["shard"],
                chunked=True,
            ),
            clusters=int(summary["clusters"]),
            centroids=centroids,
        )
    return request, encoder


def with_digests(rows: pa.Table, scores: Path) -> pa.Table:
    """The rows of a subset [B], by place, with the digest each image had when it was scored.

    The digests are most of a score table's bytes: of each part those of chosen rows alone stay.
    """
    rows = by_place(rows)  # the order of the parts too, so that the join below moves nothing
    place, shards = shard_places(rows.column("shard"))
    row = rows.column("row").to_numpy()
    bounds = np.searchsorted(place, np.arange(len(shards) + 1))
    wanted = {
        shard: row[start:end]
        for shard, (start, end) in zip(shards, itertools.pairwise(bounds), strict=True)
    }

    def chosen(part: pa.Table) -> pa.Table:
        codes, names = shard_places(part.column("shard"))
        here = part.column("row").to_numpy()
        mask = np.zeros(len(here), bool)
        for code, shard in enumerate(names):
            mask |= (codes == code) & np.isin(here, wanted.get(shard, ()))
        return part.filter(pa.array(mask))

    columns = ["key", "shard", "row", "digest"]
    found = read_parts(scores, columns, dictionary=["shard"], each=chosen, chunked=True)
    at = rows_of(
        rows, found, str(scores), lambda _, key: f"{scores}: has changed: '{key}' is missing"
    )
    digests = found.column("digest")
    if not np.array_equal(at, np.arange(len(digests))):
        digests = digests.take(pa.array(at))
    return rows.append_column("digest", digests)


def describe(metadata: Mapping[str, Any]) -> str:
    """One line on a subset: its size and, for quotas, where its rows came from."""
    counts = metadata["counts"]
    line = f"{metadata['method']}: {counts['B']:,} of {counts['N']:,} images"
    if (dropped := counts.get("copies_dropped")) is not None:
        line += f" ({dropped:,} byte-identical copies left out)"
    elif copies := metadata.get("copies"):
        line += f" ({copies:,} of them byte-identical copies of others; --drop-copies leaves out)"
    if counts.get("q") == 0:
        line += (
            f": BALANCING IS OFF, since K = {counts['K']:,} clusters share {counts['B']:,} images "
            f"(q = 0) and all are taken by the global order; give at most {counts['B']:,} clusters "
            f"(prune.centroids --clusters {max(1, counts['B'] // 10):,}: about ten images each)"
        )
    if "quota_rows" in counts:
        quota = f"q = {counts['q']:,}, " if "q" in counts else ""
        line += (
            f", {counts['quota_rows']:,} by quota ({quota}K = {counts['K']}) and "
            f"{counts['remainder_rows']:,} ({counts['remainder_rows'] / counts['B']:.1%}) from "
            f"the global remainder; {counts['small_clusters']} clusters below the quota, "
            f"{counts['empty_clusters']} of them empty,"
        )
    return line
