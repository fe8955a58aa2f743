"""The files of a latent store, and which images it has.

`latents-00000.npy` holds n x 2 x 2 x C x h x w float16, [image, mirror image] x [posterior mean,
standard deviation], NOT scaled; `latents-00000.parquet` the n keys, the digests (SHA-256) of the
images' bytes, and a checksum (CRC-32) of each image's latents and of its mirror image's, which are
held against what is read: files of hundreds of gigabytes are not hashed before every use. Storing
the posterior keeps the sampling noise fresh at every step, and storing the mirror image keeps the
flip (a mirrored latent is not the latent of the mirrored image).

A store belongs to a corpus, a VAE and an image size, and grows: images that it lacks are written
to new shards. Stores of version 0.1 hold one subset, and keys without digests. Light to import:
no torch.
"""

from __future__ import annotations

import hashlib
import json
import re
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from core.atomic import atomic_path
from core.errors import UserError
from core.stage import Stage, digest_of, fingerprint, read_manifest
from dit.latents.statistics import Moments, moments
from dit.vae.autoencoder import VaeInfo
from dit.vae.listing import Listing, read_subset

Shape = tuple[int, int, int]  # (C, h, w) of a latent
STAGE = "dit.encode"
_CONTENTS = pa.schema(
    [
        ("key", pa.string()),
        ("digest", pa.string()),
        ("crc", pa.uint32()),
        ("crc_mirror", pa.uint32()),
    ]
)
_MOMENTS = b"moments"  # Parquet metadata of a shard


def shard_names(index: int) -> tuple[str, str]:
    """File names of shard `index`: the latents and their keys."""
    return f"latents-{index:05d}.npy", f"latents-{index:05d}.parquet"


def indices_of(names: Sequence[str]) -> list[int]:
    """The indices of the shards that have files of these names, ascending."""
    found = [re.fullmatch(r"latents-(\d{5,})\.(npy|parquet)", name) for name in names]
    return sorted({int(match[1]) for match in found if match})


@dataclass(frozen=True)
class Shard:
    """A complete shard. It holds no file open: a large store has more shards than a process may.

    Attributes:
        index: its place in the store.
        path: of the latents.
        contents: n rows of key, digest, crc and crc_mirror (null: unknown).
        moments: of the latents; None in stores that do not record them.
    """

    index: int
    path: Path
    contents: pa.Table
    moments: Moments | None

    def __len__(self) -> int:
        return self.contents.num_rows

    def open(self) -> NDArray[np.float16]:
        """The latents, float16 [n, 2, 2, C, h, w], memory-mapped: an open file."""
        return np.load(self.path, mmap_mode="r")


def read_shard(folder: Path, index: int, shape: Shape) -> Shard:
    """Raises UserError when a shard is missing, truncated or of another shape.

    What the system refuses (too many open files, a drive that is away) is raised as it is: it says
    nothing about the shard, which must not be taken for damaged and made again.
    """
    array_name, table_name = shard_names(index)
    path = folder / array_name
    again = f"run the dit.encode command of its images, --out {folder}, again; it repairs the shard"
    try:
        latents = np.load(path, mmap_mode="r")  # refuses a truncated file
        table = pq.read_table(folder / table_name)
        keys, there = table["key"], table.column_names
        columns = {n: table[n] if n in there else pa.nulls(len(keys)) for n in _CONTENTS.names}
        contents = pa.table(columns).cast(_CONTENTS)
    except FileNotFoundError as error:
        raise UserError(f"{error.filename or path}: missing shard; {again}") from None
    except (ValueError, OSError, EOFError, KeyError, pa.ArrowException) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise
        raise UserError(f"{path}: damaged shard ({error}); {again}") from None
    expected = (len(keys), 2, 2, *shape)
    if latents.shape != expected or latents.dtype != np.float16:
        raise UserError(
            f"{path}: {latents.dtype} {latents.shape}, expected float16 {expected}; {again}"
        )
    stored = (table.schema.metadata or {}).get(_MOMENTS)
    return Shard(index, path, contents, None if stored is None else json.loads(stored))


def write_shard(
    folder: Path,
    index: int,
    keys: Sequence[str],
    digests: Sequence[str | None],
    latents: NDArray[np.float16],
) -> Moments:
    """Write latents, then keys: a shard is there when its keys are. Returns their moments."""
    array_name, table_name = shard_names(index)
    with atomic_path(folder / array_name) as temporary, open(temporary, "wb") as stream:
        np.save(stream, latents)
    sums = moments(latents)
    crcs = [[zlib.crc32(view) for view in views] for views in np.ascontiguousarray(latents)]
    checksums = np.array(crcs, np.uint32).reshape(-1, 2)
    contents = pa.table([keys, digests, *checksums.T], schema=_CONTENTS)
    table = contents.replace_schema_metadata({_MOMENTS: json.dumps(sums).encode()})
    with atomic_path(folder / table_name) as temporary:
        pq.write_table(table, temporary, compression="zstd")
    return sums


def complete_shards(folder: Path, shape: Shape) -> list[Shard]:
    """The shards in a folder that can be used, finished store or not."""
    shards = []
    for index in indices_of([path.name for path in folder.glob("latents-*")]):
        try:
            shard = read_shard(folder, index, shape)
        except UserError:  # it is made again
            continue
        if shard.moments is not None:
            shards.append(shard)
    return shards


def find_rows(folder: Path, shards: Sequence[Shard], subset: Listing) -> NDArray[np.int64]:
    """The store's row of each image of a subset, int64 [n]; -1: not there.

    Rows count through the shards in their order. Raises UserError when the store has another
    image under a name.
    """
    contents = pa.concat_tables([shard.contents for shard in shards] or [_CONTENTS.empty_table()])
    found = pc.index_in(pa.array(subset.keys), value_set=contents["key"])
    there = contents["digest"].take(found)
    asked = pa.array(subset.digests, pa.string())
    differing = pc.fill_null(pc.not_equal(there, asked), False)
    if pc.any(differing).as_py():
        at = pc.index(differing, True).as_py()
        raise UserError(
            f"{folder}: holds the latents of another image under the name '{subset.keys[at]}' "
            f"(SHA-256 {there[at].as_py()[:12]}, the subset's is {asked[at].as_py()[:12]}); a "
            "store belongs to one corpus; choose another folder, or delete this one and encode it "
            "again"
        )
    return pc.fill_null(found, -1).to_numpy().astype(np.int64)


class StoreStage(Stage):
    """The stage of a store, which is done for a subset when it has all of the subset's images.

    Args:
        out: the store's folder.
        vae: the VAE.
        image_size: pixels; a multiple of the VAE's factor.
        subset: subset index whose images are wanted.
    """

    def __init__(self, out: Path, vae: VaeInfo, image_size: int, subset: Path) -> None:
        super().__init__(out, STAGE, {"image_size": image_size}, {"vae": vae.fingerprint})
        self.vae, self.shape, self._path = vae, vae.latent_shape(image_size), subset

    @cached_property
    def subset(self) -> Listing:
        return read_subset(self._path)

    def done(self) -> bool:
        if self.manifest.exists():
            self._compare(read_manifest(self.out), self.manifest)
            rows = find_rows(self.out, complete_shards(self.out, self.shape), self.subset)
            if lacking := int((rows < 0).sum()):
                print(
                    f"[{self.name}] {self.out}: {lacking:,} of {len(rows):,} images to add",
                    flush=True,
                )
                return False
        return super().done()


def open_shards(folder: Path) -> list[Shard]:
    """The shards of a finished store. Raises UserError when it is none, or one is damaged."""
    manifest = read_manifest(folder)
    if manifest["stage"] != STAGE:
        raise UserError(f"{folder}: made by {manifest['stage']}, not a latent store")
    summary = manifest["summary"]
    shape = tuple(summary["shape"])
    shards = [read_shard(folder, index, shape) for index in indices_of(list(manifest["files"]))]
    rows = sum(map(len, shards))
    if rows != summary["rows"]:
        raise UserError(f"{folder}: {rows} latents there, the manifest says {summary['rows']}")
    return shards


def subset_rows(folder: Path, shards: Sequence[Shard], subset: Path) -> NDArray[np.int64]:
    """The store's row of each image of a subset index. Raises UserError when some are lacking."""
    wanted = read_subset(subset)
    rows = find_rows(folder, shards, wanted)
    if (rows < 0).any():
        raise UserError(
            f"{folder}: lacks {int((rows < 0).sum()):,} of the {len(rows):,} images of {subset}, "
            f"the first '{wanted.keys[int(rows.argmin())]}'; add them: python -m dit.encode "
            f"--subset {subset} --out {folder}, with the --corpus and --vae of the store"
        )
    return rows


def latents_fingerprint(folder: Path, subset: Path | None) -> str:
    """What a training's latents are: of a subset the same whatever else the store has.

    It covers the VAE, the image size, and the names and bytes of the images in their order.
    """
    if subset is None:
        return str(fingerprint(folder, STAGE))  # every latent has a checksum of its own
    shards = open_shards(folder)
    rows = subset_rows(folder, shards, subset)
    contents = pa.concat_tables([shard.contents for shard in shards]).take(pa.array(rows))
    columns = contents["key"].to_pylist(), contents["digest"].to_pylist()
    lines = "\n".join(f"{key}\t{digest}" for key, digest in zip(*columns, strict=True))
    summary = read_manifest(folder)["summary"]
    return digest_of(
        {
            "vae": summary["vae"]["fingerprint"],
            "image_size": summary["image_size"],
            "images": hashlib.sha256(lines.encode()).hexdigest(),
        }
    )
