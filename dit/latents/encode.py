"""`python -m dit.encode`: the latents of a subset, each image and its mirror image, once.

Training then reads posterior means and standard deviations instead of running the VAE at every
step. Rows follow the subset index; shards are written whole, so a stopped run goes on where it
was.
"""

from __future__ import annotations

import functools
import json
import math
import platform
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from core.atomic import atomic_path
from core.engines import Engine, own_gpu, process_group, quiet_unless_main, ray_parts
from core.errors import UserError
from core.progress import progress
from core.settings import machine, parse, place, science, settings
from core.stage import Stage, fingerprint
from dit.latents.images import Place, batched, in_background, read_images
from dit.latents.store import shard_names
from dit.vae.autoencoder import SD_VAE, Vae, VaeInfo, describe_vae

if TYPE_CHECKING:
    import torch

    from data.corpus.base import Corpus

_MOMENTS = b"moments"  # Parquet metadata of a shard: its sums, for the statistics of the whole


@settings
class EncodeConfig:
    """Encode a subset of a corpus with a VAE."""

    corpus: str = place()
    """Corpus that the subset was chosen from, as prune.score takes it."""
    subset: Path
    """Subset index (Parquet) from python -m prune.select."""
    out: Path
    """Folder of the latent store."""
    vae: str = machine(SD_VAE)
    """VAE: a diffusers folder or a hub id. Its fingerprint, weights and scale, is recorded."""
    image_size: int = 256
    """Side to which images are resized and centre-cropped (pixels)."""
    shard_rows: int = 2048
    """Images in a shard file; a killed run loses at most one."""
    batch: int = machine(32)
    """Images encoded at a time (machine setting: memory)."""
    workers: int = machine(2)
    """Threads that decode images."""
    device: str = machine("auto")
    """Torch device: auto, cpu, cuda, cuda:1, ..."""
    engine: Engine = machine("local")
    """Where shards are made (machine setting). local: here, or by all processes of an `accelerate
    launch`, each on its GPU. ray: on a Ray cluster."""
    ray_address: str | None = machine(None)
    """The cluster's head: auto, host:port. Default: Ray started on this machine."""


def main(argv: Sequence[str] | None = None) -> int | None:
    config = parse(EncodeConfig, argv, prog="python -m dit.encode", description=__doc__ or "")
    for name in ("image_size", "shard_rows", "batch", "workers"):
        if getattr(config, name) < 1:
            raise UserError(f"--{name.replace('_', '-')} {getattr(config, name)}: at least 1")
    quiet_unless_main()
    info = describe_vae(config.vae)
    shape = info.latent_shape(config.image_size)
    if info.in_channels not in (3, 4):
        raise UserError(
            f"{config.vae}: takes {info.in_channels} bands; give a VAE of 3 (RGB), or of 4 for a "
            "corpus of chips with near infrared"
        )
    stage = Stage(
        config.out,
        "dit.encode",
        science(config),
        {"subset": fingerprint(config.subset), "vae": info.fingerprint},
    )
    if stage.done():
        return 0
    from data.corpus.base import keep_apart
    from data.corpus.specs import open_corpus
    from data.formats.index import read_index

    table, _ = read_index(config.subset)
    places: list[Place] = list(
        zip(*(table[name].to_pylist() for name in ("key", "shard", "row")), strict=True)
    )
    corpus = open_corpus(config.corpus)
    keep_apart(config.out, corpus, config.corpus)
    process_group().open(stage)
    shards = [
        places[start : start + config.shard_rows]
        for start in range(0, len(places), config.shard_rows)
    ]
    finished = [_moments_of(config.out, index, rows, shape) for index, rows in enumerate(shards)]
    done = sum(len(rows) for rows, have in zip(shards, finished, strict=True) if have)
    if done:
        print(f"[dit.encode] continuing: {done:,} of {len(places):,} images are there", flush=True)
    left = process_group().mine([index for index, have in enumerate(finished) if have is None])
    shown = process_group().main
    with progress(total=len(places), initial=done, name="encode", disable=not shown) as bar:
        for index, latents in _made(config, corpus, shards, left, shape, info.fingerprint, bar):
            keys = [row[0] for row in shards[index]]
            finished[index] = _write_shard(config.out, index, keys, latents)
    process_group().gather()
    for index, rows in enumerate(shards):  # what the others of a group made
        if finished[index] is None:
            finished[index] = _moments_of(config.out, index, rows, shape)
    statistics = _statistics([sums for sums in finished if sums is not None], info)
    summary = {
        "vae": info.record(),
        "image_size": config.image_size,
        "rows": len(places),
        "shape": list(shape),
        "shards": len(shards),
        "latent": statistics,
    }
    names = [name for index in range(len(shards)) for name in shard_names(index)]
    std = statistics["std"]
    stage.finish(
        summary, names, line=f"{len(places):,} images and their mirrors, latent std {std:.3f}"
    )
    if statistics["warning"]:
        print(f"warning: {statistics['warning']}", flush=True)
    return 0


def pick_device(name: str) -> str:
    """'auto' is CUDA where there is one, else the CPU; anything else is itself.

    Raises UserError for a device that is not there.
    """
    import torch

    if name == "auto":
        return own_gpu() if torch.cuda.is_available() else "cpu"
    try:
        torch.empty(1, device=name)
    except (RuntimeError, AssertionError) as error:  # no such device, or no memory left on it
        raise UserError(f"--device {name}: {str(error).splitlines()[0]}") from None
    return name


def _made(
    config: EncodeConfig,
    corpus: Corpus,
    shards: list[list[Place]],
    left: list[int],
    shape: tuple[int, int, int],
    fingerprint: str,
    bar: Any,
) -> Iterator[tuple[int, np.ndarray]]:
    """(index, latents) of the shards that are left."""
    if config.engine == "local":
        vae = _load(config) if left else None
        for index in left:
            assert vae is not None
            yield index, _encode_shard(vae, corpus, shards[index], config, shape, bar)
        return
    tasks = ((index, (config, shards[index], shape, fingerprint)) for index in left)
    for index, latents in ray_parts(
        encode_elsewhere, tasks, config.ray_address, gpus=config.device != "cpu"
    ):
        bar.update(len(latents))
        yield index, latents


def encode_elsewhere(
    config: EncodeConfig, rows: list[Place], shape: tuple[int, int, int], fingerprint: str
) -> np.ndarray:
    """Latents of one shard's images, in a process that opens corpus and VAE for itself."""
    vae, corpus = _opened(config)
    if vae.fingerprint != fingerprint:
        raise UserError(f"{config.vae} is another VAE on {platform.node()}; give a common --vae")
    return _encode_shard(vae, corpus, rows, config, shape, progress(name="encode", disable=True))


@functools.lru_cache(maxsize=1)
def _opened(config: EncodeConfig) -> tuple[Vae, Corpus]:
    from data.corpus.specs import open_corpus

    return _load(config), open_corpus(config.corpus)


def _load(config: EncodeConfig) -> Vae:
    import torch

    from dit.vae.autoencoder import load_vae

    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False  # full float32: the latents are made once
    torch.backends.cudnn.deterministic = True  # a resumed run writes the same bytes
    return load_vae(config.vae, pick_device(config.device))


def _encode_shard(
    vae: Vae,
    corpus: Corpus,
    rows: list[Place],
    config: EncodeConfig,
    shape: tuple[int, int, int],
    bar: Any,
) -> np.ndarray:
    """n x 2 x 2 x C x h x w float16 of one shard's images."""
    from dit.vae.autoencoder import to_unit

    out = np.empty((len(rows), 2, 2, *shape), dtype=np.float16)
    images = read_images(corpus, rows, config.image_size, config.workers, vae.in_channels)
    start = 0
    for batch in in_background(batched(images, config.batch)):
        stop = start + len(batch)
        pixels = to_unit(batch)
        # The mirror image passes through the VAE too: its encoder is not mirror-symmetric.
        for side, view in enumerate((pixels, pixels.flip(-1))):
            mean, std = vae.encode(view, config.batch)
            out[start:stop, side, 0] = _to_half(mean, rows[start:stop], "mean")
            out[start:stop, side, 1] = _to_half(std, rows[start:stop], "standard deviation")
        start = stop
        bar.update(len(batch))
    return out


def _to_half(values: torch.Tensor, rows: list[Place], what: str) -> np.ndarray:
    """float16, or UserError naming the images whose latents are not finite there."""
    full = values.cpu().numpy()
    with np.errstate(over="ignore"):
        half = full.astype(np.float16)
    finite = np.asarray(np.isfinite(half).reshape(len(half), -1).all(axis=1))
    if not finite.all():
        names = ", ".join(row[0] for row, good in zip(rows, finite, strict=True) if not good)
        kind = (
            "beyond float16's 65,504"
            if np.isfinite(full).all()
            else "NaN or infinite; the VAE's weights are broken"
        )
        raise UserError(f"the latent {what} of these images is {kind}: {names}")
    return half


def _write_shard(
    folder: Path, index: int, keys: list[str], latents: np.ndarray
) -> dict[str, list[float]]:
    """Write latents, then keys: a shard is there when its keys are. Returns its moments."""
    array_name, table_name = shard_names(index)
    with atomic_path(folder / array_name) as temporary, open(temporary, "wb") as stream:
        np.save(stream, latents)
    sums = _moments(latents)
    table = pa.table({"key": pa.array(keys, pa.string())})
    table = table.replace_schema_metadata({_MOMENTS: json.dumps(sums).encode()})
    with atomic_path(folder / table_name) as temporary:
        pq.write_table(table, temporary, compression="zstd")
    return sums


def _moments_of(
    folder: Path, index: int, rows: list[Place], shape: tuple[int, int, int]
) -> dict[str, list[float]] | None:
    """The moments of a shard that is there whole, else None."""
    array_name, table_name = shard_names(index)
    try:
        array = np.load(folder / array_name, mmap_mode="r")  # refuses a file cut short
        table = pq.read_table(folder / table_name)
        stored = (table.schema.metadata or {})[_MOMENTS]
    except (OSError, ValueError, EOFError, KeyError, pa.ArrowException):
        return None
    if array.shape != (len(rows), 2, 2, *shape) or array.dtype != np.float16:
        return None
    if table["key"].to_pylist() != [row[0] for row in rows]:
        return None
    return json.loads(stored)


def _moments(latents: np.ndarray) -> dict[str, list[float]]:
    """Per channel: count, sum of means, of squared means, of squared standard deviations."""
    channels = latents.shape[3]
    totals = np.zeros((4, channels))
    for row in latents:  # one image at a time: a shard in float64 would be four times its size
        mean, std = row[:, 0].astype(np.float64), row[:, 1].astype(np.float64)
        axes = (0, 2, 3)
        totals[0] += mean[:, 0].size
        totals[1] += mean.sum(axis=axes)
        totals[2] += np.square(mean).sum(axis=axes)
        totals[3] += np.square(std).sum(axis=axes)
    names = ("count", "mean", "mean2", "std2")
    return {name: total.tolist() for name, total in zip(names, totals, strict=True)}


def _statistics(parts: list[dict[str, list[float]]], info: VaeInfo) -> dict[str, Any]:
    """Mean and standard deviation of the scaled posterior samples, exact (no sampling).

    Var[mean + std * noise] = E[mean^2] + E[std^2] - E[mean]^2, over images and places.
    """
    count, mean, mean2, std2 = (
        np.sum([part[name] for part in parts], axis=0)
        for name in ("count", "mean", "mean2", "std2")
    )
    by_channel = np.sqrt((mean2 + std2) / count - np.square(mean / count)) * info.scale
    total = count.sum()
    centre = mean.sum() / total
    std = math.sqrt((mean2.sum() + std2.sum()) / total - centre**2) * info.scale
    warning = ""
    if not 0.5 <= std <= 2.0:
        warning = (
            f"the scaled latents have standard deviation {std:.3f}, far from 1: is the scale "
            f"{info.scale:g} the one this VAE was made with? A wrong scale ruins "
            "the diffusion training silently"
        )
    return {
        "std": round(std, 6),
        "mean": round(float(centre) * info.scale, 6),
        "posterior_std": round(math.sqrt(std2.sum() / total) * info.scale, 6),
        "channel_std": [round(float(value), 6) for value in by_channel],
        "warning": warning,
    }
