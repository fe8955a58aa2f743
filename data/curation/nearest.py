"""Near images of two sets: cosines of their embeddings, block by block."""

from __future__ import annotations

import itertools
import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from core.atomic import write_json
from core.errors import UserError
from core.progress import progress
from data.curation.config import LeakageConfig
from data.formats.embeddings import Embeddings, require_same_encoder

BLOCK = 4096  # rows of either side that are multiplied at a time: 64 MB of cosines
EXAMPLES = 5
SAVE_EVERY = 60.0  # seconds between two savings of what was found


class Blocks(Protocol):
    """A set of embeddings that can be gone through again and again, in blocks."""

    rows: int

    def __iter__(self) -> Iterator[tuple[NDArray[np.float32], list[str]]]: ...


class PartBlocks:
    """Embeddings on disk without some keys, or only with those: what belongs to the set."""

    def __init__(self, embeddings: Embeddings, without: pa.Array | None, only: pa.Array | None):
        self._embeddings, self._without, self._only = embeddings, without, only
        self.rows = sum(len(self._places(table)) for _, table in embeddings.parts())

    def _places(self, table: pa.Table) -> NDArray[np.int64]:
        """The rows of a part that belong to the set."""
        keys = table["key"].combine_chunks()
        keep = np.ones(len(keys), bool)
        for chosen, wanted in ((self._without, False), (self._only, True)):
            if chosen is not None:
                inside = pc.is_in(keys, value_set=chosen).to_numpy(zero_copy_only=False)
                keep &= inside == wanted
        return np.flatnonzero(keep)

    def __iter__(self) -> Iterator[tuple[NDArray[np.float32], list[str]]]:
        for array, table in self._embeddings.parts():
            places = self._places(table)
            for start in range(0, len(places), BLOCK):
                chosen = places[start : start + BLOCK]
                keys = table["key"].take(pa.array(chosen)).to_pylist()
                yield np.asarray(array[chosen], np.float32), keys


def compare_embeddings(
    config: LeakageConfig, held: pa.Array | None, chosen: pa.Array | None
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """(a summary for each two sets with near images, the nearest pairs).

    From the embeddings called corpus come three sets: the corpus without what is held out, the
    hold-out, and (counted among the corpus's pairs) the index.

    Args:
        config: which embeddings, how near, where to keep what was found so far.
        held, chosen: keys of the hold-out and of the index, if any.

    Raises UserError when the embeddings are of different encoders, and for a set without images.
    """
    found = {name: Embeddings(path) for name, path in config.spaces().items()}
    first = next(iter(found.values()))
    sets: dict[str, Blocks] = {}
    for name, embeddings in found.items():
        require_same_encoder(first, embeddings)
        without = held if name == "corpus" else None
        if without is not None and "holdout" not in found:
            inner = PartBlocks(embeddings, None, without)
            there = f"{inner.rows:,} of {len(without):,} held-out images have an embedding"
            if not inner.rows:
                raise UserError(
                    f"--embeddings corpus={embeddings.folder}: {there}, so nothing of the hold-out "
                    "can be compared; make them by prune.embed --keep 1 and without --holdout, or "
                    "give the hold-out's own as holdout=FOLDER"
                )
            print(f"[data.leakage] {there}", flush=True)
            sets["holdout"] = inner
        sets[name] = PartBlocks(embeddings, without, None)
        if not sets[name].rows:
            raise UserError(f"--embeddings {name}={embeddings.folder}: no image left to compare")
    if len(sets) < 2:
        raise UserError("--embeddings: one set alone; give another, or a corpus= with --holdout")
    best = choose_best(config.device)
    order = sorted(sets, key=lambda name: (name != "corpus", -sets[name].rows, name))
    summaries: list[dict[str, Any]] = []
    pairs: list[dict[str, Any]] = []
    for a, b in itertools.combinations(order, 2):
        near = Near(config.threshold, config.most)
        state = config.out / f".near-{a}-{b}.json".replace("/", "_")
        near.compare(sets[a], sets[b], f"{a} and {b}", state, best)
        if near.count:
            summaries.append(near.summary(a, b))
            pairs += near.pairs(a, b)
            in_index = [] if chosen is None or a != "corpus" else near.within(chosen)
            if in_index:
                summaries.append(near.summary("index", b, in_index))
    return summaries, pairs


Best = Callable[
    [NDArray[np.float32], NDArray[np.float32], float],
    tuple[NDArray[np.float32], NDArray[np.int64], NDArray[np.bool_]],
]


def numpy_best(
    rows: NDArray[np.float32], others: NDArray[np.float32], threshold: float
) -> tuple[NDArray[np.float32], NDArray[np.int64], NDArray[np.bool_]]:
    """(highest cosine of each row, place of it among the others, others that any row is near to).

    Cosines are rounded to what float16 rows can tell, so that blocks of any size agree.
    """
    cosine = np.round(rows @ others.T, 4)
    place = cosine.argmax(axis=1)
    hit = np.asarray((cosine >= np.float32(threshold)).any(axis=0))
    return cosine[np.arange(len(rows)), place], place, hit


def torch_best(device: str) -> Best:
    """`numpy_best` on a device of torch's: a GPU does what takes one core an hour in seconds."""
    import torch  # costs seconds, and the CPU does without

    def best(
        rows: NDArray[np.float32], others: NDArray[np.float32], threshold: float
    ) -> tuple[NDArray[np.float32], NDArray[np.int64], NDArray[np.bool_]]:
        left, right = (torch.from_numpy(x).to(device) for x in (rows, others))
        cosine = torch.round(left @ right.T, decimals=4)
        value, place = cosine.max(dim=1)
        hit = (cosine >= float(np.float32(threshold))).any(dim=0)
        return value.cpu().numpy(), place.cpu().numpy(), hit.cpu().numpy()

    return best


def choose_best(device: str) -> Best:
    """The arithmetic for 'cpu', 'cuda' or 'auto' (a GPU if there is one and torch sees it)."""
    if device == "cpu":
        return numpy_best
    import torch

    if not torch.cuda.is_available():
        if device == "cuda":
            raise UserError("--device cuda: torch sees no GPU here; leave the flag out")
        return numpy_best
    return torch_best("cuda")


class Near:
    """Pairs of two sets at or above a threshold: for each image of the first its nearest in the
    second. All are counted; the nearest `most` are kept."""

    def __init__(self, threshold: float, most: int) -> None:
        self.threshold, self.most = threshold, most
        self.count = 0
        self.others: set[str] = set()
        self.kept: list[tuple[float, str, str]] = []

    def compare(
        self, large: Blocks, small: Blocks, name: str, state: Path, best: Best
    ) -> None:
        """Go through the first set once, and for each block of it through the second.

        Args:
            large, small: the sets; memory does not depend on the size of either.
            name: of the progress bar.
            state: file in which what was found is kept from time to time, so that a stopped run
                continues from there.
            best: the arithmetic.
        """
        done = self._load(state)
        bar = progress(total=large.rows, initial=done, name=f"near: {name}")
        seen, clock = 0, time.monotonic()
        for rows, keys in large:
            seen += len(rows)
            if seen <= done:
                continue
            highest = np.full(len(rows), -np.inf, np.float32)
            which = np.empty(len(rows), object)
            for others, names in small:
                value, place, hit = best(rows, others, self.threshold)
                self.others.update(names[i] for i in np.flatnonzero(hit))
                better = value > highest
                highest[better] = value[better]
                which[better] = np.asarray(names, object)[place[better]]
            hits = np.flatnonzero(highest >= np.float32(self.threshold))
            self.count += len(hits)
            self.kept += [(float(highest[i]), keys[i], which[i]) for i in hits]
            if len(self.kept) > 2 * self.most:
                self._trim()
            bar.update(len(rows))
            if time.monotonic() - clock > SAVE_EVERY:
                self._save(state, seen)
                clock = time.monotonic()
        bar.close()
        self._trim()
        self._save(state, large.rows)

    def _load(self, state: Path) -> int:
        """Take up what a stopped run had found. Returns the rows that it had gone through."""
        try:
            saved = json.loads(state.read_text(encoding="utf-8"))
        except FileNotFoundError:
            return 0
        self.count, self.others = saved["count"], set(saved["others"])
        self.kept = [(similarity, a, b) for similarity, a, b in saved["kept"]]
        return int(saved["rows"])

    def _save(self, state: Path, rows: int) -> None:
        found = {"rows": rows, "count": self.count, "others": sorted(self.others)}
        write_json(state, {**found, "kept": self.kept})

    def _trim(self) -> None:
        self.kept.sort(key=lambda pair: (-pair[0], pair[1], pair[2]))
        del self.kept[self.most :]

    def within(self, keys: pa.Array) -> list[tuple[float, str, str]]:
        """The kept pairs whose first image is one of these."""
        firsts = pa.array([pair[1] for pair in self.kept], pa.string())
        inside = pc.is_in(firsts, value_set=keys).to_pylist()
        return [pair for pair, there in zip(self.kept, inside, strict=True) if there]

    def summary(
        self, a: str, b: str, kept: list[tuple[float, str, str]] | None = None
    ) -> dict[str, Any]:
        """JSON-able counts; `kept` restricts them to some of the pairs."""
        pairs = self.kept if kept is None else kept
        others = self.others if kept is None else {pair[2] for pair in kept}
        return {
            "a": a, "b": b, "threshold": self.threshold,
            "pairs": self.count if kept is None else len(kept),
            "images_a": self.count if kept is None else len(kept), "images_b": len(others),
            "highest": pairs[0][0], "examples": [[x, y, s] for s, x, y in pairs[:EXAMPLES]],
        }  # fmt: skip

    def pairs(self, a: str, b: str) -> list[dict[str, Any]]:
        """The kept pairs as rows of the table."""
        return [
            {"kind": "near", "a": a, "key_a": x, "b": b, "key_b": y, "similarity": s}
            for s, x, y in self.kept
        ]
