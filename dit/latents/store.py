"""The latent store as a training reads it; its files are described in dit.latents.shards."""

from __future__ import annotations

import contextlib
import os
import resource
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import psutil
import pyarrow as pa
import pyarrow.compute as pc
import torch
from numpy.typing import NDArray

from core.errors import UserError
from core.stage import read_manifest
from dit.latents.shards import open_shards, subset_rows
from dit.latents.statistics import moments, statistics
from dit.training.order import BatchPlan, Stream

MEAN, STD = 0, 1  # second axis of `posterior`
_RESIDENT_FRACTION = 0.5  # of the free memory that 'auto' may fill
_MEASURED = 1024  # images over which the spread of a subset's latents is measured


class LatentStore:
    """A finished latent store, or a subset's part of it, opened for reading.

    Args:
        folder: output of `python -m dit.encode`.
        subset: subset index whose images are taken, in its order; None: all, in the store's.
        resident: True: these latents in memory; False: memory-mapped (the operating system
            caches what it can); 'auto': in memory when they fit in half of what is free.

    Attributes:
        rows: number of images. shape: (C, h, w). scale: factor of the scaled latents.
        keys: the images' keys in order. vae: the VAE's record (fingerprint, scale, factor,
        channels). image_size: pixels. resident: bool. nbytes: size of these latents.

    Raises UserError when the store is unfinished or lacks images of the subset, and when a shard
    is missing, truncated or of another shape than the manifest says.
    """

    def __init__(
        self,
        folder: Path | str,
        subset: Path | None = None,
        resident: bool | Literal["auto"] = False,
    ) -> None:
        self.folder = Path(folder)
        shards = open_shards(self.folder)
        summary = read_manifest(self.folder)["summary"]
        self.vae: dict[str, Any] = summary["vae"]
        self.scale = float(self.vae["scale"])
        self.image_size = int(summary["image_size"])
        channels, height, width = summary["shape"]
        self.shape: tuple[int, int, int] = (channels, height, width)
        keys = [key for shard in shards for key in shard.contents["key"].to_pylist()]
        rows = np.arange(len(keys))
        if subset is not None:
            rows = subset_rows(self.folder, shards, subset)
        self.keys: Sequence[str] = [keys[row] for row in rows]
        self.rows = len(rows)
        self.nbytes = self.rows * 4 * int(np.prod(self.shape)) * 2
        _allow_open_files(len(shards))
        self._parts = [shard.open() for shard in shards]
        self._paths = [shard.path for shard in shards]
        self._starts = np.cumsum([0] + [len(part) for part in self._parts])
        self._rows = rows
        named = pa.concat_tables([shard.contents.select(["crc", "crc_mirror"]) for shard in shards])
        # -1: unknown, in a store of version 0.1.
        crcs = [pc.fill_null(column.cast(pa.int64()), -1).to_numpy() for column in named.columns]
        self._checksums: NDArray[np.int64] | None = np.stack(crcs, axis=1)
        self.resident = self.nbytes <= _free_memory() if resident == "auto" else bool(resident)
        if self.resident:
            self._parts, self._starts = [self._read(rows)], np.array([0, self.rows])
            self._rows, self._checksums = np.arange(self.rows), None  # checked on the way

    def __len__(self) -> int:
        return self.rows

    def check_vae(self, fingerprint: str) -> None:
        """Raise UserError unless the latents were made by the VAE with this fingerprint.

        The fingerprint covers the VAE's weights and its scale.
        """
        if fingerprint != self.vae["fingerprint"]:
            raise UserError(
                f"{self.folder}: its latents were made by another VAE or another scale "
                f"({self.vae['fingerprint'][:12]}, scale {self.scale:g}) than the one given "
                f"({fingerprint[:12]}); give the same --vae, or encode again"
            )

    def statistics(self) -> dict[str, Any]:
        """Mean and spread of at most 1,024 evenly spread images, see dit.latents.statistics."""
        chosen = np.unique(np.linspace(0, self.rows - 1, min(self.rows, _MEASURED)).astype(int))
        return statistics([moments(self._read(self._rows[chosen]))], self.scale)

    def _read(
        self, rows: NDArray[np.int64], side: NDArray[np.intp] | None = None
    ) -> NDArray[np.float16]:
        """Rows [b, 2, 2, C, h, w] of the parts; with `side` [b], one side of each.

        Raises UserError, naming the image, when they are not those that were written.
        """
        kept = (2, 2) if side is None else (2,)
        out = np.empty((len(rows), *kept, *self.shape), dtype=np.float16)
        part_of = np.searchsorted(self._starts, rows, side="right") - 1
        for part in np.unique(part_of):
            here = part_of == part
            at = rows[here] - self._starts[part]
            out[here] = self._parts[part][at if side is None else (at, side[here])]
        if self._checksums is not None:
            self._check(out, rows, side)
        return out

    def _check(
        self, found: NDArray[np.float16], rows: NDArray[np.int64], side: NDArray[np.intp] | None
    ) -> None:
        assert self._checksums is not None
        expected = self._checksums[rows]
        if side is None:
            crcs = np.array([[zlib.crc32(one) for one in both] for both in found]).reshape(-1, 2)
        else:
            expected = expected[np.arange(len(rows)), side]
            crcs = np.array([zlib.crc32(view) for view in found], np.int64)
        wrong = (crcs != expected) & (expected >= 0)
        for row in rows[wrong if side is not None else wrong.any(axis=1)]:
            key = self.keys[int(np.flatnonzero(self._rows == row)[0])]
            shard = int(np.searchsorted(self._starts, row, side="right")) - 1
            raise UserError(
                f"{self._paths[shard]}: damaged: the latents of '{key}' are not those that were "
                "written (CRC-32); delete the file and run the dit.encode command of its images "
                "again, which makes it anew"
            )

    def posterior(
        self, indices: NDArray[np.int64], flips: NDArray[np.bool_]
    ) -> NDArray[np.float16]:
        """Stored rows, float16 b x 2 x C x h x w ([mean, std], unscaled).

        Args:
            indices: rows, int [b] in 0..rows-1.
            flips: True takes the mirror image's latent, bool [b].
        """
        indices = np.asarray(indices, dtype=np.int64)
        if len(indices) and (indices.min() < 0 or indices.max() >= self.rows):
            raise IndexError(f"row out of range 0..{self.rows - 1}")
        return self._read(self._rows[indices], np.asarray(flips, dtype=bool).astype(np.intp))

    def read(
        self, indices: NDArray[np.int64], flips: NDArray[np.bool_], noise: torch.Tensor
    ) -> torch.Tensor:
        """Scaled posterior samples z = scale * (mean + std * noise), float32 b x C x h x w.

        Args:
            indices, flips: see `posterior`.
            noise: standard normal, float32 [b, C, h, w]; zeros give the posterior mean.

        Raises UserError, naming the images, when a stored latent is not finite.
        """
        stored = torch.from_numpy(self.posterior(indices, flips)).float()
        if not torch.isfinite(stored).all():
            bad = ~torch.isfinite(stored).flatten(1).all(1).numpy()
            names = ", ".join(self.keys[int(row)] for row in np.asarray(indices)[bad][:5])
            raise UserError(
                f"{self.folder}: latents that are not finite ({int(bad.sum())} in this batch: "
                f"{names}); the files are damaged, delete the folder and encode again"
            )
        return (stored[:, MEAN] + stored[:, STD] * noise).mul_(self.scale)


class LatentSource:
    """A latent store as the trainer's `Source`: unconditional, posterior sampled at every step."""

    def __init__(self, store: LatentStore) -> None:
        self.store = store

    @property
    def keys(self) -> Sequence[str]:
        return self.store.keys

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        return self.store.shape

    def describe(self) -> dict[str, Any]:
        """Fingerprint of the latents for checkpoints; see `dit.training.order.Source`."""
        return {
            "shape": list(self.store.shape),
            "scale": self.store.scale,
            "vae_fingerprint": self.store.vae["fingerprint"],
            "image_size": self.store.image_size,
        }

    def load(self, plan: BatchPlan) -> dict[str, torch.Tensor]:
        """{"x0": float32 [b, C, h, w]}, a function of the plan alone."""
        noise = plan.noise(self.latent_shape, Stream.POSTERIOR)
        return {"x0": self.store.read(plan.indices, plan.flips, noise)}


def _allow_open_files(count: int) -> None:
    """Raise this process's limit on open files, as far as the system lets it, for so many more."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = count + 512  # what libraries and loaders open
    if hard != resource.RLIM_INFINITY:
        wanted = min(wanted, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def _free_memory() -> float:
    """Bytes that one process of this node may fill with latents."""
    free = psutil.virtual_memory().available
    limit = Path("/sys/fs/cgroup/memory.max")  # a container's own limit, unknown to psutil
    used = Path("/sys/fs/cgroup/memory.current")
    with contextlib.suppress(OSError, ValueError):  # no control group, or no limit ("max")
        free = min(free, int(limit.read_text()) - int(used.read_text()))
    return _RESIDENT_FRACTION * max(free, 0) / int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
