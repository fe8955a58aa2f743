"""Samples held against the digests that were taken when their corpus was scored."""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence

import pyarrow as pa

from core.errors import UserError
from data.corpus.base import WINDOW, Corpus, Location, Sample

Images = tuple[Sequence[Location], Sequence[str | None]]
TRIED = 32  # images that are read to tell another corpus before anything is written


def verified(samples: Iterable[Sample], digests: Sequence[str | None]) -> Iterator[Sample]:
    """The samples, each one's bytes checked against its digest: names alone prove nothing.

    Args:
        samples: of `Corpus.fetch`; those without data pass, with their error.
        digests: hex SHA-256 of each, in the same order; None leaves one unchecked.

    Raises UserError naming the first image whose bytes are not those that were scored.
    """
    for sample, digest in zip(samples, digests, strict=True):
        if digest is not None and sample.data is not None:
            found = hashlib.sha256(sample.data).hexdigest()
            if found != digest:
                raise UserError(
                    f"'{sample.key}': its bytes (SHA-256 {found[:12]}) are not those that were "
                    f"scored ({digest[:12]}); give the --corpus that was scored, its ?options "
                    "included, or score this one again into another folder"
                )
        yield sample


def check_corpus(corpus: Corpus, count: int, take: Callable[[Sequence[int]], Images]) -> None:
    """Tell another corpus of the same names by TRIED of its images, spread evenly.

    Commands do so before they write. Each image is checked once more as it is read (`verified`),
    which finds a single one that differs.

    Args:
        corpus: the corpus.
        count: images that will be read.
        take: those at some of the places 0 .. count - 1: where they are, and their digests.

    Raises UserError naming the first image, in their order, whose bytes are not those that were
    scored, or one that cannot be read any more.
    """
    tried = sorted({i * (count - 1) // max(1, TRIED - 1) for i in range(TRIED)}) if count else []
    try:
        places, digests = take(tried)
        for sample in verified(corpus.fetch(places), digests):
            if sample.data is None:
                reason, detail = sample.error or ("unreadable", "")
                raise UserError(
                    f"'{sample.key}': was readable when it was scored and is not now ({reason}: "
                    f"{detail}); give the --corpus that was scored, or put it back"
                )
    except UserError:
        for start in range(0, count, WINDOW):  # as far as the first that differs
            places, digests = take(list(range(start, min(start + WINDOW, count))))
            deque(verified(corpus.fetch(places), digests), 0)
        raise


def images_of(rows: pa.Table) -> Images:
    """Where the images of a table's rows are (key, shard, row), and their digests."""
    columns = (rows[name].to_pylist() for name in ("key", "shard", "row"))
    return list(zip(*columns, strict=True)), rows["digest"].to_pylist()
