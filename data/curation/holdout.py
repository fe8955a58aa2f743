"""The hold-outs: real images set aside before any pruning, under three fixed names.

A subset that a pruner chose must not be judged against real images that it, or another pruner,
could have chosen too. So N images of each kind are drawn first, by a hash of seed and key; they,
and every exact copy of them, leave the pool; of chips also those that show the same ground on
another date (data.formats.places), which are in the file too, in no hold-out. The pool that
remains is the "original N" of which pruning ratios are fractions.

    pool          uniformly from all usable images: what the corpus is, with its long tail
    balanced      equally from every scene class, by labels or by the nearest reference class
    informative   uniformly from what Stage I would keep, and of that the better half by the
                  corpus's own quality score where it has one

Which of them a subset is judged against can decide the sign of a comparison: a subset like the
pool is near the pool, one of textured images near the informative. The paper judges against 5,000
"high-quality" real images and does not say how they were chosen, so every table shows all three.
An image may be in several; the hash is the same for all, so the draws share what they can.
"""

from __future__ import annotations

import dataclasses
import hashlib
import heapq
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import parquet

from core.errors import UserError
from core.manifest import verify_file
from core.stage import Result, Stage
from data.curation.config import HOLDOUTS, HoldoutConfig
from data.formats.embeddings import Embeddings
from data.formats.names import read_labels
from data.formats.places import COLUMNS as PLACE
from data.formats.places import overlapping
from data.formats.tables import part_paths, read_part, read_parts, write_table

COLUMNS = ["key", "shard", "row", "digest"]
HELD = pa.schema(
    [
        *(pa.field(name, pa.string()) for name in ("key", "shard")),
        pa.field("row", pa.int64()),
        pa.field("digest", pa.string()),
        *(pa.field(name, pa.bool_()) for name in HOLDOUTS),
        pa.field("class", pa.string()),
    ]
)
"""A hold-out file. A row in none of HOLDOUTS only leaves the pool: it shows the ground of one held
out, or is near one (data.leakage --drop)."""


def draw(keys: Sequence[str], n: int, seed: int) -> list[int]:
    """Places of the n keys with the smallest sha256(f"{seed}|{key}"), smallest first.

    Adding other keys, or asking for more, never reorders what was drawn.
    """
    prefix = f"{seed}|"
    hashed = ((hashlib.sha256((prefix + key).encode()).digest(), i) for i, key in enumerate(keys))
    return [i for _, i in heapq.nsmallest(n, hashed)]


def pool(scores: pa.Table, holdout: pa.Table | None = None) -> pa.Table:
    """The rows that a pruner may choose from: ok, not held out, no copy of one held out.

    Args:
        scores: score table (columns key, digest and status at least).
        holdout: hold-out table (columns key and digest), or None.

    Returns:
        the remaining rows with all their columns, in order. Their number is the original N.
    """
    return scores.filter(in_pool(scores, holdout))


def in_pool(scores: pa.Table, holdout: pa.Table | None = None) -> pa.ChunkedArray:
    """For each row of a score table whether it is in the pool (see `pool`)."""
    keep = pc.equal(scores["status"], "ok")
    if holdout is not None:
        for column in ("key", "digest"):
            held = pc.is_in(scores[column], value_set=holdout[column].combine_chunks())
            keep = pc.and_(keep, pc.invert(held))
    return keep


def read_holdout(path: Path | str, name: str | None = None) -> pa.Table:
    """The rows of one hold-out, or of all: key, shard, row, digest, class (text or null).

    Args:
        name: one of HOLDOUTS; None for every image that leaves the pool. A file of earlier
            versions, which names none, is the pool hold-out.

    Raises UserError if the file is none, damaged, or has no hold-out of that name.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"{path}: no such file; make it with python -m data.holdout")
    verify_file(path)
    table = read_part(path)
    missing = [column for column in COLUMNS if column not in table.column_names]
    if missing:
        raise UserError(f"{path}: no hold-out of data.holdout (without {', '.join(missing)})")
    if "class" not in table.column_names:
        table = table.append_column("class", pa.nulls(table.num_rows, pa.string()))
    if name is not None:
        if name in table.column_names:
            table = table.filter(table[name])
        elif name != "pool":
            table = table.slice(0, 0)
        if not table.num_rows:
            raise UserError(
                f"{path}: no '{name}' hold-out in it ({_there(path)}); make it again with "
                "python -m data.holdout"
            )
    return table.select([*COLUMNS, "class"])


def read_named(path: Path | str) -> pa.Table:
    """The rows that are in a hold-out, each once: what only leaves the pool is not among them."""
    table = read_holdout(path)
    keys = [read_holdout(path, name)["key"] for name in holdout_names(path)]
    named = pa.chunked_array([c for key in keys for c in key.chunks], pa.string())
    return table.filter(pc.is_in(table["key"], value_set=named.combine_chunks()))


def holdout_names(path: Path | str) -> tuple[str, ...]:
    """Which of HOLDOUTS a file has, in that order. Raises UserError as read_holdout does."""
    path = Path(path)
    everything = read_holdout(path)
    table = read_part(path)
    if not set(HOLDOUTS) & set(table.column_names):
        return ("pool",) if everything.num_rows else ()
    there = (name for name in HOLDOUTS if name in table.column_names)
    return tuple(name for name in there if pc.any(table[name]).as_py())


def _there(path: Path) -> str:
    return f"it has {', '.join(holdout_names(path)) or 'none'}"


def hold_out(config: HoldoutConfig, stage: Stage) -> Result:
    """Write the hold-outs: drawn from a score table, or joined of other files."""
    if config.join:
        held = _joined(config.join)
        summary: dict[str, Any] = {"held": held.num_rows}
        line = f"{held.num_rows:,} images of {len(config.join)} files"
    else:
        held, summary, line = _drawn(config)
    stage.open()
    write_table(stage.out, held)
    return stage.finish(summary, [stage.out.name], line)


def _joined(paths: Sequence[Path]) -> pa.Table:
    """The images of several files, each once, in each hold-out that any of them puts it in."""
    rows: dict[str, dict[str, Any]] = {}
    for path in paths:
        names = {name: set(read_holdout(path, name)["key"].to_pylist())
                 for name in holdout_names(path)}  # fmt: skip
        for row in read_holdout(path).to_pylist():
            entry = rows.setdefault(row["key"], {**row, **dict.fromkeys(HOLDOUTS, False)})
            entry["class"] = entry["class"] or row["class"]
            for name, keys in names.items():
                entry[name] |= row["key"] in keys
    return pa.Table.from_pylist(list(rows.values()), schema=HELD)


def _drawn(config: HoldoutConfig) -> tuple[pa.Table, dict[str, Any], str]:
    """(held-out rows, summary, line). Raises UserError when too few images are there."""
    assert config.scores is not None
    there = parquet.read_schema(part_paths(config.scores)[0]).names
    wanted = [*COLUMNS, "status", "entropy", *(["quality"] if "quality" in there else [])]
    chips = set(PLACE) <= set(there)
    wanted += PLACE if chips else ()
    scores = read_parts(config.scores, wanted)
    accepted = pool(scores)
    keys = accepted["key"].to_pylist()
    config = _at_most(config, len(keys))
    if config.n >= len(keys):
        raise UserError(
            f"--n {config.n}: {config.scores} has {len(keys):,} usable images, and some must "
            "remain to prune; choose a smaller --n"
        )

    def first(places: Sequence[int], n: int) -> list[int]:
        return [places[i] for i in draw([keys[place] for place in places], n, config.seed)]

    summary: dict[str, Any] = {}
    chosen: dict[str, list[int]] = {}
    classes = _classes(config, keys) if "balanced" in config.kinds() else {}
    for name in config.kinds():
        if name == "pool":
            chosen[name] = draw(keys, config.n, config.seed)
        elif name == "balanced":
            members: dict[str, list[int]] = {}
            for place, key in enumerate(keys):
                if key in classes:
                    members.setdefault(classes[key], []).append(place)
            quotas = balanced_quotas(config.n, {label: len(m) for label, m in members.items()})
            drawn = [first(members[label], quota) for label, quota in quotas.items()]
            chosen[name] = [place for part in drawn for place in part]
            summary["classes"] = {label: quotas[label] for label in sorted(quotas)}
        else:
            good, summary["informative"] = _informative(config, accepted)
            chosen[name] = first(good, config.n)

    places = sorted({place for part in chosen.values() for place in part})
    places = first(places, len(places))
    held = accepted.take(places).select(COLUMNS)
    for name in HOLDOUTS:
        member = set(chosen.get(name, ()))
        held = held.append_column(name, pa.array([place in member for place in places]))
    labels = [classes.get(keys[place]) or None for place in places]
    held = held.append_column("class", pa.array(labels, pa.string())).select(HELD.names).cast(HELD)
    ground = _same_ground(accepted, places) if chips else held.slice(0, 0)
    held = pa.concat_tables([held, ground])
    left = pool(scores, held).num_rows
    also = f", and {ground.num_rows:,} show their ground on other dates" if chips else ""
    if not left:
        raise UserError(
            f"--n {config.n}: all {len(keys):,} usable images of {config.scores} are held out or "
            f"copies of such{also}, and some must remain to prune; choose a smaller --n"
        )
    copies = len(keys) - len(places) - ground.num_rows - left
    counts = {"held": len(places), "copies": copies}
    summary = {**counts, **({"ground": ground.num_rows} if chips else {}), "pool": left, **summary}
    line = f"{config.n:,} images each of {', '.join(chosen)} held out ({len(places):,} in all), "
    line += f"{copies:,} exact copies of them dropped, "
    if ground.num_rows:
        line += f"{ground.num_rows:,} chips of the same ground on other dates dropped, "
    line += f"{left:,} remain"
    if 2 * left < len(keys):
        line += f" of {len(keys):,}, less than half: a smaller --n leaves more to prune"
    if "classes" in summary:
        line += _uneven(summary["classes"])
    return held, summary, line


def _at_most(config: HoldoutConfig, usable: int) -> HoldoutConfig:
    """The settings with as many images as --at-most lets of so many usable ones."""
    n = config.n if config.at_most is None else max(1, int(config.at_most * usable))
    if n >= config.n:
        return config
    print(
        f"WARNING: hold-outs of {n:,} images, not of {config.n:,}: {config.scores} has {usable:,} "
        f"usable images, and --at-most {config.at_most} of them leave the pool for each; distances "
        "of so few are rough",
        file=sys.stderr, flush=True,
    )  # fmt: skip
    return dataclasses.replace(config, n=n)


def _same_ground(accepted: pa.Table, places: Sequence[int]) -> pa.Table:
    """The rows, in no hold-out, that show ground of those at some places on other dates."""
    chosen = np.zeros(accepted.num_rows, np.bool_)
    chosen[places] = True
    rows = accepted.filter(pa.array(overlapping(accepted, chosen))).select(COLUMNS)
    for name in HOLDOUTS:
        rows = rows.append_column(name, pa.array(np.zeros(rows.num_rows, np.bool_)))
    return rows.append_column("class", pa.nulls(rows.num_rows, pa.string())).cast(HELD)


def balanced_quotas(n: int, sizes: Mapping[str, int]) -> dict[str, int]:
    """How many images of each class make n in as equal parts as can be.

    Of no class is more than half taken, since what is held out cannot be learned; what a rare
    class lacks the others give in equal parts. Raises UserError when the halves are fewer than n.

    Args:
        sizes: usable images of each class.
    """
    rooms = {label: size // 2 for label, size in sorted(sizes.items())}
    if sum(rooms.values()) < n:
        raise UserError(
            f"--n {n}: at most {sum(rooms.values()):,} images can be held out balanced over "
            f"{len(rooms)} classes (half of each, of {sum(sizes.values()):,} images with a "
            "class); choose a smaller --n, or give more labels"
        )
    share = 0
    while sum(min(share + 1, room) for room in rooms.values()) <= n:
        share += 1
    quotas = {label: min(share, room) for label, room in rooms.items()}
    roomy = [label for label, room in rooms.items() if room > share]
    for label in roomy[: n - sum(quotas.values())]:
        quotas[label] += 1
    return quotas


def _informative(config: HoldoutConfig, accepted: pa.Table) -> tuple[list[int], dict[str, Any]]:
    """(places of the informative images, n at least; what the rule came to)."""
    entropy = np.asarray(accepted["entropy"].to_pylist(), dtype=np.float64)
    kept = max(1, int(config.informative_keep * len(entropy)))
    tau = float(np.sort(entropy)[-kept])
    good = entropy >= tau
    rule: dict[str, Any] = {"keep": config.informative_keep, "tau": tau}
    if "quality" in accepted.column_names:
        quality = np.asarray(accepted["quality"].to_pylist(), dtype=np.float64)  # None: nan
        if np.isfinite(quality[good]).any():
            rule["quality"] = float(np.nanmedian(quality[good]))
            good &= quality >= rule["quality"]
    if good.sum() < config.n:
        raise UserError(
            f"--n {config.n}: {int(good.sum()):,} of {len(entropy):,} images are informative "
            f"({', '.join(f'{name} {value:.4g}' for name, value in rule.items())}); choose a "
            "smaller --n or a larger --informative-keep"
        )
    return np.flatnonzero(good).tolist(), rule


def _classes(config: HoldoutConfig, keys: Sequence[str]) -> dict[str, str]:
    """The class of each image that has one, by the labels given or the nearest reference class."""
    if config.labels == "folders":
        parts = {key: key.replace("::", "/").split("/") for key in keys}
        found = {key: names[-2] if len(names) > 1 else "" for key, names in parts.items()}
        where = "--labels folders"
    elif config.labels is not None:
        table = read_labels(Path(config.labels))
        labels = ["" if label is None else str(label) for label in table["label"].to_pylist()]
        found = dict(zip(table["key"].to_pylist(), labels, strict=True))
        where = f"--labels {config.labels}"
    else:
        assert config.embeddings is not None and config.reference is not None
        found = nearest_classes(Embeddings(config.embeddings), Embeddings(config.reference))
        where = f"--embeddings {config.embeddings}"
    classes = {key: found[key] for key in keys if found.get(key)}
    if len({*classes.values()}) < 2:
        raise UserError(
            f"{where}: gives {len(classes):,} of the {len(keys):,} usable images a class, and "
            f"{len({*classes.values()})} classes; a balanced hold-out needs two at least"
        )
    return classes


def nearest_classes(images: Embeddings, reference: Embeddings, k: int = 5) -> dict[str, str]:
    """Key -> the class of most of its k nearest reference images by cosine; ties by similarity.

    Raises UserError for embeddings of two encoders, or a reference without labels.
    """
    if images.encoder != reference.encoder:
        raise UserError(
            f"{images.folder} and {reference.folder} are of different encoders; embed both alike"
        )
    table = reference.table()
    if "label" not in table.column_names:
        raise UserError(f"{reference.folder}: no labels in it; give prune.embed --reference's")
    names, labels = np.unique(table["label"].to_pylist(), return_inverse=True)
    known, k = reference.matrix(), min(k, len(reference))
    found: dict[str, str] = {}
    for array, part in images.parts():
        keys = part["key"].to_pylist()
        for start in range(0, len(keys), 512):
            cosine = np.asarray(array[start : start + 512], np.float32) @ known.T
            near = np.argpartition(-cosine, k - 1, axis=1)[:, :k]
            weight = 1 + np.take_along_axis(cosine, near, axis=1) / (4 * k)  # count, then nearness
            votes = np.zeros((len(cosine), len(names)))
            rows = np.repeat(np.arange(len(cosine)), k)
            np.add.at(votes, (rows, labels[near].ravel()), weight.ravel())
            best = names[votes.argmax(axis=1)].tolist()
            found.update(zip(keys[start : start + 512], best, strict=True))
    return found


def _uneven(counts: Mapping[str, int]) -> str:
    """Which classes of a balanced hold-out are short, in words."""
    full = max(counts.values())
    short = [f"{label} {count}" for label, count in counts.items() if count < full - 1]
    if not short:
        return f"; balanced: {len(counts)} classes, {min(counts.values())} or {full} each"
    return f"; balanced: {len(counts)} classes, {full} each but for {', '.join(short)}"
