"""Class folders, whatever lies above them: which folder of a key is the image's class.

Scene sets come as ROOT/CLASS/IMAGE, but also below wrapping folders (UCMerced_LandUse/Images/CLASS)
and in splits (train/CLASS, val/CLASS). From the root downwards, a folder without images of its
own is looked through when it has a single subfolder, or subfolders that are all named as splits,
and every one of them holds folders again. The subfolders of where that ends are the classes;
folders inside a class are part of it.
"""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path

from data.corpus.base import key_of_path, path_of_key
from data.corpus.folder import is_folder, is_image_name

SPLITS = frozenset({"train", "training", "val", "valid", "validation", "test", "testing"})


def class_parents(keys: Iterable[str]) -> list[str]:
    """The folders whose subfolders are the classes: '' for the root, else keys of folders.

    Files not named as images are looked at only when none is.
    """
    keys = list(keys)
    named = [key for key in keys if is_image_name(key)] or keys
    below: dict[str, set[str]] = defaultdict(set)  # folder -> its subfolders with images
    direct: set[str] = set()  # folders with images of their own
    for folder in {key.rpartition("/")[0] for key in named}:
        direct.add(folder)
        while folder:
            parent = folder.rpartition("/")[0]
            below[parent].add(folder)
            folder = parent
    return _parents("", below, direct)


def _parents(folder: str, below: dict[str, set[str]], direct: set[str]) -> list[str]:
    inner = sorted(below.get(folder, ()))
    if folder not in direct and inner and all(below.get(name) for name in inner):
        splits = all(name.rpartition("/")[2].lower() in SPLITS for name in inner)
        if splits or len(inner) == 1:
            return [found for name in inner for found in _parents(name, below, direct)]
    return [folder]


def split_key(key: str, parents: Sequence[str]) -> tuple[str, str]:
    """(class, path below the class folder) of a key; ('', key) when it is in no class."""
    for parent in parents:
        start = f"{parent}/" if parent else ""
        if key.startswith(start):
            label, slash, rest = key[len(start) :].partition("/")
            if slash:
                return label, rest
    return "", key


def empty_classes(root: Path, parents: Sequence[str], labels: Iterable[str]) -> list[str]:
    """Class folders without a file, sorted."""
    there = {
        key_of_path(entry.name)
        for parent in parents
        for entry in os.scandir(root / path_of_key(parent) if parent else root)
        if is_folder(entry) and not entry.name.startswith(".")
    }
    return sorted(there - set(labels)) if parents == [""] or there else []
