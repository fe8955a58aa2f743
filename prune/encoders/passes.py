"""The pass over images that an embedding is: read, decode and prepare in workers, then encode.

Images travel in small tasks through `core.parallel`, so memory holds a few tasks a worker and
the rows of one part, whatever the size of the corpus.
"""

from __future__ import annotations

import functools
import json
import platform
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from core.errors import UserError
from core.parallel import ordered_map
from data.corpus.base import Corpus, Location
from data.corpus.specs import open_corpus
from data.corpus.verified import verified
from data.images.composites import Composite, composite
from data.images.decode import MAX_PIXELS, Reject, decode_rgb, decode_rgbn
from data.reference.sets import SceneReader, open_reader
from prune.encoders.base import Encoder, Prepare, open_encoder
from prune.encoders.config import EmbedConfig

Rejected = tuple[str, str]  # reason (a key of decode.REASONS), detail
Part = tuple[Sequence[Location], Sequence[str | None]]  # images and their bytes' digests


@dataclass(frozen=True)
class Work:
    """What a worker needs to know.

    Attributes:
        corpus: specification for `open_corpus`; several (a tuple) are a reference set's.
        prepare: the encoder's function of one image.
        max_pixels: larger images are rejected undecoded.
        composite: the three bands that the encoder sees.
        lenient: report images that cannot be used; otherwise they are a UserError.
    """

    corpus: str | tuple[str, ...]
    prepare: Prepare
    max_pixels: int = MAX_PIXELS
    lenient: bool = False
    composite: Composite = "rgb"


def prepare_task(task: Part, work: Work) -> list[NDArray[Any] | Rejected]:
    """Prepared images of a task in order, a Rejected in place of each that cannot be used.

    Raises UserError, unless `work.lenient`, for an image that is gone, broken, or no longer the
    bytes whose digest was recorded.
    """
    prepared: list[NDArray[Any] | Rejected] = []
    locations, digests = task
    for sample in verified(_corpus(work.corpus).fetch(locations), digests):
        try:
            if sample.data is None:
                raise Reject(*(sample.error or ("unreadable", "")))
            # Without a name: a misleading extension is for Stage I to judge, not for this pass.
            prepared.append(work.prepare(_three_bands(sample.data, work)))
        except Reject as reject:
            if work.composite != "rgb" and reject.reason == "bands":
                raise UserError(
                    f"{work.corpus}: {sample.key}: --composite {work.composite} needs chips with "
                    f"near infrared, this is {reject.detail}; leave --composite at rgb"
                ) from None
            if not work.lenient:
                raise UserError(
                    f"{work.corpus}: {sample.key} was readable when it was scored and is not now "
                    f"({reject}); put it back, or score the corpus again into a new folder"
                ) from None
            prepared.append((reject.reason, reject.detail))
    return prepared


def _three_bands(data: bytes, work: Work) -> NDArray[np.uint8]:
    if work.composite == "rgb":
        return decode_rgb(data, max_pixels=work.max_pixels)
    return composite(decode_rgbn(data, max_pixels=work.max_pixels), work.composite)


def embed_parts(
    encoder: Encoder,
    work: Work,
    indices: Sequence[int],
    load: Callable[[int], Part],
    *,
    batch: int,
    workers: int,
    on_batch: Callable[[int], object] = lambda images: None,
) -> Iterator[tuple[int, NDArray[np.float32], list[Rejected | None]]]:
    """Embed parts one after the other; no batch reaches across two of them.

    Args:
        encoder: a loaded encoder.
        work: see Work; its `prepare` is the encoder's.
        indices: of the parts to embed, none of them empty.
        load: gives a part's images by its index, when their turn comes.
        batch: images a batch.
        workers: processes that decode; 1 decodes in this one.
        on_batch: called with the number of images after each batch.

    Yields:
        (part index, unit rows of its usable images, for each image None or why it was not).
    """
    sizes: dict[int, int] = {}

    def tasks() -> Iterator[Part]:
        for index in indices:
            locations, digests = load(index)
            sizes[index] = len(locations)
            for start in range(0, len(locations), batch):
                yield locations[start : start + batch], digests[start : start + batch]

    prepared = ordered_map(functools.partial(prepare_task, work=work), tasks(), workers)
    for index in indices:
        rows: list[NDArray[np.float32]] = []
        rejects: list[Rejected | None] = []
        while index not in sizes or len(rejects) < sizes[index]:
            results = next(prepared)
            rows.append(encoder.finish([item for item in results if not isinstance(item, tuple)]))
            rejects += [item if isinstance(item, tuple) else None for item in results]
            on_batch(len(results))
        yield index, np.concatenate(rows), rejects


def embed_part(
    config: EmbedConfig, core: str, work: Work, part: Part
) -> tuple[NDArray[np.float32], list[Rejected | None]]:
    """Rows and rejects of one part, as `embed_parts` yields them, on any machine.

    `core` is the encoder's `core` as JSON: another machine's weights must be the same ones.
    """
    encoder = _encoder(config, core)
    made = embed_parts(encoder, work, [0], lambda index: part, batch=config.batch, workers=1)
    _, rows, rejects = next(made)
    return rows, rejects


@functools.lru_cache(maxsize=1)
def _encoder(config: EmbedConfig, core: str) -> Encoder:
    encoder = open_encoder(config.encoder, config.weights, config.revision)
    if json.dumps(encoder.core(), sort_keys=True) != core:
        raise UserError(
            f"encoder {config.encoder} is another one on {platform.node()} (weights "
            f"{encoder.core()['weights'][:12]}): give --weights that all machines see"
        )
    encoder.load(config.device, config.precision)
    return encoder


@functools.lru_cache(maxsize=2)
def _corpus(spec: str | tuple[str, ...]) -> Corpus | SceneReader:
    if isinstance(spec, tuple):
        return open_reader(spec)
    return open_corpus(spec)
