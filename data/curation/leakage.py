"""What two sets have in common that should share nothing (`python -m data.leakage --help`).

Sets: the corpus (what is not held out), the hold-out, the chosen subset (`index`), the reference,
and the splits of the downstream sets (sr/train, sr/test, sis/train, ...). Images are the same when
their encoded bytes are (SHA-256), and near when the cosine of their embeddings reaches a
threshold. The one thing that must not happen, and gives exit code 1, is a held-out image, or a
copy of one, in the index; the rest is reported with examples.

The corpus is gone through part by part and never held: memory is that of the other sets' digests
(some 200 bytes an image), of the index's keys, and of two blocks of embeddings.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from core.errors import UserError
from core.settings import machine, parse, place, science, settings
from core.stage import Stage, digest_of, fingerprint, require_folder

if TYPE_CHECKING:
    import pyarrow as pa

EXAMPLES = 5
Digests = Iterable[tuple[str, str | None]]  # key, hex SHA-256 (None: unreadable)


@settings
class LeakageConfig:
    """Settings. Give the sets that there are; every pair of them is compared."""

    out: Path
    """Output folder: leakage.json, pairs.parquet."""
    scores: Path | None = None
    """Score table of the corpus (prune.score): its digests."""
    holdout: Path | None = None
    """Hold-out (data.holdout)."""
    index: Path | None = None
    """Subset index (prune.select)."""
    reference: tuple[str, ...] = place(())
    """Reference sets, as prune.embed --reference takes them."""
    sr: Path | None = None
    """Super-resolution set (SECOND, or a folder)."""
    sis: Path | None = None
    """Semantic-synthesis set (OpenEarthMap, or groups)."""
    embeddings: tuple[str, ...] = place(())
    """Embeddings to compare as well, NAME=FOLDER each: corpus=E reference=R, and others by any
    name. All of one encoder. Images of the hold-out and the index are found in corpus= by key."""
    threshold: float = 0.98
    """Cosine from which two images are near. It depends on the encoder: look at the examples."""
    most: int = 100_000
    """Near pairs kept, the nearest first (all are counted)."""
    device: Literal["auto", "cpu", "cuda"] = machine("auto")
    """Where cosines are computed (machine setting). auto: a GPU if there is one."""
    drop: Path | None = None
    """Also write the corpus images near a held-out one to this file, in a hold-out's form, so that
    data.holdout --join can take them out of the pool too."""


def main(argv: Sequence[str] | None = None) -> int | None:
    """The command. Exit code 1: the index holds a held-out image or a copy of one."""
    config = parse(
        LeakageConfig,
        argv,
        prog="python -m data.leakage",
        description="Find images, exact or near, that the corpus, the hold-out, the subset, the "
        "reference and the downstream sets share.",
    )
    require_folder(config.out)
    sources = _sources(config)
    places = _embedding_places(config)
    inputs = {name: source.fingerprint for name, source in sources.items()}
    inputs |= {f"embeddings-{name}": fingerprint(path) for name, path in places.items()}
    params = {**science(config), "drop": config.drop is not None}
    stage = Stage(config.out, "data.leakage", params, inputs)
    if stage.done():
        from core.stage import read_manifest

        return 1 if read_manifest(config.out)["summary"]["held_in_index"] else 0

    stage.open()
    pairs, sizes = compare_digests(config, sources)
    near: list[dict[str, Any]] = []
    if places:
        from data.curation.nearest import compare_embeddings

        near, near_pairs = compare_embeddings(config, places)
        pairs += near_pairs
    exact = _summed(pair for pair in pairs if pair["kind"] == "exact")
    held = held_in_index(config.index, config.holdout, config.scores)
    report = {"sets": sizes, "exact": exact, "near": near, "held_in_index": len(held)}
    _write(config, report, pairs)
    print(_told(report, held))
    for state in config.out.glob(".near-*.json"):
        state.unlink()
    outputs: list[Path | str] = ["leakage.json", "pairs.parquet"]
    total = sum(entry["pairs"] for entry in exact), sum(entry["pairs"] for entry in near)
    line = f"{len(sizes)} sets: {total[0]:,} exact and {total[1]:,} near pairs"
    stage.finish(report, outputs, line=f"{line}, {len(held):,} held-out images in the index")
    return 1 if held else 0


@dataclasses.dataclass(frozen=True)
class SetSource:
    """A set whose images have digests: the fingerprint of its listing, and how to get them."""

    fingerprint: str
    digests: Callable[[], Digests]


def _sources(config: LeakageConfig) -> dict[str, SetSource]:
    """The small sets by name; the corpus and its index are not among them."""
    found: dict[str, SetSource] = {}
    if config.scores is not None:
        found["scores"] = SetSource(fingerprint(config.scores), lambda: ())
    if config.index is not None:
        if config.scores is None:
            raise UserError("--index has no digests of its own; give the --scores it was made from")
        found["index"] = SetSource(fingerprint(config.index), lambda: ())
    if (path := config.holdout) is not None:
        found["holdout"] = SetSource(fingerprint(path), lambda: _holdout_digests(path))
    if config.reference:
        from data.reference.sets import open_reader, open_scenes

        scenes = open_scenes(config.reference)
        found["reference"] = SetSource(
            scenes.fingerprint,
            lambda: _hashed(
                ((s.key, s.data) for s in open_reader(scenes.specs).fetch(scenes.locations)),
                len(scenes.locations),
                "reference",
            ),
        )
    from data.pairs.listing import open_sis, open_sr

    for task, root in (("sr", config.sr), ("sis", config.sis)):
        if root is None:
            continue
        listing = open_sr(root) if task == "sr" else open_sis(root)
        for split, items in listing.splits.items():
            if items:
                images = [(item.key, item.image) for item in items]
                found[f"{task}/{split}"] = SetSource(
                    digest_of([[key, path.stat().st_size] for key, path in images]),
                    lambda images=images, name=f"{task}/{split}": _hashed(  # type: ignore[misc]
                        ((key, path.read_bytes()) for key, path in images), len(images), name
                    ),
                )
    if len(found) < 2 and not config.embeddings:
        raise UserError("give at least two sets: --scores, --holdout, --reference, --sr, --sis")
    return found


def _holdout_digests(path: Path) -> Digests:
    from data.curation.holdout import read_holdout

    table = read_holdout(path)
    return zip(table["key"].to_pylist(), table["digest"].to_pylist(), strict=True)


def _hashed(images: Iterable[tuple[str, bytes | None]], count: int, name: str) -> Digests:
    from core.progress import progress

    for key, data in progress(images, total=count, name=f"digests of {name}"):
        yield key, None if data is None else hashlib.sha256(data).hexdigest()


def compare_digests(
    config: LeakageConfig, sources: dict[str, SetSource]
) -> tuple[list[dict[str, Any]], dict[str, dict[str, Any]]]:
    """(pairs of images with the same bytes in two sets, sizes of the sets)."""
    where: dict[bytes, list[tuple[str, str]]] = defaultdict(list)
    sizes: dict[str, dict[str, Any]] = {}
    for name, source in sources.items():
        if name in ("scores", "index"):
            continue
        count = unreadable = 0
        for key, digest in source.digests():
            count += 1
            if digest is None:
                unreadable += 1
            else:
                where[bytes.fromhex(digest)].append((name, key))
        sizes[name] = {"images": count, "unreadable": unreadable}
    pairs = [
        _pair("exact", *one, *other)
        for images in where.values()
        if len(images) > 1
        for i, one in enumerate(images)
        for other in images[i + 1 :]
        if one[0] != other[0]
    ]
    if config.scores is not None:
        pairs += _corpus_pairs(config, where, sizes)
    return pairs, sizes


def _corpus_pairs(
    config: LeakageConfig,
    where: dict[bytes, list[tuple[str, str]]],
    sizes: dict[str, dict[str, Any]],
) -> Iterator[dict[str, Any]]:
    """Pairs of a corpus image with one of another set; the index's rows are such images too."""
    import pyarrow as pa
    import pyarrow.compute as pc

    from core.progress import progress
    from data.curation.holdout import read_holdout
    from data.formats.tables import part_paths, read_part

    assert config.scores is not None
    held = None if config.holdout is None else read_holdout(config.holdout)["key"].combine_chunks()
    chosen = None if config.index is None else _index_keys(config.index)
    known = pa.array(sorted(digest.hex() for digest in where), pa.string())
    count = in_index = 0
    paths = part_paths(config.scores)
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
                yield _pair("exact", "corpus", row["key"], name, key)
                if row.get("chosen"):
                    yield _pair("exact", "index", row["key"], name, key)
    sizes["corpus"] = {"images": count, "unreadable": 0}
    if chosen is not None:
        sizes["index"] = {"images": len(chosen), "unreadable": 0, "in_corpus": in_index}


def _index_keys(path: Path) -> pa.Array:
    from data.formats.index import read_index

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
    import pyarrow.compute as pc

    from data.curation.holdout import read_holdout
    from data.formats.tables import part_paths, read_part

    keys, held = _index_keys(index), read_holdout(holdout)
    found = set(keys.filter(pc.is_in(keys, value_set=held["key"].combine_chunks())).to_pylist())
    digests = held["digest"].combine_chunks()
    for path in part_paths(scores) if scores is not None else ():
        part = read_part(path, ["key", "digest"])
        copies = part.filter(pc.is_in(part["digest"], value_set=digests))["key"]
        found.update(copies.filter(pc.is_in(copies, value_set=keys)).to_pylist())
    return sorted(found)


def _pair(
    kind: str, a: str, key_a: str, b: str, key_b: str, similarity: float | None = None
) -> dict[str, Any]:
    return {"kind": kind, "a": a, "key_a": key_a, "b": b, "key_b": key_b, "similarity": similarity}


def _summed(pairs: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """For each two sets: pairs, images concerned on either side, and examples."""
    keys: dict[tuple[str, str], tuple[set[str], set[str]]] = {}
    counts: dict[tuple[str, str], int] = defaultdict(int)
    examples: dict[tuple[str, str], list[list[str]]] = defaultdict(list)
    for pair in pairs:
        names = pair["a"], pair["b"]
        sides = keys.setdefault(names, (set(), set()))
        sides[0].add(pair["key_a"])
        sides[1].add(pair["key_b"])
        counts[names] += 1
        if len(examples[names]) < EXAMPLES:
            examples[names].append([pair["key_a"], pair["key_b"]])
    return [
        {
            "a": a, "b": b, "pairs": counts[a, b], "images_a": len(sides[0]),
            "images_b": len(sides[1]), "examples": examples[a, b],
        }
        for (a, b), sides in sorted(keys.items())
    ]  # fmt: skip


def _embedding_places(config: LeakageConfig) -> dict[str, Path]:
    places: dict[str, Path] = {}
    for word in config.embeddings:
        name, equals, folder = word.partition("=")
        if not equals or not name or not folder:
            raise UserError(f"--embeddings {word}: expected NAME=FOLDER, for example corpus=E")
        if name in places:
            raise UserError(f"--embeddings: '{name}' is given twice")
        places[name] = Path(folder)
    if places and not -1 < config.threshold <= 1:
        raise UserError(f"--threshold {config.threshold}: a cosine, above -1 and at most 1")
    if config.drop is not None and ("corpus" not in places or config.holdout is None):
        raise UserError("--drop needs --holdout, --scores and --embeddings corpus=FOLDER")
    if config.drop is not None and (config.scores is None or not config.drop.suffix):
        raise UserError("--drop needs --scores, and the name of a file: near.parquet")
    return places


def _write(config: LeakageConfig, report: dict[str, Any], pairs: list[dict[str, Any]]) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    from core.atomic import atomic_path, write_json

    text = pa.string()
    names = [(n, text) for n in ("kind", "a", "key_a", "b", "key_b")]
    schema = pa.schema([*names, ("similarity", pa.float32())])
    with atomic_path(config.out / "pairs.parquet") as temporary:
        pq.write_table(pa.Table.from_pylist(pairs, schema), temporary, compression="zstd")
    write_json(config.out / "leakage.json", report)
    if config.drop is not None:
        _write_drop(config, pairs)


def _write_drop(config: LeakageConfig, pairs: list[dict[str, Any]]) -> None:
    """Corpus images near a held-out one, as a hold-out file."""
    import pyarrow as pa
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    from core.atomic import atomic_path
    from data.formats.tables import part_paths, read_part

    assert config.drop is not None and config.scores is not None and config.holdout is not None
    near = {
        pair["key_a"] for pair in pairs
        if pair["kind"] == "near" and (pair["a"], pair["b"]) == ("corpus", "holdout")
    }  # fmt: skip
    keys = pa.array(sorted(near), pa.string())
    columns = ["key", "shard", "row", "digest"]
    parts = [read_part(path, columns) for path in part_paths(config.scores)]
    rows = pa.concat_tables([p.filter(pc.is_in(p["key"], value_set=keys)) for p in parts])
    inputs = {"scores": fingerprint(config.scores), "holdout": fingerprint(config.holdout)}
    params = {"threshold": config.threshold, "keys": digest_of(sorted(near))}
    stage = Stage(config.drop, "data.leakage", params, inputs, replace=True)
    if not stage.done():
        stage.open()
        with atomic_path(config.drop) as temporary:
            pq.write_table(rows, temporary, compression="zstd")
        line = f"{rows.num_rows:,} corpus images near a held-out one"
        stage.finish({"held": rows.num_rows}, [config.drop.name], line=line)


def _told(report: dict[str, Any], held: list[str]) -> str:
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
