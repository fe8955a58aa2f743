"""Which files of a folder are the shards of a corpus."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

from core.errors import UserError
from data.corpus.base import path_of_key
from data.corpus.folder import IMAGES, walk

SUFFIXES = {".tar": "tar", ".arrow": "arrow", ".feather": "arrow", ".parquet": "parquet"}
_PACKED_TAR = re.compile(
    r"\.(tgz|tbz2?|txz|tzst|tar\.(gz|bz2?|xz|zstd?|lz4?|lzma|lzo|z|br))$", re.IGNORECASE
)
_UNFINISHED = re.compile(
    r"\.(tar|arrow|parquet)\.(part|partial|te?mp|crdownload|download|incomplete|aria2)$",
    re.IGNORECASE,
)
_ARCHIVES = (".zip", ".7z", ".rar")


def shard_files(folder: Path) -> list[Path] | None:
    """The shards in a folder and all folders below it, in the order of their paths.

    None for a folder of images: one with an image anywhere below it (beside images, a Parquet file
    is somebody's list), or with nothing that can be shards. What tools write beside their shards is
    none: the metadata of img2dataset's tars, and what begins with an underscore beside Parquet.

    Raises UserError for shards of several kinds, archives that must be unpacked first, a table of
    Delta Lake, and a tar that img2dataset has counted but that is not there.
    """
    found: dict[str, list[Path]] = {}
    packed: list[Path] = []
    archives: list[Path] = []
    for key, _ in walk(folder):
        path = folder / path_of_key(key)
        suffix, parts = path.suffix.lower(), PurePosixPath(key).parts
        if suffix in IMAGES:
            return None
        if _UNFINISHED.search(path.name):
            raise UserError(
                f"{path}: an unfinished download; fetch it to its end, or name the shards that "
                "count by a pattern"
            )
        if "_delta_log" in parts:
            raise UserError(
                f"{path.parent}: a table of Delta Lake, of whose files not all count; export it "
                "as Parquet, or name files by a pattern"
            )
        if _PACKED_TAR.search(path.name):
            packed.append(path)
        elif suffix in _ARCHIVES:
            archives.append(path)
        elif suffix in SUFFIXES and not (
            SUFFIXES[suffix] == "parquet" and any(part.startswith("_") for part in parts)
        ):
            found.setdefault(SUFFIXES[suffix], []).append(path)
    if "tar" in found and "parquet" in found:
        found["parquet"] = _without_metadata(found["parquet"], found["tar"])
    kinds = sorted(kind for kind, files in found.items() if files)
    if packed or (archives and not kinds):
        what = "a compressed tar is not read; decompress it first" if packed else "unpack it first"
        others = f", or name the files that count: '{folder}/*.{kinds[0]}'" if kinds else ""
        raise UserError(f"{(packed or archives)[0]}: {what}{others}")
    if len(kinds) > 1:
        kind = "tar" if "tar" in kinds else kinds[0]
        depth = len(found[kind][0].relative_to(folder).parts)
        pattern = f"{folder}/{'*/' * (depth - 1)}*.{kind}"
        raise UserError(
            f"{folder}: holds {' and '.join(f'.{kind}' for kind in kinds)} files; "
            f"say which: '{pattern}', or 'folder:{folder}' for a folder of images"
        )
    if not kinds:
        return None
    return sorted(found[kinds[0]], key=lambda path: os.fsencode(path.relative_to(folder)))


def one_snapshot(folder: Path, files: Sequence[Path]) -> None:
    """Raise UserError for the shards of several revisions in a cache of the Hugging Face hub."""
    snapshots = set()
    for path in files:
        parts = path.relative_to(folder).parts
        if "snapshots" in parts[:-2]:
            snapshots.add(Path(*parts[: parts.index("snapshots") + 2]))
    if len(snapshots) > 1:
        raise UserError(
            f"{folder}: holds {len(snapshots)} revisions of one data set; "
            f"name one: {folder / min(snapshots)}"
        )


def _without_metadata(parquet: Sequence[Path], tars: Sequence[Path]) -> list[Path]:
    """Parquet files that are not img2dataset's metadata of a tar (NNNNN.tar, NNNNN.parquet)."""
    stems = {path.with_suffix("") for path in tars}
    others = [path for path in parquet if path.with_suffix("") not in stems]
    for path in others:
        if path.with_name(f"{path.stem}_stats.json").exists():
            raise UserError(
                f"{path.with_suffix('.tar')}: no such file, but {path.name} beside it has its "
                f"metadata; fetch it again, or name the tars that are there: '{path.parent}/*.tar'"
            )
    return others
