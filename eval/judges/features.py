"""Features of images, computed once: streamed through an extractor, and kept by digest.

Reading, decoding and resizing run in threads beside the network, one batch ahead of it, so that
memory holds two batches of images and the features, however many images there are.
"""

from __future__ import annotations

import dataclasses
import itertools
import json
import zipfile
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from core.atomic import atomic_path, remove_stale
from core.engines import ProcessGroup
from core.errors import UserError
from core.parallel import available_cpus
from core.progress import progress
from core.stage import digest_of

if TYPE_CHECKING:
    from eval.judges.extractors import Extractor

T = TypeVar("T")
_BLOCK = 64  # images of which a process takes all: every batch, an extractor's or a VAE's, is whole


def features_of(
    extractor: Extractor,
    images: Iterable[Any],
    *,
    digest: str,
    cache: Path | None = None,
    label: str = "features",
    decode: Callable[[Any], NDArray[np.uint8]] | None = None,
    total: int | None = None,
) -> NDArray[np.float64]:
    """Features float64 [n, d] of n images, from the cache if they are there.

    Args:
        images: uint8 [h, w, 3] each, or what `decode` makes them of (paths, say); an iterable that
            makes them one by one is not begun where the features are there already.
        digest: of the images' content and order, from which everything about them follows; the
            cache goes by it, and by the extractor's fingerprint; not by device and threads,
            which move features by rounding.
        cache: folder of kept features; None keeps nothing. Several processes may share it.
        label: what the images are, for the progress bar.
        decode: gives an image of an item; runs in several threads.
        total: number of images, where `images` has no length.

    Raises UserError for an image that is not uint8 [h, w, 3], features that are not finite, no
    image at all, and a folder that cannot be written.
    """
    if cache is None:
        return extractor(images, label=label, decode=decode, total=total)
    path, made_of = _kept(extractor, digest, cache)
    stored = _read(path, made_of)
    if stored is not None:
        return stored.astype(np.float64)
    features = extractor(images, label=label, decode=decode, total=total)
    _keep(path, features, made_of)
    return features.astype(np.float32).astype(np.float64)  # as when they are read again


@dataclasses.dataclass(frozen=True)
class ImageSet:
    """Images of which features are made.

    Attributes:
        label: what they are, for the progress bar.
        digest: of their content and order; see `features_of`.
        total: how many.
        read: (places) -> items at a run of places in 0..total-1, one by one.
        decode: as of `features_of`.
    """

    label: str
    digest: str
    total: int
    read: Callable[[range], Iterable[Any]]
    decode: Callable[[Any], NDArray[np.uint8]] | None = None

    def features(self, extractor: Extractor, cache: Path | None) -> NDArray[np.float64]:
        """See `features_of`."""
        return features_of(
            extractor, self.read(range(self.total)), digest=self.digest, cache=cache,
            label=self.label, decode=self.decode, total=self.total,
        )  # fmt: skip

    def make_together(self, extractor: Extractor, cache: Path, group: ProcessGroup) -> None:
        """Have the processes of a launch make the features, each those of its share of the images,
        where the main one finds none kept. They are kept, and the same as one process makes."""
        path, made_of = _kept(extractor, self.digest, cache)
        if group.exchange(_read(path, made_of) is not None)[0]:
            return
        mine, made = group.share(self.total, _BLOCK), None
        if mine:
            made = extractor(
                self.read(mine), label=self.label, decode=self.decode, total=len(mine)
            ).astype(np.float32)
        shares = [share for share in group.exchange(made) if share is not None]
        if group.main:
            _keep(path, np.concatenate(shares), made_of)


def _kept(extractor: Extractor, digest: str, cache: Path) -> tuple[Path, str]:
    """The file of features, and what they are made of."""
    made_of = json.dumps({"images": digest, "extractor": extractor.fingerprint}, sort_keys=True)
    return cache / f"{extractor.name}-{digest_of(json.loads(made_of))[:32]}.npz", made_of


def _keep(path: Path, features: NDArray[Any], made_of: str) -> None:
    try:
        with atomic_path(path) as temporary, open(temporary, "wb") as stream:
            # Networks compute in float32, so that nothing is lost.
            np.savez(stream, features=features.astype(np.float32), made_of=np.array(made_of))
        remove_stale(path.parent)
    except OSError as error:
        raise UserError(f"{path.parent}: features cannot be kept there ({error})") from None


def _read(path: Path, made_of: str) -> NDArray[np.float32] | None:
    """Kept features [n, d]; None where they are not there, damaged, or of something else."""
    try:
        with np.load(path, allow_pickle=False) as stored:  # a zip: its checksums are compared
            features: NDArray[np.float32] = stored["features"]
            return features if str(stored["made_of"]) == made_of else None
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        return None


def stream(
    images: Iterable[T],
    prepare: Callable[[T], NDArray[Any]],
    finish: Callable[[Sequence[NDArray[Any]]], NDArray[Any]],
    *,
    name: str,
    batch: int,
    total: int | None = None,
) -> NDArray[np.float64]:
    """finish(prepared images) of all batches, float64 [n, d], in order.

    Args:
        prepare: from an item to what the network takes; runs in as many threads as processors.
        finish: features [b, d] of a batch of those; runs in this thread.
        name: for the progress bar, which shows the rate.

    Raises what `images`, `prepare` and `finish` raise, and UserError for features that are not
    finite and for no images.
    """
    source = iter(images)
    parts: list[NDArray[np.float64]] = []
    count = 0
    with (
        ThreadPoolExecutor(available_cpus()) as pool,
        ThreadPoolExecutor(1) as reader,
        progress(total=total, name=name) as bar,
    ):

        def take() -> list[NDArray[Any]]:
            return list(pool.map(prepare, itertools.islice(source, batch)))

        ahead = reader.submit(take)
        while prepared := ahead.result():
            ahead = reader.submit(take)
            parts.append(np.asarray(finish(prepared), dtype=np.float64))
            bad = np.flatnonzero(~np.isfinite(parts[-1]).all(axis=1))
            if len(bad):
                raise UserError(f"{name}: the features of image {count + bad[0]} are not finite")
            count += len(prepared)
            bar.update(len(prepared))
    if not parts:
        raise UserError(f"{name}: no images")
    return np.concatenate(parts)
