"""Reference sets: labelled scenes in class folders, ROOT/CLASS/IMAGE (D_ref).

UC Merced, NWPU-RESISC45, AID, WHU-RS19 and RSD46-WHU all come in this shape. The label of an
image is the first folder of its key; folders inside a class are part of that class.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from data.corpus import FolderCorpus, Location, key_of_path
from data.errors import UserError


@dataclass(frozen=True)
class Scenes:
    """The listing of a reference set.

    Attributes:
        root: the folder.
        locations: (key, shard, row) of every file in a class folder, by key. Nothing is left
            out for its name: what is no image is for the decoder to reject.
        labels: class of each location.
        empty: class folders without a file.
        loose: keys of files directly in the root, which have no class.
        identity: digest of keys and sizes.
    """

    root: Path
    locations: list[Location]
    labels: list[str]
    empty: list[str]
    loose: list[str]
    identity: str

    @property
    def classes(self) -> list[str]:
        """Names of the classes that have files, sorted."""
        return sorted(set(self.labels))


def open_scenes(root: Path | str) -> Scenes:
    """List a folder of class folders.

    Raises:
        UserError: no such folder, no class folders in it, or no file in any of them.
    """
    root = Path(root)
    if not root.is_dir():
        raise UserError(f"{root}: no such folder; expected ROOT/CLASS/IMAGE")
    folders = sorted(
        key_of_path(entry.name)
        for entry in os.scandir(root)
        if entry.is_dir() and not entry.name.startswith(".")
    )
    if not folders:
        raise UserError(
            f"{root}: no class folders in it; expected ROOT/CLASS/IMAGE, and --reference ROOT"
        )
    corpus = FolderCorpus(root)
    locations: list[Location] = []
    labels: list[str] = []
    loose: list[str] = []
    try:
        listing = [
            (key, shard, row)
            for shard in corpus.shards()
            for row, key in enumerate(corpus.batch(shard).keys)
        ]
    except UserError:  # no file at all
        listing = []
    for key, shard, row in listing:
        label, slash, _ = key.partition("/")
        if slash:
            locations.append((key, shard, row))
            labels.append(label)
        else:
            loose.append(key)
    if not locations:
        raise UserError(f"{root}: {len(folders)} class folders, but no file in any of them")
    empty = sorted(set(folders) - set(labels))
    return Scenes(root, locations, labels, empty, loose, corpus.identity())
