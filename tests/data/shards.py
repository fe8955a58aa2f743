"""Small corpora in every form of shard, for the readers' tests."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

import pyarrow as pa

from tests.data.pictures import encode, scene
from world.write.convert import write_stream


def jpeg(seed: int = 0) -> bytes:
    """A small JPEG."""
    return encode(scene(seed), "JPEG")


def write_tar(path: Path, members: dict[str, bytes] | list[tuple[str, bytes]]) -> Path:
    """A tar of members in order, the same name more than once if it is so listed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for name, data in members.items() if isinstance(members, dict) else members:
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return path


def images(*data: bytes | None, paths: list[str | None] | None = None) -> pa.Array:
    """An image column as Hugging Face datasets keeps it."""
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    names = paths or [None] * len(data)
    return pa.array([{"bytes": d, "path": p} for d, p in zip(data, names, strict=True)], kind)


def write_arrow(path: Path, columns: dict[str, object] | pa.Table) -> Path:
    """An Arrow stream."""
    path.parent.mkdir(parents=True, exist_ok=True)
    return write_stream(path, columns if isinstance(columns, pa.Table) else pa.table(columns))


def samples(corpus):  # type: ignore[no-untyped-def]
    """All samples of a corpus, in order."""
    return [sample for shard in corpus.shards() for sample in corpus.read(shard)]
