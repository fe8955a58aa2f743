"""What a score table holds in a few numbers, and how a corpus differs from it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from core.hashing import hash_keys
from data.corpus.base import Corpus
from data.formats.tables import part_paths, read_part, write_part
from data.images.bands import SCALED

TOP = 5  # repeated digests that the summary names
REFUSED = 20  # refused files that it names


def summarise(folder: Path | str) -> dict[str, Any]:
    """Counts of a score table, read part by part.

    Returns:
        n, ok, rejected (reason -> count), bytes; copies (ok images beyond the first of their
        digest) and repeated: the digests that occur most often among ok images, at most TOP,
        each with its count and the first key. A placeholder that a download left in the place
        of many tiles shows here. Of a corpus of chips also rasters (files) and refused: those
        of which no chip is read, with the reason, the first REFUSED of them. Where there are any,
        notes: what was dropped or decided on ok images, with its count, the TOP most frequent;
        scaled: those of which a stated scale made 8 bits.
    """
    reasons: Counter[str] = Counter()
    notes: Counter[str] = Counter()
    rows = ok = size = 0
    prefixes = [np.empty(0, dtype=np.uint64)]
    chips: dict[str, Any] = {}
    for path in part_paths(folder):
        part = read_part(path, ["digest", "bytes", "status", "reason", "detail"])
        _count_rasters(path, chips)
        rows += part.num_rows
        size += pc.sum(part["bytes"]).as_py() or 0
        accepted = pc.equal(part["status"], "ok")
        ok += pc.sum(accepted).as_py() or 0
        reasons.update(part["reason"].filter(pc.invert(accepted)).to_pylist())
        notes.update(filter(None, part["detail"].filter(accepted).to_pylist()))
        # 64 of the digest's 256 bits are enough to count by, and fit in memory for any corpus.
        digests = part["digest"].filter(accepted).to_pylist()
        prefixes.append(np.array([int(digest[:16], 16) for digest in digests], dtype=np.uint64))
    values, counts = np.unique(np.concatenate(prefixes), return_counts=True)
    order = np.lexsort((values, -counts))[:TOP]
    wanted = {f"{values[i]:016x}": int(counts[i]) for i in order if counts[i] > 1}
    scaled = sum(count for note, count in notes.items() if SCALED in note)
    return {
        "n": rows,
        "ok": ok,
        "rejected": dict(sorted(reasons.items(), key=lambda item: (-item[1], item[0]))),
        "bytes": size,
        "copies": int((counts - 1).sum()),
        "repeated": _first_keys(folder, wanted),
        **({"scaled": scaled} if scaled else {}),
        **({"notes": dict(notes.most_common(TOP))} if notes else {}),
        **chips,
    }


def _count_rasters(path: Path, chips: dict[str, Any]) -> None:
    """Add a part's files, and which are refused, if it is one of chips."""
    if "window" not in pq.read_schema(path).names:
        return
    part = read_part(path, ["key", "window", "reason", "detail"])
    keys, windows = part["key"].to_pylist(), part["window"].is_valid().to_pylist()
    names = {key.rpartition("#")[0] if cut else key for key, cut in zip(keys, windows, strict=True)}
    refused = part.filter(part["window"].is_null()).select(["key", "reason", "detail"])
    known = chips.get("refused", [])
    chips["rasters"] = chips.get("rasters", 0) + len(names)
    chips["refused_rasters"] = chips.get("refused_rasters", 0) + refused.num_rows
    chips["refused"] = (known + refused.slice(0, REFUSED).to_pylist())[:REFUSED]


def _first_keys(folder: Path | str, wanted: dict[str, int]) -> list[dict[str, Any]]:
    found: dict[str, dict[str, Any]] = {}
    for path in part_paths(folder):
        if len(found) == len(wanted):
            break
        part = read_part(path, ["key", "digest", "status"])
        for key, digest, status in zip(
            *(part[n].to_pylist() for n in part.column_names), strict=True
        ):
            prefix = digest[:16] if status == "ok" else ""
            if prefix in wanted and prefix not in found:
                found[prefix] = {"digest": digest, "count": wanted[prefix], "key": key}
    return [found[prefix] for prefix in wanted]


def mark_duplicate_keys(folder: Path | str) -> int:
    """Reject every row whose key an earlier row has, in the parts themselves. Returns how many.

    Of rows with one key the first stays as it is. Doing it again changes nothing. Keys are
    compared by 64-bit hashes first (8 bytes a row in memory), then in full.
    """
    paths = part_paths(folder)
    hashes = [np.empty(0, dtype=np.uint64)]
    hashes += [hash_keys(read_part(path, ["key"])["key"], "duplicate keys") for path in paths]
    values, counts = np.unique(np.concatenate(hashes), return_counts=True)
    twice = values[counts > 1]
    if not len(twice):
        return 0
    first: dict[str, str] = {}
    marked = 0
    for index, (path, part_hashes) in enumerate(zip(paths, hashes[1:], strict=True)):
        suspects = np.flatnonzero(np.isin(part_hashes, twice)).tolist()
        if not suspects:
            continue
        part = read_part(path)
        rows = part.take(suspects).select(["key", "shard", "row"]).to_pylist()
        again: dict[int, str] = {}
        for place, row in zip(suspects, rows, strict=True):
            where = f"row {row['row']:,} of {row['shard']}"
            if first.setdefault(row["key"], where) != where:
                again[place] = f"the name of {first[row['key']]}"
        if again:
            write_part(folder, index, _rejected(part, again), part.schema)
            marked += len(again)
    return marked


def _rejected(part: pa.Table, again: dict[int, str]) -> pa.Table:
    """A part with the rows at some places rejected, each with its detail."""
    columns = {name: part[name].to_pylist() for name in ("status", "reason", "detail", "entropy")}
    for place, detail in again.items():
        columns["status"][place], columns["reason"][place] = "rejected", "duplicate-key"
        columns["detail"][place], columns["entropy"][place] = detail, None
    for name, values in columns.items():
        at = part.schema.get_field_index(name)
        field = part.schema.field(at)
        part = part.set_column(at, field, pa.array(values, field.type))
    return part


def one_line(summary: dict[str, Any]) -> str:
    """The summary for a human."""
    rejected = summary["rejected"]
    what = "files" if "rasters" not in summary else f"chips of {summary['rasters']:,} files"
    parts = [f"{summary['n']:,} {what} ({summary['bytes'] / 1e6:,.1f} MB): {summary['ok']:,} ok"]
    reasons = ", ".join(f"{reason} {count:,}" for reason, count in rejected.items())
    count = sum(rejected.values())
    parts.append(f"{count:,} rejected ({reasons})" if count else "none rejected")
    if summary["copies"]:
        top = summary["repeated"][0]
        parts.append(
            f"{summary['copies']:,} exact copies (most often, {top['count']:,} times: {top['key']})"
        )
    return ", ".join(parts)


def first_reject(folder: Path | str) -> str:
    """Why the first rejected row of a score table is, as ' (the first: KEY: REASON: DETAIL)'."""
    for path in part_paths(folder):
        part = read_part(path, ["key", "status", "reason", "detail"])
        for row in part.filter(pc.not_equal(part["status"], "ok")).slice(0, 1).to_pylist():
            return f" (the first: {row['key']}: {row['reason']}: {row['detail']})"
    return ""


def remarks(facts: Mapping[str, Any], summary: Mapping[str, Any]) -> list[str]:
    """Lines on how the corpus was read: what was left out, the scale, what images had dropped."""
    lines = []
    if left_out := facts.get("left_out"):
        kinds = ", ".join(f"{kind} {count:,}" for kind, count in sorted(left_out.items()))
        lines.append(f"{sum(left_out.values()):,} files are no images of it, left out: {kinds}")
    if scale := facts.get("scale"):
        low, high = (f"{value:.12g}" for value in scale)
        lines.append(
            f"{summary['scaled']:,} images are scaled: {low} to 0, {high} to 255 "
            f"(?scale={low},{high})"
            if summary.get("scaled")
            else f"no image was scaled by ?scale={low},{high}, which leaves 8-bit values alone"
        )
    if notes := summary.get("notes"):
        counted = "; ".join(f"{count:,} x {note}" for note, count in notes.items())
        lines.append(f"noted: {counted}")
    return lines


def refusals(summary: dict[str, Any], most: int = 5) -> str:
    """A line for each file that was refused, '' where there is none."""
    lines = [
        f"  refused: {entry['key']}: {entry['reason']}: {entry['detail']}"
        for entry in summary.get("refused", [])[:most]
    ]
    more = summary.get("refused_rasters", 0) - len(lines)
    return "\n".join([*lines, f"  and {more:,} more"] if more > 0 else lines)


def changes(folder: Path | str, corpus: Corpus) -> str:
    """How a corpus differs from the parts of the score table that are there."""
    before: dict[str, int] = {}
    parts = sorted(Path(folder).glob("part-*.parquet"))
    for path in parts:
        part = read_part(path, ["key", "bytes", "digest"])
        readable = part["digest"].is_valid().to_pylist()
        sizes = part["bytes"].to_pylist()
        for key, size, known in zip(part["key"].to_pylist(), sizes, readable, strict=True):
            before[key] = size if known else -1
    now = dict(corpus.listing())
    kinds = {
        "new": [key for key in now if key not in before],
        "gone": [key for key in before if key not in now],
        "of another size": [k for k, size in before.items() if size not in (-1, now.get(k, size))],
    }
    found = [f"{len(keys):,} {kind} (first '{keys[0]}')" for kind, keys in kinds.items() if keys]
    return "; ".join(found) or "its listing differs"
