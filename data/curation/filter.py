"""Rules on a score table: a new table with more rows rejected, each with the rule it fails.

Nothing is decoded again, and nothing is thrown away: the table that comes out has the same rows,
stands wherever a score table can stand, and its summary counts each rule. An image is counted
under the first rule that it fails, in this order:

    (decodes)   the score's own rejects stay as they are
    not-rgb     one band
    too-small   shorter side below --min-side
    too-long    longer side more than --max-aspect times the shorter
    saturated   more than --max-clipped of its pixels are black or white (grey 0 or 255)
    border      more than --max-border of its pixels are a black collar (data.images.border)
    blank       entropy below --min-entropy
    copy        the same bytes as an image before it that passed all of the above

The defaults are for the 1.04 million images of RS5M that the paper trains on. It gives their
number and no rule, so these are this project's; change them in the open, by flags.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

import pyarrow as pa

from core.errors import UserError
from core.stage import Result, Stage, read_manifest
from data.curation.config import FilterConfig
from data.formats.tables import part_path, part_paths, read_part, write_part

RULES = ("not-rgb", "too-small", "too-long", "saturated", "border", "blank", "copy")


def filter_scores(config: FilterConfig, stage: Stage) -> Result:
    """Write the score table with the rules applied, part by part."""
    paths = part_paths(config.scores)
    names = read_part(paths[0]).schema.names
    _check_columns(config, names)
    unknown = 0 <= config.max_border < 1 and "border" not in names
    stage.open()
    seen: set[bytes] = set()
    counts: Counter[str] = Counter()
    for index, path in enumerate(paths):
        part = read_part(path)
        filtered = apply(part, config, seen)
        counts.update(filtered["reason"].to_pylist())
        write_part(config.out, index, filtered, part.schema)
    rows = sum(counts.values())
    ok = counts.pop("", 0)
    if not ok:
        raise UserError(f"{config.scores}: no image passes ({_counted(counts)})")
    summary = {
        "n": rows,
        "ok": ok,
        "rejected": dict(sorted(counts.items())),
        "rules": {rule: counts[f"filter:{rule}"] for rule in RULES},
        "corpus": read_manifest(config.scores)["inputs"].get("corpus"),
    }
    line = f"{rows:,} images: {ok:,} pass; {_counted(counts)}"
    if unknown:
        line += "; --max-border left out: an older table, without the column 'border'"
    return stage.finish(summary, [part_path(config.out, n).name for n in range(len(paths))], line)


def apply(part: pa.Table, config: FilterConfig, seen: set[bytes]) -> pa.Table:
    """A part of a score table with the rules applied to its ok rows.

    Args:
        part: rows of a score table, with the columns that the rules in use need.
        config: the rules.
        seen: digests (half of each) of images that passed so far; added to.
    """
    columns = {name: part[name].to_pylist() for name in part.column_names}
    for i, status in enumerate(columns["status"]):
        if status != "ok":
            continue
        row = {name: values[i] for name, values in columns.items()}
        failed = _first_failed(row, config)
        if failed is None and not config.copies:
            # 128 of its 256 bits tell any number of images apart, in half the memory.
            digest = bytes.fromhex(row["digest"][:32])
            if digest in seen:
                failed = "copy", ""
            seen.add(digest)
        if failed is not None:
            columns["status"][i], columns["entropy"][i] = "rejected", None
            columns["reason"][i], columns["detail"][i] = f"filter:{failed[0]}", failed[1]
    return pa.table(columns, schema=part.schema)


def _first_failed(row: dict[str, Any], config: FilterConfig) -> tuple[str, str] | None:
    """(rule, detail) of the first rule that an image fails on its own; None: it passes."""
    short, long = sorted((row["width"], row["height"]))
    if config.rgb and row["bands"] < 3:
        return "not-rgb", f"{row['bands']} band"
    if short < config.min_side:
        return "too-small", f"{row['width']} x {row['height']} pixels"
    if 0 <= config.max_aspect < long / short:
        return "too-long", f"{row['width']} x {row['height']} pixels"
    if 0 <= config.max_clipped < 1 and row["clipped"] > config.max_clipped:
        return "saturated", f"{row['clipped']:.0%} of the pixels are black or white"
    border = row.get("border")  # tables of before 0.2 have none
    if 0 <= config.max_border < 1 and border is not None and border > config.max_border:
        return "border", f"{border:.0%} of the pixels are a black collar"
    if row["entropy"] < config.min_entropy:
        return "blank", f"{row['entropy']:.2f} bits"
    return None


def _check_columns(config: FilterConfig, names: list[str]) -> None:
    needed = ["bands"] * config.rgb + ["clipped"] * (0 <= config.max_clipped < 1)
    lacking = [name for name in needed if name not in names]
    if lacking:
        raise UserError(
            f"{config.scores}: no column '{lacking[0]}'; score with --statistics, or turn the rule "
            "off (--no-rgb, --max-clipped -1)"
        )


def _counted(counts: Counter[str]) -> str:
    undecoded = sum(n for reason, n in counts.items() if not reason.startswith("filter:"))
    parts = [f"not decoded {undecoded:,}"]
    parts += [f"{rule} {counts[f'filter:{rule}']:,}" for rule in RULES]
    return ", ".join(parts)
