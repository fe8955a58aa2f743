"""The latent store: every image's VAE posterior, and its mirror image's, on disk.

`latents-00000.npy` holds n x 2 x 2 x C x h x w float16, [image, mirror image] x [posterior mean,
standard deviation], NOT scaled; `latents-00000.parquet` holds the n keys. Storing the posterior
keeps the sampling noise fresh at every step, and storing the mirror image keeps the flip
(a mirrored latent is not the latent of the mirrored image). Written by `python -m dit.encode`.

Light to import: torch is loaded when latents are read.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from core.errors import UserError
from core.stage import read_manifest
from dit.training.order import Picks, Stream

if TYPE_CHECKING:
    import torch

IMAGE, MIRROR = 0, 1  # second axis of a shard
MEAN, STD = 0, 1  # third axis
_RESIDENT_SHARE = 0.5  # of the free memory that 'auto' may fill


def shard_names(index: int) -> tuple[str, str]:
    """File names of shard `index`: the latents and the keys."""
    return f"latents-{index:05d}.npy", f"latents-{index:05d}.parquet"


class LatentStore:
    """A finished latent store, opened for reading.

    Args:
        folder: output of `python -m dit.encode`.
        resident: True: the whole store in memory; False: memory-mapped (the operating system
            caches what it can); 'auto': in memory when it fits in half of what is free.

    Attributes:
        rows: number of images. shape: (C, h, w). scale: factor of the scaled latents.
        keys: the images' keys, in the subset's order. vae: the VAE's record (fingerprint, scale,
        factor, channels). image_size: pixels. resident: bool. nbytes: size on disk.

    Raises UserError when the store is unfinished, or a shard is missing, cut short or of
    another shape than the manifest says.
    """

    def __init__(self, folder: Path | str, resident: bool | Literal["auto"] = False) -> None:
        self.folder = Path(folder)
        manifest = read_manifest(self.folder)
        if manifest["stage"] != "dit.encode":
            raise UserError(f"{folder}: made by {manifest['stage']}, not a latent store")
        summary = manifest["summary"]
        self.fingerprint: str = manifest["fingerprint"]
        self.vae: dict[str, Any] = summary["vae"]
        self.scale = float(self.vae["scale"])
        self.image_size = int(summary["image_size"])
        self.rows = int(summary["rows"])
        channels, height, width = summary["shape"]
        self.shape: tuple[int, int, int] = (channels, height, width)
        self._shards: list[NDArray[np.float16]] = []
        keys: list[str] = []
        starts = [0]
        for index in range(int(summary["shards"])):
            array, names = self._open_shard(index)
            self._shards.append(array)
            keys.extend(names)
            starts.append(len(keys))
        if len(keys) != self.rows:
            raise UserError(f"{folder}: {len(keys)} latents there, the manifest says {self.rows}")
        self.keys: Sequence[str] = keys
        self._starts = np.asarray(starts, dtype=np.int64)
        self.nbytes = sum(array.nbytes for array in self._shards)
        self.resident = self.nbytes <= _free_memory() if resident == "auto" else bool(resident)
        if self.resident:
            self._shards = [np.array(array) for array in self._shards]

    def __len__(self) -> int:
        return self.rows

    def _open_shard(self, index: int) -> tuple[NDArray[np.float16], list[str]]:
        array_name, table_name = shard_names(index)
        path = self.folder / array_name
        again = f"run the dit.encode command that made {self.folder} again; it repairs the shard"
        try:
            array = np.load(path, mmap_mode="r")
            names = pq.read_table(self.folder / table_name, columns=["key"])["key"].to_pylist()
        except FileNotFoundError as error:
            raise UserError(f"{error.filename or path}: missing shard; {again}") from None
        except (ValueError, OSError, EOFError, pa.ArrowException) as error:
            raise UserError(f"{path}: damaged shard ({error}); {again}") from None
        expected = (len(names), 2, 2, *self.shape)
        if array.shape != expected or array.dtype != np.float16:
            raise UserError(
                f"{path}: {array.dtype} {array.shape}, expected float16 {expected}; {again}"
            )
        return array, names

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

    def check_image_size(self, image_size: int) -> None:
        """Raise UserError unless the store holds images of this size (pixels)."""
        if image_size != self.image_size:
            raise UserError(
                f"{self.folder}: latents of {self.image_size}-px images, not {image_size}; "
                f"encode again with --image-size {image_size} to another folder"
            )

    def check_subset(self, keys: Sequence[str]) -> None:
        """Raise UserError unless the store holds just these keys, in this order."""
        if len(keys) != self.rows:
            raise UserError(
                f"{self.folder}: holds {self.rows:,} images, the subset {len(keys):,}; it was "
                "encoded from another subset index"
            )
        for row, (have, want) in enumerate(zip(self.keys, keys, strict=True)):
            if have != want:
                raise UserError(
                    f"{self.folder}: row {row} is {have}, the subset has {want} there; it was "
                    "encoded from another subset index"
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
        side = np.asarray(flips, dtype=bool).astype(np.intp)
        out = np.empty((len(indices), 2, *self.shape), dtype=np.float16)
        shard_of = np.searchsorted(self._starts, indices, side="right") - 1
        for shard in np.unique(shard_of):
            here = shard_of == shard
            rows = indices[here] - self._starts[shard]
            out[here] = self._shards[shard][rows, side[here]]
        return out

    def read(
        self, indices: NDArray[np.int64], flips: NDArray[np.bool_], noise: torch.Tensor
    ) -> torch.Tensor:
        """Scaled posterior samples z = scale * (mean + std * noise), float32 b x C x h x w.

        Args:
            indices, flips: see `posterior`.
            noise: standard normal, float32 [b, C, h, w]; zeros give the posterior mean.

        Raises UserError, naming the images, when a stored latent is not finite.
        """
        import torch

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

    def load(self, picks: Picks) -> dict[str, torch.Tensor]:
        """{"x0": float32 [b, C, h, w]}, a function of the picks alone."""
        noise = picks.noise(self.latent_shape, Stream.POSTERIOR)
        return {"x0": self.store.read(picks.indices, picks.flips, noise)}


def _free_memory() -> float:
    """Bytes that one process of this node may fill with latents."""
    import psutil

    free = psutil.virtual_memory().available
    limit = Path("/sys/fs/cgroup/memory.max")  # a container's own limit, unknown to psutil
    used = Path("/sys/fs/cgroup/memory.current")
    with contextlib.suppress(OSError, ValueError):  # no control group, or no limit ("max")
        free = min(free, int(limit.read_text()) - int(used.read_text()))
    return _RESIDENT_SHARE * max(free, 0) / int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
