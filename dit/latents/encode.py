"""Encoding a subset into a latent store: each image and its mirror image, once.

Training then reads posterior means and standard deviations instead of running the VAE at every
step. An image's latents are a function of the image and the VAE, whatever else is encoded with
it, so one store serves every subset of a corpus, in whatever order they come.
"""

from __future__ import annotations

import functools
import hashlib
import itertools
import platform
from collections.abc import Callable, Iterable, Iterator

import numpy as np
import torch
from torch.nn.functional import pad

from core.engines import process_group, ray_parts
from core.errors import UserError
from core.parts import make_parts
from core.stage import Result, read_manifest
from data.corpus.base import Corpus, Location, Sample, keep_apart
from data.corpus.specs import open_corpus
from data.corpus.verified import check_corpus, verified
from dit.latents.config import EncodeConfig
from dit.latents.shards import (
    Moments,
    Shape,
    Shard,
    StoreStage,
    complete_shards,
    find_rows,
    indices_of,
    read_shard,
    shard_names,
    write_shard,
)
from dit.latents.statistics import statistics
from dit.model.device import pick_device
from dit.vae.autoencoder import Vae, load_vae, to_unit
from dit.vae.images import batched, decode_images, in_background
from dit.vae.listing import Listing

Encoded = tuple[np.ndarray, list[str | None]]
"""Of a shard: float16 [n, 2, 2, C, h, w], and the digests of the images' bytes."""
Tick = Callable[[int], object]


def encode(config: EncodeConfig, stage: StoreStage) -> Result:
    """Add the images of a subset that the store lacks."""
    corpus = open_corpus(config.corpus)
    keep_apart(config.out, corpus, config.corpus)
    group = process_group()
    if group.main:
        check_corpus(corpus, len(stage.subset), stage.subset.images)
    group.open(stage)
    there = complete_shards(config.out, stage.shape)
    plan = _plan(config, stage, there)

    def make(left: list[int], tick: Tick) -> Iterator[tuple[int, Encoded]]:
        if config.engine == "local":
            vae = _load(config) if left else None
            for part in left:
                assert vae is not None
                yield part, _encode(vae, corpus, plan[part][1], config, stage.shape, tick)
            return
        tasks = (
            (part, (config, plan[part][1], stage.shape, stage.vae.fingerprint)) for part in left
        )
        on_gpu = config.device != "cpu"
        for part, encoded in ray_parts(encode_elsewhere, tasks, config.ray_address, gpus=on_gpu):
            tick(len(encoded[0]))
            yield part, encoded

    def finished(part: int) -> Moments | None:
        index, subset = plan[part]
        try:
            shard = read_shard(config.out, index, stage.shape)
        except UserError:
            return None
        return shard.moments if shard.contents["key"].to_pylist() == subset.keys else None

    def write(part: int, encoded: Encoded) -> Moments | None:
        index, subset = plan[part]
        latents, digests = encoded
        return write_shard(config.out, index, subset.keys, digests, latents)

    sizes = [len(subset) for _, subset in plan]
    added = make_parts(sizes, finished, make, write, name="encode", group=group, stage=stage)
    indices = sorted([shard.index for shard in there] + [index for index, _ in plan])
    _remove_others(config, indices)
    known = [shard.moments for shard in there]
    found = statistics([sums for sums in known + added if sums], stage.vae.scale)
    rows = sum(map(len, there)) + sum(sizes)
    result = stage.finish(
        {
            "vae": stage.vae.record(),
            "image_size": config.image_size,
            "rows": rows,
            "shape": list(stage.shape),
            "shards": len(indices),
            "latent": found,
        },
        [name for index in indices for name in shard_names(index)],
        line=f"{sum(sizes):,} images and their mirrors added, {rows:,} in all, "
        f"latent std {found['std']:.3f}",
        unchanged=_entries(stage, there),
    )
    if found["warning"]:
        print(f"warning: {found['warning']}", flush=True)
    return result


def _plan(
    config: EncodeConfig, stage: StoreStage, there: list[Shard]
) -> list[tuple[int, Listing]]:
    """(index, images) of the new shards: what is missing in the subset's order, --shard-rows each.

    They take the lowest free indices, so a stopped run continues to the shards of an unstopped one.
    """
    subset = stage.subset
    missing = np.flatnonzero(find_rows(config.out, there, subset) < 0)
    if present := len(subset) - len(missing):
        print(f"[{stage.name}] {present:,} of {len(subset):,} images are there", flush=True)
    taken = {shard.index for shard in there}
    free = (index for index in itertools.count() if index not in taken)
    parts = [missing[n : n + config.shard_rows] for n in range(0, len(missing), config.shard_rows)]
    return [(index, subset.take(part)) for part, index in zip(parts, free, strict=False)]


def _remove_others(config: EncodeConfig, indices: list[int]) -> None:
    """Delete the shards that cannot be read and were not replaced."""
    for index in indices_of([path.name for path in config.out.glob("latents-*")]):
        if index not in indices:
            print(
                f"warning: {config.out / shard_names(index)[0]}: damaged, removed; encode again "
                "the subsets whose images it held",
                flush=True,
            )
            for name in shard_names(index):
                (config.out / name).unlink(missing_ok=True)


def _entries(stage: StoreStage, there: list[Shard]) -> dict[str, dict[str, object]]:
    """The manifest's entries of the shards that were there before, if it has any."""
    if not stage.manifest.exists():
        return {}
    files = read_manifest(stage.out)["files"]
    names = [name for shard in there for name in shard_names(shard.index)]
    return {name: files[name] for name in names if name in files}


def encode_elsewhere(
    config: EncodeConfig, subset: Listing, shape: Shape, fingerprint: str
) -> Encoded:
    """One shard, in a process that opens corpus and VAE for itself."""
    vae, corpus = _opened(config)
    if vae.fingerprint != fingerprint:
        raise UserError(f"{config.vae} is another VAE on {platform.node()}; give a common --vae")
    return _encode(vae, corpus, subset, config, shape, lambda _: None)


@functools.lru_cache(maxsize=1)
def _opened(config: EncodeConfig) -> tuple[Vae, Corpus]:
    return _load(config), open_corpus(config.corpus)


def _load(config: EncodeConfig) -> Vae:
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False  # full float32: the latents are made once
    torch.backends.cudnn.deterministic = True  # a resumed run writes the same bytes
    return load_vae(config.vae, pick_device(config.device))


def _encode(
    vae: Vae, corpus: Corpus, subset: Listing, config: EncodeConfig, shape: Shape, tick: Tick
) -> Encoded:
    """The latents of one shard's images."""
    out = np.empty((len(subset), 2, 2, *shape), dtype=np.float16)
    digests = list(subset.digests)
    samples = _digested(corpus.fetch(subset.places), digests)
    taker = f"the VAE {config.vae}"
    images = decode_images(samples, config.image_size, config.workers, vae.in_channels, taker)
    start = 0
    for batch in in_background(batched(images, config.batch)):
        stop = start + len(batch)
        places = subset.places[start:stop]
        # The mirror image passes through the VAE too: its encoder is not mirror-symmetric.
        for kind, values in enumerate(_posteriors(vae, to_unit(batch), config.batch)):
            out[start:stop, :, kind] = _to_half(values, places, ("mean", "deviation")[kind])
        start = stop
        tick(len(batch))
    return out, digests


def _digested(samples: Iterable[Sample], digests: list[str | None]) -> Iterator[Sample]:
    """The samples, checked against their digests; those that are unknown are filled in."""
    for row, sample in enumerate(verified(samples, tuple(digests))):
        if digests[row] is None and sample.data is not None:
            digests[row] = hashlib.sha256(sample.data).hexdigest()
        yield sample


def _posteriors(vae: Vae, images: torch.Tensor, batch: int) -> list[torch.Tensor]:
    """Means and deviations [n, 2, C, h, w] of images [n, C, H, W] and their mirror images.

    Kernels round otherwise in a batch of another size, and where a CPU's threads share a batch out
    unevenly, in another place of it. So every batch has one size, a multiple of the threads, and
    is filled up where there are fewer views.
    """
    views = torch.stack([images, images.flip(-1)], dim=1).flatten(0, 1)
    threads = torch.get_num_threads() if vae.model.device.type == "cpu" else 1
    size = -(-batch // threads) * threads
    filled = pad(views, (0, 0) * 3 + (0, -len(views) % size))
    return [values[: len(views)].unflatten(0, (-1, 2)) for values in vae.encode(filled, size)]


def _to_half(values: torch.Tensor, places: list[Location], what: str) -> np.ndarray:
    """float16 of values [n, 2, C, h, w], or UserError naming the images whose are not finite."""
    full = values.cpu().numpy()
    with np.errstate(over="ignore"):
        half = full.astype(np.float16)
    finite = np.asarray(np.isfinite(half).reshape(len(half), -1).all(axis=1))
    if not finite.all():
        names = ", ".join(key for (key, _, _), good in zip(places, finite, strict=True) if not good)
        why = (
            "beyond float16's 65,504"
            if np.isfinite(full).all()
            else "NaN or infinite; the VAE's weights are broken"
        )
        raise UserError(f"the latent {what} of these images is {why}: {names}")
    return half
