"""What two sets have in common that should share nothing.

Sets: the corpus (what is not held out), the hold-out, the chosen subset (`index`), the reference,
and the splits of the downstream sets (sr/train, sr/test, sis/train, ...). Images are the same when
their encoded bytes are (SHA-256), and near when the cosine of their embeddings reaches a
threshold. The one thing that must not happen, and gives exit code 1, is a held-out image, or a
copy of one, in the index; the rest is reported with examples.

The corpus is gone through part by part and never held: memory is that of the other sets' digests
(some 200 bytes an image), of the index's keys, and of two blocks of embeddings.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from core.atomic import write_json
from core.errors import UserError
from core.progress import progress
from core.stage import Result, Stage, digest_of, fingerprint
from data.curation.config import LeakageConfig
from data.curation.holdout import COLUMNS, HELD, read_holdout
from data.curation.nearest import compare_embeddings
from data.formats.index import read_index
from data.formats.tables import part_paths, read_part, write_table

EXAMPLES = 5
PAIRS = pa.schema(
    [(name, pa.string()) for name in ("kind", "a", "key_a", "b", "key_b")]
    + [("similarity", pa.float32())]
)
Pair = dict[str, Any]  # a row of PAIRS


def compare_sets(config: LeakageConfig, stage: Stage) -> Result:
    """Compare every two sets, print what they share and write it."""
    stage.open()
    held = None if config.holdout is None else read_holdout(config.holdout)["key"].combine_chunks()
    chosen = None if config.index is None else _index_keys(config.index)
    pairs, sizes = _same_bytes(config, held, chosen)
    exact = _summed(pairs)
    near: list[dict[str, Any]] = []
    if config.embeddings:
        near, near_pairs = compare_embeddings(config, held, chosen)
        pairs += near_pairs
    leaked = held_in_index(config.index, config.holdout, config.scores)
    report = {"sets": sizes, "exact": exact, "near": near, "held_in_index": len(leaked)}
    write_table(config.out / "pairs.parquet", pa.Table.from_pylist(pairs, PAIRS))
    write_json(config.out / "leakage.json", report)
    if config.drop is not None:
        _write_drop(config, pairs)
    print(_message(report, leaked))
    for state in config.out.glob(".near-*.json"):
        state.unlink()
    counts = [f"{sum(entry['pairs'] for entry in found):,}" for found in (exact, near)]
    line = f"{len(sizes)} sets: {counts[0]} exact and {counts[1]} near pairs"
    line += f", {len(leaked):,} held-out images in the index"
    return stage.finish(report, ["leakage.json", "pairs.parquet"], line)


def _same_bytes(
    config: LeakageConfig, held: pa.Array | None, chosen: pa.Array | None
) -> tuple[list[Pair], dict[str, dict[str, Any]]]:
    """(pairs of images with the same bytes in two sets, sizes of the sets)."""
    where: dict[bytes, list[tuple[str, str]]] = defaultdict(list)
    sizes: dict[str, dict[str, Any]] = {}
    for name, digests in _digests(config):
        count = unreadable = 0
        for key, digest in digests:
            count += 1
            if digest is None:
                unreadable += 1
            else:
                where[digest].append((name, key))
        sizes[name] = {"images": count, "unreadable": unreadable}
    pairs = [
        _pair(*one, *other)
        for images in where.values()
        for i, one in enumerate(images)
        for other in images[i + 1 :]
        if one[0] != other[0]
    ]
    if config.scores is not None:
        pairs += _corpus_pairs(config.scores, held, chosen, where, sizes)
    for name, size in sizes.items():
        compared = size.get("in_corpus", size["images"]) - size["unreadable"]
        if not compared:
            of = " that are in --scores" if "in_corpus" in size else " that can be read"
            raise UserError(
                f"{name}: {size['images']:,} images, and none{of}: an empty comparison finds no "
                f"leak; give the {name} that belongs to the others"
            )
    return pairs, sizes


def _digests(config: LeakageConfig) -> Iterator[tuple[str, Iterable[tuple[str, bytes | None]]]]:
    """The sets that are held in memory, by name: (key, SHA-256) of each image, None: unreadable."""
    if config.holdout is not None:
        table = read_holdout(config.holdout)
        digests = map(bytes.fromhex, table["digest"].to_pylist())
        yield "holdout", zip(table["key"].to_pylist(), digests, strict=True)
    for name, images in config.images.items():
        shown = progress(images.read(), total=images.count, name=f"digests of {name}")
        yield name, ((key, _sha256(data)) for key, data in shown)


def _sha256(data: bytes | None) -> bytes | None:
    return None if data is None else hashlib.sha256(data).digest()


def _corpus_pairs(
    scores: Path,
    held: pa.Array | None,
    chosen: pa.Array | None,
    where: dict[bytes, list[tuple[str, str]]],
    sizes: dict[str, dict[str, Any]],
) -> Iterator[Pair]:
    """Pairs of a corpus image with one of another set; the index's rows are such images too."""
    known = pa.array(sorted(digest.hex() for digest in where), pa.string())
    count = in_index = 0
    paths = part_paths(scores)
    for path in progress(paths, total=len(paths), name="corpus digests", unit="part"):
        part = read_part(path, ["key", "digest", "status"])
        part = part.filter(pc.equal(part["status"], "ok"))
        if held is not None:  # held-out images are another set
            part = part.filter(pc.invert(pc.is_in(part["key"], value_set=held)))
        count += part.num_rows
        if chosen is not None:
            part = part.append_column("chosen", pc.is_in(part["key"], value_set=chosen))
            in_index += pc.sum(part["chosen"]).as_py() or 0
        for row in part.filter(pc.is_in(part["digest"], value_set=known)).to_pylist():
            for name, key in where[bytes.fromhex(row["digest"])]:
                yield _pair("corpus", row["key"], name, key)
                if row.get("chosen"):
                    yield _pair("index", row["key"], name, key)
    sizes["corpus"] = {"images": count, "unreadable": 0}
    if chosen is not None:
        sizes["index"] = {"images": len(chosen), "unreadable": 0, "in_corpus": in_index}


def _index_keys(path: Path) -> pa.Array:
    return read_index(path)[0]["key"].combine_chunks()


def held_in_index(index: Path | None, holdout: Path | None, scores: Path | None) -> list[str]:
    """Keys of the images of an index that are held out, or are copies of one that is.

    Args:
        index, holdout: None gives an empty list.
        scores: the score table that both were made from, for digests; None: only keys are
            compared.
    """
    if index is None or holdout is None:
        return []
    keys, held = _index_keys(index), read_holdout(holdout)
    found = set(keys.filter(pc.is_in(keys, value_set=held["key"].combine_chunks())).to_pylist())
    digests = held["digest"].combine_chunks()
    for path in part_paths(scores) if scores is not None else ():
        part = read_part(path, ["key", "digest"])
        copies = part.filter(pc.is_in(part["digest"], value_set=digests))["key"]
        found.update(copies.filter(pc.is_in(copies, value_set=keys)).to_pylist())
    return sorted(found)


def _pair(a: str, key_a: str, b: str, key_b: str) -> Pair:
    return {"kind": "exact", "a": a, "key_a": key_a, "b": b, "key_b": key_b, "similarity": None}


def _summed(pairs: Iterable[Pair]) -> list[dict[str, Any]]:
    """For each two sets: pairs, images concerned on either side, and examples."""
    found: dict[tuple[str, str], list[list[str]]] = defaultdict(list)
    for pair in pairs:
        found[pair["a"], pair["b"]].append([pair["key_a"], pair["key_b"]])
    return [
        {
            "a": a,
            "b": b,
            "pairs": len(keys),
            "images_a": len({one for one, _ in keys}),
            "images_b": len({other for _, other in keys}),
            "examples": keys[:EXAMPLES],
        }
        for (a, b), keys in sorted(found.items())
    ]


def _write_drop(config: LeakageConfig, pairs: list[Pair]) -> None:
    """Corpus images near a held-out one, as a hold-out file."""
    assert config.drop is not None and config.scores is not None and config.holdout is not None
    near = {
        pair["key_a"] for pair in pairs
        if (pair["kind"], pair["a"], pair["b"]) == ("near", "corpus", "holdout")
    }  # fmt: skip
    inputs = {"scores": fingerprint(config.scores), "holdout": fingerprint(config.holdout)}
    params = {"threshold": config.threshold, "keys": digest_of(sorted(near))}
    stage = Stage(config.drop, "data.leakage", params, inputs, replace=True)
    if not stage.done():
        keys = pa.array(sorted(near), pa.string())
        parts = [read_part(path, COLUMNS) for path in part_paths(config.scores)]
        rows = pa.concat_tables([p.filter(pc.is_in(p["key"], value_set=keys)) for p in parts])
        for field in HELD:  # in no hold-out: these images only leave the pool
            if field.name not in rows.column_names:
                value = False if pa.types.is_boolean(field.type) else None
                rows = rows.append_column(field, pa.array([value] * rows.num_rows, field.type))
        stage.open()
        write_table(config.drop, rows.select(HELD.names))
        line = f"{rows.num_rows:,} corpus images near a held-out one"
        stage.finish({"held": rows.num_rows}, [config.drop.name], line=line)


def _message(report: dict[str, Any], held: list[str]) -> str:
    lines = [
        f"{'set':<14}{'images':>12}",
        *(f"{name:<14}{size['images']:>12,}" for name, size in report["sets"].items()),
    ]
    for kind in ("exact", "near"):
        for entry in report[kind]:
            what = "the same bytes" if kind == "exact" else f"cosine >= {entry['threshold']}"
            lines.append(
                f"{kind}: {entry['a']} and {entry['b']}: {entry['images_a']:,} and "
                f"{entry['images_b']:,} images ({what})"
            )
            lines += [f"    {example[0]}  =  {example[1]}" for example in entry["examples"][:3]]
    if not report["exact"] and not held:
        lines.append("exact: no two sets share an image")
    if held:
        lines.append(f"LEAK: {len(held):,} held-out images in the index, {', '.join(held[:3])}")
    elif "index" in report["sets"] and "holdout" in report["sets"]:
        lines.append("the index holds no held-out image and no copy of one")
    return "\n".join(lines)
