"""A corpus whose images are read by what the user states of them: ?bands= and ?scale=.

TIFF and JPEG 2000 files, and PNGs of 16 bits, become the 8-bit pixels of data.images.raster, as
PAM bytes, in the reader: whatever comes later (scores, digests, exports, latents) sees the same
values. Other images pass as they are.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data.corpus.base import Batch, Corpus, Location, Sample
from data.corpus.rasters.scale import SAMPLED, evenly, parse_scale, percentiles
from data.images.bands import Asked, check_bands
from data.images.chips import encode_chip
from data.images.formats import claimed, sniff
from data.images.reject import MAX_PIXELS, Reject

OPTIONS = ("bands", "scale")


class PreparedCorpus(Corpus):
    """Any corpus of images, with the options bands=ORDER and scale=MIN,MAX or scale=pA,pB.

    Raises UserError for an option that has no such value.
    """

    def __init__(self, spec: str, corpus: Corpus, bands: str, scale: str) -> None:
        self.spec = spec
        self._corpus = corpus
        self._bands = check_bands(spec, bands) if bands else ""
        self._scale = parse_scale(spec, scale) if scale else None
        self.unique_keys = corpus.unique_keys

    @property
    def extras(self) -> tuple[str, ...]:
        return self._corpus.extras

    @property
    def root(self) -> Path | None:
        return self._corpus.root

    @cached_property
    def asked(self) -> Asked:
        """What is stated, percentiles as their values (for which some files are read)."""
        if self._scale is None:
            return Asked(self._bands)
        numbers, percent = self._scale
        if percent:
            numbers = percentiles(self.spec, self._sampled(), numbers)
        return Asked(self._bands, numbers)

    def facts(self) -> dict[str, Any]:
        scale = {} if self.asked.scale is None else {"scale": list(self.asked.scale)}
        return self._corpus.facts() | scale

    def check(
        self, shards: Sequence[str] | None = None, extras: tuple[str, ...] | None = None
    ) -> None:
        self._corpus.check(shards, extras)

    def shards(self) -> list[str]:
        return self._corpus.shards()

    def count(self, shard: str) -> int:
        return self._corpus.count(shard)

    def counts(self) -> list[int | None]:
        return self._corpus.counts()

    def batch(self, shard: str, start: int = 0, stop: int | None = None) -> Batch:
        return _Batch(self._corpus.batch(shard, start, stop), self.asked)

    def fetch(self, locations: Sequence[Location]) -> Iterator[Sample]:
        return (prepare(sample, self.asked) for sample in self._corpus.fetch(locations))

    def fingerprint(self) -> str:
        return self._with_options(self._corpus.fingerprint())

    def part_fingerprint(self, shards: Sequence[str]) -> str:
        part = self._corpus.part_fingerprint(shards)
        return self._with_options(part) if part else ""

    def _with_options(self, fingerprint: str) -> str:
        text = f"{fingerprint} bands={self.asked.bands} scale={self.asked.scale}"
        return hashlib.sha256(text.encode()).hexdigest()

    def listing(self) -> Iterator[tuple[str, int]]:
        return self._corpus.listing()

    def __len__(self) -> int:
        return len(self._corpus)

    def _sampled(self) -> Iterator[NDArray[Any]]:
        shards = self._corpus.shards()
        some = [shards[i] for i in evenly(len(shards))]
        for shard in some:
            for row in evenly(self._corpus.count(shard), -(-SAMPLED // len(some))):
                for sample in self._corpus.batch(shard, row, row + 1):
                    yield _values(sample, self._bands)


@dataclass(frozen=True, slots=True)
class _Batch(Batch):
    inner: Batch
    asked: Asked

    def __iter__(self) -> Iterator[Sample]:
        return (prepare(sample, self.asked) for sample in self.inner)

    def __len__(self) -> int:
        return len(self.inner)


def prepare(sample: Sample, asked: Asked) -> Sample:
    """A sample with its image as PAM where the options have a say, or with the reason why not."""
    kind = _kind(sample)
    if kind is None or sample.data is None:
        return sample
    from data.images import raster

    try:
        with raster.opened(sample.data, kind) as file:
            if file.width * file.height > MAX_PIXELS:
                detail = f"{file.width} x {file.height} pixels, limit {MAX_PIXELS:,}"
                raise Reject("too-large", detail)
            how = raster.layout(file, "", asked)
            data = encode_chip(raster.read(file, how))
    except Reject as reject:
        return replace(sample, data=None, error=(reject.reason, reject.detail))
    except raster.DAMAGE as error:
        return replace(sample, data=None, error=("corrupt", raster.one_line(error)))
    return replace(sample, data=data, name="", note=how.note)


def _kind(sample: Sample) -> str | None:
    """The format of an image that is GDAL's to read; None: it passes, to be decoded or rejected."""
    if not sample.data:
        return None
    try:
        kind = sniff(sample.data)
    except Reject:
        return None
    if claimed(sample.key if sample.name is None else sample.name) not in (None, kind):
        return None  # misnamed: the decoder says so
    from data.images.raster import is_deep

    return kind if kind in ("TIFF", "JPEG 2000") or is_deep(sample.data, kind) else None


def _values(sample: Sample, bands: str) -> NDArray[Any]:
    """Some stored values of an image that a scale is for; empty for others."""
    kind = _kind(sample)
    nothing = np.empty(0)
    if kind is None or sample.data is None:
        return nothing
    from data.images import raster

    try:
        with raster.opened(sample.data, kind) as file:
            how = raster.layout(file, "", Asked(bands, (0.0, 1.0)))
            return nothing if how.scale is None else raster.with_data(file, how)
    except (Reject, *raster.DAMAGE):  # the pass over the corpus says why
        return nothing
