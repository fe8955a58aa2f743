"""Corpus images as the VAE takes them: decoded and cropped in threads, in the order asked for."""

from __future__ import annotations

from collections import deque
from collections.abc import Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar, cast

import numpy as np

from core.errors import UserError
from data.corpus.base import Corpus, Sample
from data.corpus.verified import verified
from data.images.chips import BANDS as INFRARED
from data.images.chips import MAGIC, chip_bands
from data.images.decode import Reject, decode_rgb, decode_rgbn
from data.images.transforms import center_crop
from dit.training.order import BatchPlan
from dit.vae.listing import Listing

T = TypeVar("T")


def read_images(
    corpus: Corpus,
    images: Listing,
    image_size: int,
    workers: int = 2,
    bands: int = 3,
    taker: str = "what reads it",
) -> Iterator[np.ndarray]:
    """Each image, uint8 image_size x image_size x `bands`, in order.

    `bands` is 3 (red, green, blue) or 4 (and near infrared, which only chips have); see `bands_of`.
    Nothing is dropped: `taker` (a VAE, say) is named where an image has others.

    Raises UserError naming an image that has other bands, that can no longer be read or decoded, or
    is another one: the corpus has changed since it was scored.
    """
    samples = verified(corpus.fetch(images.places), images.digests)
    return decode_images(samples, image_size, workers, bands, taker)


def bands_of(corpus: Corpus, images: Listing) -> int:
    """Bands of a corpus's images, 4 (with near infrared) or 3, by the first of a list."""
    first = next(iter(corpus.fetch(images.places[:1])))
    return INFRARED if _has_infrared(first.data) else 3


def _has_infrared(data: bytes | None) -> bool:
    return data is not None and data.startswith(MAGIC) and chip_bands(data) == INFRARED


def decode_images(
    samples: Iterable[Sample],
    image_size: int,
    workers: int,
    bands: int,
    taker: str = "what reads it",
) -> Iterator[np.ndarray]:
    """The samples' images, as `read_images` gives them.

    Reading runs in this thread, decoding and cropping in `workers` threads (the decoders let go
    of Python's lock), a few images ahead.
    """
    ahead = 4 * workers + 16
    pending: deque[Future[np.ndarray]] = deque()
    with ThreadPoolExecutor(max_workers=max(1, workers)) as pool:
        try:
            for sample in samples:
                pending.append(pool.submit(_decode, sample, image_size, bands, taker))
                if len(pending) > ahead:
                    yield pending.popleft().result()
            while pending:
                yield pending.popleft().result()
        finally:
            for future in pending:
                future.cancel()


def _decode(sample: Sample, image_size: int, bands: int, taker: str) -> np.ndarray:
    where = f"{sample.shard}: {sample.key}"
    reason, detail = sample.error or ("unreadable", "")
    if sample.data is not None:
        try:
            if bands != INFRARED and _has_infrared(sample.data):
                raise UserError(
                    f"{where}: has four bands (R, G, B, NIR), {taker} takes three; take a VAE of "
                    "four bands (python -m dit.train_vae trains one), or say that near infrared is "
                    "to be left out: CORPUS?bands=rgb, scored so"
                )
            decode = decode_rgbn if bands == INFRARED else decode_rgb
            return center_crop(decode(sample.data), image_size)
        except Reject as reject:
            reason, detail = reject.reason, reject.detail
    if bands == INFRARED and reason == "bands":
        raise UserError(
            f"{where}: {detail}; {taker} takes four bands (R, G, B, NIR) and needs a corpus of "
            "four-band chips (usa1m:FOLDER, or GeoTIFFs with ?chip=SIZE)"
        )
    raise UserError(
        f"{where}: {reason} ({detail}); the corpus has changed since it was scored; score it again"
    )


def batched(images: Iterable[np.ndarray], size: int) -> Iterator[np.ndarray]:
    """Stack successive images, `size` at a time; the last batch may be smaller."""
    batch: list[np.ndarray] = []
    for image in images:
        batch.append(image)
        if len(batch) == size:
            yield np.stack(batch)
            batch = []
    if batch:
        yield np.stack(batch)


def in_background(items: Iterable[T], ahead: int = 4) -> Generator[T, None, None]:
    """Run an iterator in a thread of its own, at most `ahead` items before the consumer.

    Its exceptions are raised here. Leaving the loop early stops the thread.
    """
    iterator, end = iter(items), object()
    thread = ThreadPoolExecutor(max_workers=1)
    pending = deque(thread.submit(next, iterator, end) for _ in range(ahead))
    try:
        while (item := pending.popleft().result()) is not end:
            pending.append(thread.submit(next, iterator, end))
            yield cast(T, item)
    finally:
        thread.shutdown(cancel_futures=True)


def augment(images: np.ndarray, plan: BatchPlan, crop: int) -> np.ndarray:
    """Each slot's random crop, mirrored or not: uint8 N x H x W x C -> N x crop x crop x C."""
    out = np.empty((len(images), crop, crop, images.shape[3]), dtype=np.uint8)
    room = images.shape[1] - crop + 1
    corners = np.floor(plan.uniforms[:, :2] * room).astype(int)
    for row, (image, (top, left), flip) in enumerate(
        zip(images, corners, plan.flips, strict=True)
    ):
        part = image[top : top + crop, left : left + crop]
        out[row] = part[:, ::-1] if flip else part
    return out
